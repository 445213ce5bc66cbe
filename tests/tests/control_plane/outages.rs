//! API servers that go, come back, and have forgotten.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use causeway_tests::proxy_bed::{NODE_IP, PORTS, Proxy, wait_until};
use netns_lab::control_plane::PORT;

use crate::site::{PATIENCE, Site};

const WHILE_AWAY: Duration = Duration::from_secs(2);

/// A site whose proxy serves these Services, of two endpoints each.
fn serving<const N: usize>(names: [&str; N]) -> (Site, Proxy, [SocketAddr; N]) {
    let site = Site::new(&[]);
    let mut indices = 0..;
    let targets = names.map(|name| site.put(name, indices.next().unwrap(), 2, PORTS[0]));
    let proxy = site.proxy();
    for target in targets {
        site.wait_for(&proxy, target, PORTS[0]);
    }
    (site, proxy, targets)
}

pub(crate) fn killed_and_restarted_it_is_caught_up_with() {
    let (mut site, proxy, [web, steady]) = serving(["web", "steady"]);
    site.plane.kill_server(0).unwrap();
    assert_eq!(site.failures(&[web, steady], WHILE_AWAY), 0);
    wait_until("complaint about the API server", PATIENCE, || {
        proxy.log().unwrap().contains("cannot be watched")
    })
    .unwrap();
    site.plane.start_server(0).unwrap();
    site.put("web", 0, 2, PORTS[1]);
    site.wait_for(&proxy, web, PORTS[1]);
    wait_until("word of the recovery", PATIENCE, || {
        proxy.log().unwrap().contains("can be watched again")
    })
    .unwrap();
    assert_eq!(site.failures(&[web, steady], WHILE_AWAY), 0);
}

/// The API server stays, and what it says while its storage is away is an error, not an empty list.
pub(crate) fn etcd_killed_and_restarted_takes_nothing_away() {
    let (mut site, proxy, [web, steady]) = serving(["web", "steady"]);
    site.plane.kill_etcd().unwrap();
    assert_eq!(site.failures(&[web, steady], WHILE_AWAY), 0);
    // Nor does a proxy that starts meanwhile, whether anything can be listed to it or not.
    proxy.kill().unwrap();
    let proxy = site.proxy();
    assert_eq!(site.failures(&[web, steady], WHILE_AWAY), 0);
    site.plane.start_etcd().unwrap();
    site.wait_until_it_takes_changes();
    site.put("web", 0, 2, PORTS[1]);
    site.wait_for(&proxy, web, PORTS[1]);
    assert_eq!(site.failures(&[web, steady], WHILE_AWAY), 0);
}

pub(crate) fn after_410_everything_is_listed_again() {
    let (mut site, proxy, [web, steady, gone]) = serving(["web", "steady", "gone"]);
    // While the proxy's server is away, another takes changes; then their history is lost: to
    // etcd by compaction, to the server because it only remembers what it saw.
    site.plane.kill_server(0).unwrap();
    let other = SocketAddr::from((NODE_IP, PORT + 1));
    let other = site.plane.add_server(other, &[]).unwrap();
    site.speak_to(other);
    site.put("web", 0, 2, PORTS[1]);
    site.delete_service("gone");
    site.plane.compact().unwrap();
    assert_eq!(site.failures(&[web, steady, gone], WHILE_AWAY), 0);
    site.plane.start_server(0).unwrap();
    site.wait_for(&proxy, web, PORTS[1]);
    wait_until("end of what left", PATIENCE, || site.is_silent(gone)).unwrap();
    let log = proxy.log().unwrap();
    assert!(log.contains("expired; listing again"), "{log}");
    assert_eq!(site.failures(&[web, steady], WHILE_AWAY), 0);
}

/// One name, two addresses, an API server at each, one etcd behind both.
pub(crate) fn of_two_servers_one_is_enough() {
    let first = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
    let mut site = Site::listening(first, &[]);
    let second = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    site.plane.add_server(second, &[]).unwrap();
    let config = std::fs::read_to_string(site.kubeconfig()).unwrap();
    let named = config.replace("[::1]", "api-servers");
    assert_ne!(named, config);
    std::fs::write(site.kubeconfig(), named).unwrap();

    let web = site.put("web", 0, 2, PORTS[0]);
    let proxy = site.proxy_with_hosts("::1 api-servers\n127.0.0.1 api-servers\n");
    site.wait_for(&proxy, web, PORTS[0]);
    for (killed, left, port) in [(0, 1, PORTS[1]), (1, 0, PORTS[0])] {
        site.plane.kill_server(killed).unwrap();
        assert_eq!(site.failures(&[web], WHILE_AWAY), 0);
        site.speak_to(left);
        site.put("web", 0, 2, port);
        site.wait_for(&proxy, web, port);
        site.plane.start_server(killed).unwrap();
    }
}
