//! A kernel that cannot have programs see packets. Not among the tests that `cargo test` runs: they
//! need a kernel that lacks something, and `scripts/vm` runs them under one.

use std::time::Duration;

use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, get, wait_for, wait_until};
use netns_lab::apiserver::Resource;

/// An emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

const LACKS: &str = "filters of type bpf, for packets that come to an interface (Linux 4.4, module \
                     cls_bpf; Linux 6.6 has TCX instead)";

#[test]
fn the_kernel_s_lack_is_named_and_auto_takes_nftables() {
    let bed = Bed::new().unwrap();
    let cell = Cell::new();
    let [cgroup, pins] = &cell.flags();
    let mut refused = bed.proxy(&["--proxy-mode=ebpf", cgroup, pins]).unwrap();
    assert_eq!(refused.wait(PATIENCE).unwrap().code(), Some(1));
    let told = format!(
        "causeway-proxy: mode ebpf: this node lacks\n  {LACKS}\n--proxy-mode nftables works here\n"
    );
    let log = refused.log().unwrap();
    assert!(log.contains(&told), "{log}");

    let web = (cluster_ip(0), 80).into();
    let store = &bed.store;
    store
        .seed(Resource::Service, [service("web", cluster_ip(0))])
        .unwrap();
    let endpoints = slice("web", [endpoint_ip(0, 0, 10)], PORTS[0]);
    store.seed(Resource::EndpointSlice, [endpoints]).unwrap();
    let proxy = bed.proxy(&["--proxy-mode=auto", cgroup, pins]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE)
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    let metrics = ([127, 0, 0, 1], 10249).into();
    wait_until("mode nftables", PATIENCE, || {
        get(&bed.netns, metrics, "/proxyMode").is_ok_and(|answer| answer.2 == "nftables")
    })
    .unwrap();
    let log = proxy.log().unwrap();
    assert!(log.contains(LACKS), "{log}");
    assert_eq!(
        log.matches("mode ebpf is not to be had").count(),
        1,
        "{log}"
    );
    assert!(proxy.terminate().unwrap().success());
}
