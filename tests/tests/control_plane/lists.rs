//! Lists, changes and silence, as a real API server has them.

use std::net::IpAddr;
use std::time::Duration;

use causeway_tests::proxy_bed::objects::{cluster_ip, service};
use causeway_tests::proxy_bed::{PORTS, get, wait_until};

use crate::site::{PATIENCE, Site};

/// More than a page of what the proxy lists at once, which is 250.
const SERVICES: usize = 300;
/// Those that are looked at: the ends of both pages. (Before them there is `kubernetes`.)
const SEEN: [usize; 4] = [0, 248, 249, SERVICES - 1];

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
    for index in 0..SERVICES {
        // Lists are sorted by name.
        let name = format!("service-{index:03}");
        if SEEN.contains(&index) {
            site.put(&name, index, 1, PORTS[0]);
        } else {
            site.create(&service(&name, cluster_ip(index)));
        }
    }
    let proxy = site.proxy();
    for index in SEEN {
        let target = (IpAddr::from(cluster_ip(index)), 80).into();
        site.wait_for(&proxy, target, PORTS[0]);
    }
    let log = proxy.log().unwrap();
    assert!(log.contains("no streaming lists"), "{log}");
    let last = site.put("service-299", SERVICES - 1, 1, PORTS[1]);
    site.wait_for(&proxy, last, PORTS[1]);
}

/// Watches are given up after 75 s of silence: an API server that works is never so long silent,
/// though no Service, endpoint or Node changes.
pub(crate) fn bookmarks_keep_a_quiet_watch_alive() {
    let site = Site::new(&[]);
    let web = site.put("web", 0, 2, PORTS[0]);
    let proxy = site.proxy();
    site.wait_for(&proxy, web, PORTS[0]);
    std::thread::sleep(Duration::from_secs(90));
    let log = proxy.log().unwrap();
    for trouble in ["cannot be watched", "nothing was heard for long"] {
        assert!(!log.contains(trouble), "{log}");
    }
    site.put("web", 0, 2, PORTS[1]);
    site.wait_for(&proxy, web, PORTS[1]);
}
