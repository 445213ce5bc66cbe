//! Who connects, or is connected, while another daemon takes over: one that has other programs,
//! one whose maps look different, and one that comes after a kill. Pods connect at the socket,
//! clients outside by node port.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use causeway_ebpf_abi::{LASTING, LAYOUT};
use causeway_proxy::backend::ebpf::{DEFAULT_TRACKS, OBJECT, Options};
use causeway_tests::packet_bed::{Bed, POD_PORT};
use causeway_tests::proxy_bed::objects::{cluster_ip, service as object, slice};
use causeway_tests::proxy_bed::{Proxy, wait_until};
use lb_model::Family;
use netns_lab::apiserver::Resource;

use crate::cluster::Cluster;
use crate::load::Traffic;
use crate::node::{Node, bar_the_way, on_a_node};
use crate::world::{World, at, node_port, node_port_service, service};

/// For what takes milliseconds: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the daemon changes in each test; `CAUSEWAY_TAKEOVERS=20` makes it last.
fn takeovers() -> usize {
    let said = std::env::var("CAUSEWAY_TAKEOVERS").ok();
    said.map_or(2, |said| said.parse().unwrap())
}

/// There is room for all who connect meanwhile, and for who waits beside them.
fn options(node: &Node<'_>) -> Options {
    Options {
        tracks: DEFAULT_TRACKS,
        ..node.cell.options()
    }
}

/// A Service for pods, and one with a node port.
pub(crate) fn world(bed: &Bed) -> World {
    let mut world = World::empty();
    world.serve(bed, &service(1), &[1, 2]);
    world.serve(bed, &node_port_service(2), &[2, 3]);
    world
}

/// Those who connect to them.
pub(crate) fn traffic<'a>(node: &'a Node<'a>) -> Traffic<'a> {
    let inside = Family::ALL.map(|family| at(family, 1));
    let outside = Family::ALL.map(|family| node_port(node.bed, family, 2));
    Traffic {
        node,
        inside: inside.to_vec(),
        outside: outside.to_vec(),
    }
}

/// The object with other instructions that do the same: in every program the first move of a small
/// number into a register moves its lower half only, which clears the upper one (`BPF_MOV | BPF_K`
/// of BPF_ALU64 and BPF_ALU, linux/bpf.h).
pub(crate) fn changed(object: &[u8]) -> Vec<u8> {
    const MOVE_64: u8 = 0xb7;
    const MOVE_32: u8 = 0xb4;
    const WIDE: u8 = 0x18;
    let mut changed = object.to_vec();
    for code in code_sections(object) {
        let mut at = code.start;
        while at < code.end {
            let operation = object[at];
            let number = object[at + 4..at + 8].try_into().unwrap();
            if operation == MOVE_64 && i32::from_le_bytes(number) >= 0 {
                changed[at] = MOVE_32;
                break;
            }
            at += if operation == WIDE { 16 } else { 8 };
        }
    }
    assert_ne!(changed, object);
    changed
}

/// Where the code of an ELF object of 64 bits is (elf(5)).
fn code_sections(object: &[u8]) -> Vec<std::ops::Range<usize>> {
    const EXECUTABLE: u64 = 4;
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&object[at..at + length]);
        u64::from_le_bytes(bytes)
    };
    let place = |at, length| usize::try_from(number(at, length)).unwrap();
    let (table, size, count) = (place(0x28, 8), place(0x3a, 2), place(0x3c, 2));
    let sections = (0..count).map(|index| table + index * size);
    let code = sections.filter(|at| number(at + 8, 8) & EXECUTABLE != 0);
    let ranges = code.map(|at| {
        let start = place(at + 0x18, 8);
        start..start + place(at + 0x20, 8)
    });
    ranges.filter(|range| !range.is_empty()).collect()
}

/// The tag of the program at the client's interface: a hash of its instructions.
fn tag(node: &Node<'_>) -> u64 {
    let query = || SchedClassifier::query_tcx("eth0", TcAttachType::Ingress).unwrap();
    let (_, programs) = node.bed.node.netns.run(query).unwrap();
    let [program] = &programs[..] else {
        panic!("{} programs", programs.len());
    };
    program.tag()
}

#[test]
fn other_programs_take_over_and_nobody_notices() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        bar_the_way(node.bed.pod(3));
        let mut proxy = node.start_with(&world, &options(node));
        proxy.sync(&mut world);
        let objects = [changed(OBJECT), OBJECT.to_vec()];
        traffic(node).during(|_| {
            for turn in 0..takeovers() {
                let before = tag(node);
                let mut after = self::world(node.bed);
                let mut next = node.open(&objects[turn % 2], &after, &options(node));
                assert_eq!(next.sync(&mut after).operations(), 0);
                assert_ne!(tag(node), before, "the same program");
                proxy = next;
            }
        });
        drop(proxy);
    });
}

/// Makes the maps of a group look as if an older layout had made them.
pub(crate) fn grow_old(pins: &Path, group: &str, layout: u32, turn: usize) -> PathBuf {
    let old = usize::try_from(layout).unwrap() + 1 + turn;
    let old = pins.join(format!("{group}-{old}"));
    fs::rename(pins.join(format!("{group}-{layout}")), &old).unwrap();
    old
}

/// Entries that give a number to a Service port: those of the two Services.
const NAMES: usize = 4;

#[test]
fn maps_of_another_layout_are_made_beside_and_connections_stay() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        bar_the_way(node.bed.pod(3));
        let mut proxy = node.start_with(&before, &options(node));
        let all = proxy.sync(&mut before).operations();
        let pins = node.cell.options().pins;
        traffic(node).during(|_| {
            for turn in 0..takeovers() {
                let old = grow_old(&pins, "maps", LAYOUT, turn);
                let mut after = world(node.bed);
                let mut next = node.start_with(&after, &options(node));
                let written = next.sync(&mut after).operations();
                assert_eq!(written, all - NAMES, "all but the numbers of ports");
                assert!(!old.exists(), "{} is left", old.display());
                proxy = next;
            }
        });
        drop(proxy);
    });
}

#[test]
fn maps_of_sockets_and_of_services_can_be_of_another_layout_and_connections_stay() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        bar_the_way(node.bed.pod(3));
        let mut proxy = node.start_with(&before, &options(node));
        proxy.sync(&mut before);
        let pins = node.cell.options().pins;
        traffic(node).during(|go_on| {
            for (group, layout, _) in LASTING.iter().filter(|(group, ..)| *group != TRACKED) {
                let old = grow_old(&pins, group, *layout, 0);
                let mut after = world(node.bed);
                proxy = node.start_with(&after, &options(node));
                proxy.sync(&mut after);
                assert!(!old.exists(), "{} is left", old.display());
                go_on();
            }
        });
        drop(proxy);
    });
}

/// The group of what is known of translated packets (`causeway_ebpf_abi::LASTING`).
const TRACKED: &str = "connections";

/// What decision 0014 says that this costs: there has been no such change yet.
#[test]
fn tracks_of_another_layout_end_connections_from_outside_and_no_others() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        bar_the_way(node.bed.pod(3));
        node.start_with(&before, &options(node)).sync(&mut before);
        let traffic = traffic(node);
        let mut outside = traffic.kept_outside();
        let pods = Traffic {
            outside: Vec::new(),
            ..self::traffic(node)
        };
        let proxy = pods.during(|_| {
            let group = LASTING.iter().find(|(group, ..)| *group == TRACKED);
            let (group, layout, _) = group.unwrap();
            grow_old(&node.cell.options().pins, group, *layout, 0);
            let mut after = world(node.bed);
            let mut proxy = node.start_with(&after, &options(node));
            proxy.sync(&mut after);
            proxy
        });
        // At once, not when their patience ends.
        assert_eq!(outside.errors(), [ErrorKind::ConnectionReset; 2]);
        traffic.kept_outside().stay();
        drop(proxy);
    });
}

/// A Service with pods 1 and 2 behind it; where it is reached.
fn put(cluster: &Cluster, bed: &Bed, index: usize, port: Option<u16>) -> SocketAddr {
    put_with(cluster, bed, index, |spec| {
        if let Some(port) = port {
            spec["type"] = "NodePort".into();
            spec["ports"][0]["nodePort"] = port.into();
        }
    })
}

/// The same with something else in its spec.
pub(crate) fn put_with(
    cluster: &Cluster,
    bed: &Bed,
    index: usize,
    change: impl FnOnce(&mut serde_json::Value),
) -> SocketAddr {
    let name = format!("web-{index}");
    let mut service = object(&name, cluster_ip(index));
    change(&mut service["spec"]);
    cluster.store.seed(Resource::Service, [service]).unwrap();
    let pods = [1, 2].map(|pod| bed.pod(pod).ip(Family::V4));
    let slice = slice(&name, pods, POD_PORT);
    let store = &cluster.store;
    store.seed(Resource::EndpointSlice, [slice]).unwrap();
    (cluster_ip(index), 80).into()
}

/// The daemon, born with the mounts of this thread.
pub(crate) fn start(cluster: &Cluster, node: &Node<'_>) -> Proxy {
    cluster.start(node, &["--proxy-mode=ebpf"])
}

/// Waits until a pod reaches it.
pub(crate) fn wait_for(node: &Node<'_>, to: SocketAddr) {
    let reached = || node.tcp(node.bed.pod(3), to).is_ok();
    wait_until("a new Service", PATIENCE, reached).unwrap();
}

#[test]
fn a_daemon_killed_at_any_moment_fails_no_connection_and_changes_no_backend() {
    const NODE_PORT: u16 = 30_001;
    /// After its start: as it loads, attaches, and writes.
    const MOMENTS: [u64; 6] = [0, 20, 60, 150, 300, 600];
    on_a_node(|node| {
        let cluster = Cluster::new(node.bed);
        let web = put(&cluster, node.bed, 1, Some(NODE_PORT));
        let outside = SocketAddr::new(node.bed.node.ip(Family::V4), NODE_PORT);
        let mut proxy = start(&cluster, node);
        bar_the_way(node.bed.pod(3));
        wait_for(node, web);
        let traffic = Traffic {
            node,
            inside: vec![web],
            outside: vec![outside],
        };
        let proxy = traffic.during(|go_on| {
            for turn in 0..takeovers() {
                for moment in MOMENTS {
                    proxy.kill().unwrap();
                    go_on();
                    proxy = start(&cluster, node);
                    thread::sleep(Duration::from_millis(moment));
                }
                // The last one lives, and does its work.
                wait_for(node, put(&cluster, node.bed, 10 + turn, None));
                go_on();
            }
            proxy
        });
        assert!(proxy.terminate().unwrap().success());
    });
}
