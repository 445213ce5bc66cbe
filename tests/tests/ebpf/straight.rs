//! Packets between a client and a pod that no Service is concerned with, given to the pod at once where that is
//! wanted and nobody on the way may want to see them.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use causeway_proxy::backend::ebpf::Options;
use causeway_tests::packet_bed::{self, POD_PORT};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use nodekit::route::{Classifier, Handle, Link, Side};
use nodekit::sysctl::{self, Key};

use crate::node::{Node, PATIENCE, on_a_node};
use crate::others::{self, Place};
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
    let what = format!("by the stack: {why}");
    wait_for(node, &what, |sent| sent >= 5);
    // They take it whenever something is told, until it was looked what that is.
    std::thread::sleep(Duration::from_secs(1));
    for family in Family::ALL {
        assert_ne!(sent_for(node, family), 0, "still {what} ({family:?})");
    }
}

/// The link by which the client's packets come.
fn way(node: &Node<'_>) -> Link {
    let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
    let way = links.route_to(node.bed.client.ip(Family::V4)).unwrap();
    links.link_by_index(way.link.unwrap()).unwrap()
}

#[test]
fn what_no_service_is_concerned_with_goes_straight_unless_somebody_filters_it() {
    on_a_node(|node| {
        let _proxy = start_with(node, &options(node), &mut World::empty());
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
fn who_has_no_rules_of_nftables_is_not_passed_by_either() {
    on_a_node(|node| {
        let _proxy = start_with(node, &options(node), &mut World::empty());
        wait_for_straight(node, "nobody filters");
        let run = |program: &str, arguments: &str| {
            let words = arguments.split(' ');
            let output = Command::new(program).args(words).output().unwrap();
            assert!(output.status.success(), "{program} {arguments}: {output:?}");
        };
        let policy = "src 192.0.2.0/24 dst 198.51.100.0/24 dir fwd";
        run("ip", &format!("xfrm policy add {policy} action block"));
        wait_for_stack(node, "a policy of IPsec");
        run("ip", &format!("xfrm policy delete {policy}"));
        wait_for_straight(node, "no policy");
        let program = others::at_forward();
        wait_for_stack(node, "a program of netfilter");
        drop(program);
        wait_for_straight(node, "no program");
        // These tables stay.
        run("iptables-legacy", "-t raw -S");
        wait_for_stack(node, "a table of the older iptables");
    });
}

#[test]
fn who_sees_packets_where_they_come_in_is_not_passed_by() {
    on_a_node(|node| {
        let _proxy = start_with(node, &options(node), &mut World::empty());
        wait_for_straight(node, "nobody filters");
        let way = way(node);
        let mut links = Handle::open().unwrap();
        let classifier = Classifier {
            name: "somebody".to_owned(),
            priority: 1,
            handle: 1,
        };
        let program = others::classifier();
        links.add_clsact(way.index).unwrap();
        let side = Side::Incoming;
        links
            .set_classifier(way.index, side, &classifier, program.as_fd())
            .unwrap();
        wait_for_stack(node, "a filter");
        links
            .delete_classifier(way.index, side, &classifier)
            .unwrap();
        wait_for_straight(node, "no filter");
        let after = others::at_ingress(way.index, Place::After);
        wait_for_stack(node, "a program after ours");
        drop(after);
        wait_for_straight(node, "no program");
        let before = others::at_ingress(way.index, Place::Before { mark: 0 });
        stays_straight(node, "a program before ours");
        drop(before);
        let marks = others::at_ingress(way.index, Place::Before { mark: 1 });
        wait_for_stack(node, "routes may go by marks");
        drop(marks);
    });
}

#[test]
fn what_no_service_is_concerned_with_takes_the_stack_where_that_is_wanted() {
    on_a_node(|node| {
        let proxy = start_with(node, &options(node), &mut World::empty());
        wait_for_straight(node, "by default");
        drop(proxy);
        let options = Options {
            host_routing: false,
            ..options(node)
        };
        let mut world = World::empty();
        let mut proxy = node.start_with(&world, &options);
        proxy.sync(&mut world);
        wait_for_stack(node, "as the option says");
    });
}

#[test]
fn an_interface_with_a_strict_filter_of_sources_has_no_packets_that_go_straight() {
    on_a_node(|node| {
        let strict = || {
            let key = Key::ipv4_conf(&way(node).name, "rp_filter").unwrap();
            sysctl::write(&key, "1").unwrap();
        };
        let _proxy = start_with(node, &options(node), &mut World::empty());
        wait_for_straight(node, "no filter");
        node.bed.node.netns.run(strict).unwrap();
        wait_for_stack(node, "rp_filter");
    });
}
