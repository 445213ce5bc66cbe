//! Packets between a client and a pod that no Service is concerned with, given to the pod at once where that is
//! wanted and nobody on the way may want to see them.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_proxy::backend::ebpf::Options;
use causeway_tests::packet_bed::{self, POD_PORT};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use nodekit::route::Handle;
use nodekit::sysctl::{self, Key};

use crate::node::{Node, PATIENCE, on_a_node};
use crate::peers::{options, pod, sent, start_with};
use crate::ways::nft;
use crate::world::World;

/// How many frames the node sends by the bridge while a client talks to the pod itself.
fn sent_for(node: &Node<'_>, family: Family) -> u64 {
    let before = sent(node);
    let to = SocketAddr::new(pod(node.bed).ip(family), POD_PORT);
    let client = &node.bed.client;
    // Who has no more to say is seen by the longer way, which is the stack's.
    let datagram = || packet_bed::udp(client.ip(family), to, PATIENCE, 100).unwrap();
    let seen = [client.tcp(to).unwrap(), client.netns.run(datagram).unwrap()];
    for seen in seen {
        assert_eq!((seen.pod, seen.client), (3, client.ip(family)));
    }
    sent(node) - before
}

fn wait_for(node: &Node<'_>, what: &str, expected: impl Fn(u64) -> bool) {
    for family in Family::ALL {
        let is_so = || expected(sent_for(node, family));
        wait_until(&format!("{what} ({family:?})"), PATIENCE, is_so).unwrap();
    }
}

fn wait_for_straight(node: &Node<'_>, why: &str) {
    wait_for(node, &format!("straight to the pod: {why}"), |sent| {
        sent == 0
    });
}

/// Whether it still is once the daemon, which looks every 100 ms, has looked.
fn stays_straight(node: &Node<'_>, why: &str) {
    std::thread::sleep(Duration::from_secs(1));
    wait_for_straight(node, why);
}

fn wait_for_stack(node: &Node<'_>, why: &str) {
    wait_for(node, &format!("by the stack: {why}"), |sent| sent >= 5);
}

fn options_with_routing(node: &Node<'_>) -> Options {
    Options {
        host_routing: true,
        ..options(node)
    }
}

#[test]
fn what_no_service_is_concerned_with_goes_straight_unless_somebody_filters_it() {
    on_a_node(|node| {
        let _proxy = start_with(node, &options_with_routing(node), &mut World::empty());
        wait_for_straight(node, "nobody filters");
        let netns = &node.bed.node.netns;
        for (hook, rule) in [
            ("forward", "meta l4proto tcp accept"),
            ("prerouting", "counter"),
            ("postrouting", "counter"),
        ] {
            let chain = format!("{{ type filter hook {hook} priority 0; }}");
            nft(netns, &["add", "table", "inet", "somebody"]);
            nft(netns, &["add", "chain", "inet", "somebody", "sees", &chain]);
            stays_straight(node, "a chain without a rule");
            nft(netns, &["add", "rule", "inet", "somebody", "sees", rule]);
            wait_for_stack(node, hook);
            nft(netns, &["delete", "table", "inet", "somebody"]);
            wait_for_straight(node, "nobody filters any more");
        }
        let chain = "{ type filter hook input priority 0; }";
        nft(netns, &["add", "table", "ip", "own"]);
        nft(netns, &["add", "chain", "ip", "own", "sees", chain]);
        nft(netns, &["add", "rule", "ip", "own", "sees", "counter"]);
        stays_straight(node, "what is for the node is something else");
    });
}

#[test]
fn what_no_service_is_concerned_with_takes_the_stack_by_default() {
    on_a_node(|node| {
        let proxy = start_with(node, &options_with_routing(node), &mut World::empty());
        wait_for_straight(node, "as the option says");
        drop(proxy);
        let mut world = World::empty();
        let mut proxy = node.start_with(&world, &options(node));
        proxy.sync(&mut world);
        wait_for_stack(node, "without the option");
    });
}

#[test]
fn an_interface_with_a_strict_filter_of_sources_has_no_packets_that_go_straight() {
    on_a_node(|node| {
        let strict = || {
            let mut links = Handle::open().unwrap();
            let way = links.route_to(node.bed.client.ip(Family::V4)).unwrap();
            let link = links.link_by_index(way.link.unwrap()).unwrap();
            let key = Key::ipv4_conf(&link.name, "rp_filter").unwrap();
            sysctl::write(&key, "1").unwrap();
        };
        let _proxy = start_with(node, &options_with_routing(node), &mut World::empty());
        wait_for_straight(node, "no filter");
        node.bed.node.netns.run(strict).unwrap();
        wait_for_stack(node, "rp_filter");
    });
}
