//! The same network under podman.

use causeway_cri_tests::containerd::{NETWORKS, PLUGINS};
use causeway_cri_tests::network;
use causeway_cri_tests::node::Node;
use causeway_cri_tests::podman::Podman;

#[test]
fn podman_runs_and_restarts_containers() {
    let node = Node::new().unwrap();
    network::install(&node, PLUGINS).unwrap();
    let conflist = network::combined(&["10.1.0.0/24"]).to_string();
    node.write(&format!("{NETWORKS}/10-pods.conflist"), &conflist)
        .unwrap();
    let podman = Podman::install(&node).unwrap();

    podman.serve("web", &[]).unwrap();
    podman.serve("other", &[]).unwrap();
    let address = podman
        .run(&["inspect", "--format={{.NetworkSettings.IPAddress}}", "web"])
        .unwrap();
    let url = format!("http://{}/index.html", address.trim());
    let page = podman.run(&["exec", "other", "wget", "-q", "-O-", &url]);
    assert_eq!(page.unwrap(), "web\n");

    // Restarted, it gets a new namespace.
    podman.run(&["restart", "--time=0", "web"]).unwrap();
    let page = podman.run(&["exec", "web", "hostname"]);
    assert_eq!(page.unwrap(), "web\n");
    for name in ["web", "other"] {
        podman.remove(name).unwrap();
    }
    network::nothing_left(&node).unwrap();
}
