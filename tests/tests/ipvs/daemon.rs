//! The daemon in this mode.

use causeway_proxy::backend::ipvs::DEVICE;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, get, wait_for, wait_until};
use netns_lab::apiserver::Resource;
use nodekit::ipvs::IpvsSocket;
use nodekit::route::index_of;
use nodekit::sysctl;

use crate::changes::PATIENCE;

#[test]
fn it_serves_and_another_mode_leaves_nothing_of_it() {
    let bed = Bed::new().unwrap();
    let web = (cluster_ip(0), 80).into();
    let store = &bed.store;
    let services = [service("web", cluster_ip(0))];
    store.seed(Resource::Service, services).unwrap();
    let slices = [slice("web", [endpoint_ip(0, 0, 10)], PORTS[0])];
    store.seed(Resource::EndpointSlice, slices).unwrap();
    // As it was on a node where another daemon in this mode had not been yet.
    let conntrack = "net/ipv4/vs/conntrack".parse::<sysctl::Key>().unwrap();
    let tracked = || sysctl::read(&conntrack).unwrap();
    assert_eq!(bed.netns.run(tracked).unwrap(), "0");
    let proxy = bed.proxy(&["--proxy-mode=ipvs"]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    assert_eq!(bed.netns.run(tracked).unwrap(), "1");
    let mode = get(&bed.netns, "127.0.0.1:10249".parse().unwrap(), "/proxyMode");
    assert_eq!(mode.unwrap().2, "ipvs");
    assert!(proxy.terminate().unwrap().success());

    let proxy = bed.proxy(&["--proxy-mode=nftables"]).unwrap();
    wait_until("end of what IPVS has", PATIENCE, || {
        let left = || IpvsSocket::open().unwrap().services().unwrap().len();
        let device = || index_of(DEVICE).unwrap();
        bed.netns.run(left).unwrap() == 0 && bed.netns.run(device).unwrap().is_none()
    })
    .unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    assert!(proxy.terminate().unwrap().success());
}
