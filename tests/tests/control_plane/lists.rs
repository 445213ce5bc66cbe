//! Lists, changes and silence, as a real API server has them.

use std::net::IpAddr;
use std::time::Duration;

use causeway_tests::proxy_bed::objects::{cluster_ip, service};
use causeway_tests::proxy_bed::{PORTS, get, wait_until};

use crate::site::{PATIENCE, Site};

/// More than a page of what the proxy lists at once, which is 250.
const SERVICES: usize = 300;

pub(crate) fn streamed_lists_and_changes_reach_the_kernel() {
    let site = Site::new(&[]);
    let web = site.put("web", 0, 3, PORTS[0]);
    let gone = site.put("gone", 1, 2, PORTS[0]);
    let proxy = site.proxy();
    for target in [web, gone] {
        site.wait_for(&proxy, target, PORTS[0]);
    }
    site.put("web", 0, 3, PORTS[1]);
    site.wait_for(&proxy, web, PORTS[1]);
    let late = site.put("late", 2, 1, PORTS[0]);
    site.wait_for(&proxy, late, PORTS[0]);
    site.delete_service("gone");
    wait_until("end of a deleted Service", PATIENCE, || {
        site.is_silent(gone)
    })
    .unwrap();

    // All that with nothing but the role in deploy/kubernetes, and in the mode it prefers.
    let log = proxy.log().unwrap();
    for trouble in [
        "forbidden",
        "cannot be watched",
        "no streaming lists",
        "not to be had",
    ] {
        assert!(!log.contains(trouble), "{trouble}: {log}");
    }
    let metrics = ([127, 0, 0, 1], 10249).into();
    let page = get(&site.bed.netns, metrics, "/metrics").unwrap().2;
    assert!(!page.contains("causeway_object_unusable_fields{"), "{page}");
    assert!(proxy.terminate().unwrap().success());
}

pub(crate) fn a_server_without_streamed_lists_is_listed_by_pages() {
    let site = Site::new(&["--feature-gates=WatchList=false"]);
    for index in 1..SERVICES {
        let name = format!("service-{index}");
        site.apply(&service(&name, cluster_ip(index)));
    }
    // The last by name, and so the last of the list.
    let last = site.put("zulu", 0, 2, PORTS[0]);
    let proxy = site.proxy();
    site.wait_for(&proxy, last, PORTS[0]);
    let log = proxy.log().unwrap();
    assert!(log.contains("no streaming lists"), "{log}");
    // Those in between are there, too: without endpoints they are refused, and not unknown.
    for index in [1, SERVICES / 2, SERVICES - 1] {
        let target = (IpAddr::from(cluster_ip(index)), 80).into();
        let refused = move || std::net::TcpStream::connect_timeout(&target, Duration::from_secs(1));
        wait_until("refusal", PATIENCE, || {
            let error = site.bed.netns.run(refused).unwrap().unwrap_err();
            error.kind() == std::io::ErrorKind::ConnectionRefused
        })
        .unwrap();
    }
    site.put("zulu", 0, 2, PORTS[1]);
    site.wait_for(&proxy, last, PORTS[1]);
}

/// Watches are given up after 75 s of silence: an API server that works is never so long silent.
pub(crate) fn bookmarks_keep_a_quiet_watch_alive() {
    let site = Site::new(&[]);
    let web = site.put("web", 0, 2, PORTS[0]);
    let proxy = site.proxy();
    site.wait_for(&proxy, web, PORTS[0]);
    std::thread::sleep(Duration::from_secs(90));
    let log = proxy.log().unwrap();
    assert!(!log.contains("cannot be watched"), "{log}");
    site.put("web", 0, 2, PORTS[1]);
    site.wait_for(&proxy, web, PORTS[1]);
}
