//! `causeway-proxy ebpf dump`.

use std::process::{Command, Output};

use causeway_tests::packet_bed::POD_PORT;
use lb_model::Family;
use serde_json::{Value, json};

use crate::node::{Node, on_a_node};
use crate::outside::{balanced, ruleset, serve_by_node_too};
use crate::world::{World, at, node_port, node_port_service, service};

fn dump(node: &Node<'_>, flags: &[&str]) -> Output {
    let mut command = Command::new(causeway_tests::binary("causeway-proxy"));
    command.args(["ebpf", "dump", "--ebpf-pin-dir"]);
    command.arg(node.cell.options().pins).args(flags);
    command.output().unwrap()
}

fn text(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn frontends_are_shown_with_their_backends_without_a_daemon() {
    on_a_node(|node| {
        let mut world = World::empty();
        let mut first = node_port_service(1);
        first.client_ip_affinity = true;
        world.serve(node.bed, &first, &[2, 3]);
        world.serve(node.bed, &service(2), &[]);
        node.start(&world).sync(&mut world);

        let found: Value = serde_json::from_str(&text(dump(node, &["--json"]))).unwrap();
        // Of each protocol and family: two ClusterIPs, and the node port on the node and on loopback.
        assert_eq!(found.as_array().unwrap().len(), 16);
        for family in Family::ALL {
            let backends = [2, 3].map(|pod| {
                let ip = node.bed.pod(pod).ip(family);
                std::net::SocketAddr::new(ip, POD_PORT).to_string()
            });
            let port = node_port(node.bed, family, 1);
            for (to, service, affinity, served, is_node_port, backends) in [
                (
                    at(family, 1),
                    "default/s1:tcp",
                    10_800,
                    true,
                    false,
                    &backends[..],
                ),
                (port, "default/s1:tcp", 10_800, true, true, &backends),
                (at(family, 2), "default/s2:tcp", 0, false, false, &[]),
            ] {
                let wanted = json!({
                    "frontend": to.to_string(), "protocol": "tcp", "service": service, "view": "all",
                    "maglev": false,
                    "affinitySeconds": affinity, "nodeOnly": false, "sockets": true,
                    "packets": true, "masqueradePods": is_node_port, "masqueradeOthers": served,
                    "drop": false, "nodePort": is_node_port, "leftToNftables": false,
                    "nodeSockets": false, "sources": null, "backends": backends,
                });
                assert!(
                    found.as_array().unwrap().contains(&wanted),
                    "{wanted} of {found}"
                );
            }
        }
        let table = text(dump(node, &[]));
        assert_eq!(table.lines().count(), 1 + 16);
        for line in [
            "10.96.0.1:80 tcp default/s1:tcp all anywhere sockets,packets others 10800s any 10.244.2.2:8080 10.244.3.2:8080",
            "[::1]:30001 udp default/s1:udp node anywhere sockets - 10800s any [fd00:244:2::2]:8080 [fd00:244:3::2]:8080",
            "[fd00:96::2]:80 tcp default/s2:tcp all anywhere sockets,packets - - any none: refused",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let found = |found: &str| found.split_whitespace().eq(words.iter().copied());
            assert!(table.lines().any(found), "{line}\n{table}");
        }
    });
}

#[test]
fn what_nftables_has_is_not_said_to_be_refused() {
    on_a_node(|node| {
        let mut world = World::empty();
        let mut service = balanced();
        service.source_ranges = vec!["198.51.100.0/24".into()];
        serve_by_node_too(&mut world, node.bed, &service, &[2]);
        node.start(&world).sync(&mut world);
        let table = text(dump(node, &[]));
        let line = table
            .lines()
            .find(|line| line.starts_with("203.0.113.9:80 "));
        let line = line.unwrap_or_else(|| panic!("{table}"));
        assert!(line.ends_with("left to nftables"), "{line}");
    });
}

#[test]
fn who_may_come_is_said() {
    on_a_node(|node| {
        let mut world = World::empty();
        let mut service = balanced();
        service.source_ranges = vec!["198.51.100.0/24".into(), "192.0.2.7/32".into()];
        world.serve(node.bed, &service, &[2]);
        node.start(&world).sync(&mut world);
        let row = "203.0.113.9:80 tcp default/s1:tcp all 198.51.100.0/24,192.0.2.7/32 packets all - any 10.244.2.2:8080";
        let words: Vec<&str> = row.split(' ').collect();
        let table = text(dump(node, &[]));
        let found = |found: &str| found.split_whitespace().eq(words.iter().copied());
        assert!(table.lines().any(found), "{table}");
        assert_eq!(ruleset(node), "", "nothing is left to nftables");
    });
}

#[test]
fn a_folder_without_maps_is_named() {
    on_a_node(|node| {
        let output = dump(node, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let folder = node
            .cell
            .options()
            .pins
            .join(format!("maps-{}", causeway_ebpf_abi::LAYOUT));
        assert!(error.contains(folder.to_str().unwrap()), "{error}");
    });
}
