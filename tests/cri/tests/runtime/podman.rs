//! The same network under podman.

use causeway_cri_tests::network::{self, Network};
use causeway_cri_tests::node::Node;
use causeway_cri_tests::podman::Podman;

#[test]
fn podman_runs_containers_with_ports_of_the_host() {
    let node = Node::new().unwrap();
    let outside = network::outside(&node).unwrap();
    network::install(&node, Network::Installed("10.1.0.0/24")).unwrap();
    let podman = Podman::install(&node).unwrap();

    podman.serve("web", &["--publish=8080:80"]).unwrap();
    podman.serve("other", &[]).unwrap();
    let address = podman
        .run(&["inspect", "--format={{.NetworkSettings.IPAddress}}", "web"])
        .unwrap();
    let url = format!("http://{}/index.html", address.trim());
    let page = podman.run(&["exec", "other", "wget", "-q", "-O-", &url]);
    assert_eq!(page.unwrap(), "web\n");
    assert_eq!(network::fetch(&outside, 8080).unwrap(), "web");

    // Restarted, it gets a new namespace and keeps its port.
    podman.run(&["restart", "--time=0", "web"]).unwrap();
    podman.wait("web").unwrap();
    assert_eq!(network::fetch(&outside, 8080).unwrap(), "web");
    for name in ["web", "other"] {
        podman.remove(name).unwrap();
    }
    network::fetch(&outside, 8080).unwrap_err();
    network::nothing_left(&node).unwrap();
}
