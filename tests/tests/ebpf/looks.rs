//! What `causeway-proxy ebpf …` shows of connections and clients, when no daemon runs.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use causeway_tests::packet_bed::ask;
use lb_model::Family;
use serde_json::Value;

use crate::node::{Node, on_a_node};
use crate::world::{World, at, node_port, node_port_service};

/// What a task writes, as JSON; it writes a table of as many lines, too.
pub(crate) fn shown(node: &Node<'_>, task: &str) -> Vec<Value> {
    let run = |flags: &[&str]| {
        let mut command = Command::new(causeway_tests::binary("causeway-proxy"));
        command.args(["ebpf", task, "--ebpf-pin-dir"]);
        command.arg(node.cell.options().pins).args(flags);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let found: Vec<Value> = serde_json::from_str(&run(&["--json"])).unwrap();
    let table = run(&[]);
    assert_eq!(table.lines().count(), 1 + found.len(), "{table}");
    found
}

fn has(row: &Value, field: &str, value: &(impl ToString + ?Sized)) -> bool {
    row[field] == value.to_string()
}

#[test]
fn two_rows_of_one_address_say_who_finds_which() {
    on_a_node(|node| {
        let mut world = World::empty();
        let mut local = node_port_service(1);
        local.external_traffic_policy = "Local".into();
        world.serve(node.bed, &local, &[2]);
        node.start(&world).sync(&mut world);
        let rows = shown(node, "dump");
        for family in Family::ALL {
            let to = node_port(node.bed, family, 1);
            let both = rows
                .iter()
                .filter(|row| has(row, "frontend", &to) && has(row, "protocol", "tcp"));
            let both: Vec<_> = both
                .map(|row| {
                    (
                        row["view"].as_str().unwrap(),
                        row["sockets"].as_bool().unwrap(),
                    )
                })
                .collect();
            assert_eq!(both, [("inside", true), ("outside", false)]);
            let cluster = rows.iter().find(|row| has(row, "frontend", &at(family, 1)));
            assert_eq!(cluster.unwrap()["view"], "all");
        }
    });
}

#[test]
fn connections_are_shown_with_what_their_backends_see() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2, 3]);
        node.start(&world).sync(&mut world);
        let client = &node.bed.client;
        for family in Family::ALL {
            let to = node_port(node.bed, family, 1);
            let mut stream = client.connect(to).unwrap();
            let own = client.netns.run(|| stream.local_addr().unwrap()).unwrap();
            let track = |state: &str| {
                let rows = shown(node, "tracks");
                let found = rows.iter().find(|row| has(row, "client", &own));
                let found = found.unwrap_or_else(|| panic!("{own} in {rows:?}")).clone();
                assert_eq!(found["state"], state, "{found}");
                found
            };
            let seen = ask(&mut stream).unwrap();
            let track_open = track("answered");
            assert!(has(&track_open, "frontend", &to));
            assert!(has(&track_open, "protocol", "tcp"));
            let backend: SocketAddr = track_open["backend"].as_str().unwrap().parse().unwrap();
            assert_eq!(backend.ip(), node.bed.pod(seen.pod).ip(family));
            let as_seen = track_open["masqueradedAs"].as_str().unwrap();
            let as_seen: SocketAddr = as_seen.parse().unwrap();
            assert_eq!(as_seen.ip(), seen.client);
            // At least a handshake and a word, both ways.
            for (packets, bytes) in [("packets", "bytes"), ("answerPackets", "answerBytes")] {
                let number = |field: &str| track_open[field].as_u64().unwrap();
                assert!(number(packets) >= 2 && number(bytes) >= 40 * number(packets));
            }
        }
    });
}

#[test]
fn clients_are_shown_as_their_frontends_know_them() {
    on_a_node(|node| {
        let mut world = World::empty();
        let mut sticky = node_port_service(1);
        sticky.client_ip_affinity = true;
        world.serve(node.bed, &sticky, &[2, 3]);
        node.start(&world).sync(&mut world);
        for family in Family::ALL {
            let inside = node.tcp(node.bed.pod(1), at(family, 1)).unwrap();
            let to = node_port(node.bed, family, 1);
            let outside = node.bed.client.tcp(to).unwrap();
            let rows = shown(node, "affinity");
            let known = |frontend: SocketAddr| {
                let row = rows.iter().find(|row| has(row, "frontend", &frontend));
                let row = row.unwrap_or_else(|| panic!("{frontend} in {rows:?}"));
                let backend: SocketAddr = row["backend"].as_str().unwrap().parse().unwrap();
                let left = row["secondsLeft"].as_u64().unwrap();
                assert!((10_000..=10_800).contains(&left), "{row}");
                (row["client"].clone(), backend.ip())
            };
            let ip = |pod| node.bed.pod(pod).ip(family);
            let (client, backend) = known(at(family, 1));
            assert!(client["netnsCookie"].is_u64(), "{client}");
            assert_eq!(backend, ip(inside.pod));
            let (client, backend) = known(to);
            let client: IpAddr = client["address"].as_str().unwrap().parse().unwrap();
            assert_eq!(client, node.bed.client.ip(family));
            assert_eq!(backend, ip(outside.pod));
        }
    });
}
