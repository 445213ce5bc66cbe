//! Packets to a pod behind a bridge: they appear at its interface at once, unless somebody on the way wants
//! to see them.

use std::fs;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use causeway_proxy::backend::ebpf::{EbpfBackend, Options};
use causeway_tests::packet_bed::{Bed, Host, ask};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use nodekit::route::{Classifier, Handle, Side, Ticks, TokenBucket};

use crate::node::{Node, PATIENCE, on_a_node};
use crate::ways::{join, lead, nft};
use crate::world::{Proxy, World, node_port, node_port_service};

const BRIDGE: &str = "pods0";
/// The bridge's port.
const PORT: &str = "other0";

/// A daemon that looks often whether somebody wants to see packets.
pub(crate) fn options(node: &Node<'_>) -> Options {
    Options {
        sweep: Duration::from_millis(100),
        ..node.cell.options()
    }
}

fn start<'a>(node: &Node<'a>, world: &mut World) -> Proxy<'a, EbpfBackend> {
    start_with(node, &options(node), world)
}

/// The third pod is behind a bridge, and has a node port.
pub(crate) fn start_with<'a>(
    node: &Node<'a>,
    options: &Options,
    world: &mut World,
) -> Proxy<'a, EbpfBackend> {
    let pod = pod(node.bed);
    join(node, pod, Some(BRIDGE));
    for family in Family::ALL {
        lead(node, pod, family);
    }
    world.serve(node.bed, &node_port_service(1), &[3]);
    let mut proxy = node.start_with(world, options);
    proxy.sync(world);
    proxy
}

pub(crate) fn pod(bed: &Bed) -> &Host {
    bed.pod(3)
}

/// How many frames the node sent by the bridge so far (proc_pid_net(5)).
pub(crate) fn sent(node: &Node<'_>) -> u64 {
    let read = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let all = node.bed.node.netns.run(read).unwrap();
    let line = all.lines().find_map(|line| {
        let (name, counts) = line.split_once(':')?;
        (name.trim() == BRIDGE).then_some(counts)
    });
    line.unwrap()
        .split_whitespace()
        .nth(9)
        .unwrap()
        .parse()
        .unwrap()
}

/// How many while a client talks to the pod.
fn sent_for(node: &Node<'_>, family: Family) -> u64 {
    let before = sent(node);
    let to = node_port(node.bed, family, 1);
    let client = &node.bed.client;
    let seen = [client.tcp(to).unwrap(), client.udp(to).unwrap()];
    assert_eq!(seen.map(|seen| seen.pod), [3; 2]);
    sent(node) - before
}

/// The fewest to be sent: TCP's first three to a server, its end, and a datagram.
const ALL: u64 = 5;

fn wait_for_shortcut(node: &Node<'_>) {
    for family in Family::ALL {
        let none = || sent_for(node, family) == 0;
        wait_until("nothing by the bridge", PATIENCE, none).unwrap();
    }
}

fn wait_for_bridge(node: &Node<'_>, why: &str) {
    for family in Family::ALL {
        let all = || sent_for(node, family) >= ALL;
        wait_until(&format!("all by the bridge: {why}"), PATIENCE, all).unwrap();
    }
}

/// A queue that keeps nobody waiting.
fn bucket() -> TokenBucket {
    let ticks = Ticks::of_kernel().unwrap();
    TokenBucket::new(ticks, 100_000_000, 1_000_000, Duration::from_millis(25))
}

/// The program on packets, as the kernel has it.
fn program() -> ProgramInfo {
    let (_, programs) = SchedClassifier::query_tcx(BRIDGE, TcAttachType::Ingress).unwrap();
    programs.into_iter().next().unwrap()
}

#[test]
fn packets_appear_at_a_pod_behind_a_bridge_unless_somebody_wants_to_see_them() {
    on_a_node(|node| {
        let mut world = World::empty();
        let _proxy = start(node, &mut world);
        wait_for_shortcut(node);
        let netns = &node.bed.node.netns;
        let mut links = Handle::open_in(netns).unwrap();
        let index = |links: &mut Handle, name| links.link_by_name(name).unwrap().index;
        for family in ["bridge", "netdev"] {
            nft(netns, &["add", "table", family, "somebody"]);
            wait_for_bridge(node, family);
            nft(netns, &["delete", "table", family, "somebody"]);
            wait_for_shortcut(node);
        }
        for name in [PORT, BRIDGE] {
            let link = index(&mut links, name);
            links.add_token_bucket(link, &bucket()).unwrap();
            wait_for_bridge(node, "a queue");
            links.delete_qdisc(link, Side::Outgoing).unwrap();
            wait_for_shortcut(node);
        }
        let port = index(&mut links, PORT);
        let classifier = Classifier {
            name: "somebody".to_owned(),
            priority: 1,
            handle: 1,
        };
        let program = netns.run(program).unwrap();
        links.add_clsact(port).unwrap();
        let fd = program.fd().unwrap();
        let side = Side::Outgoing;
        links
            .set_classifier(port, side, &classifier, fd.as_fd())
            .unwrap();
        wait_for_bridge(node, "a filter");
        links.delete_classifier(port, side, &classifier).unwrap();
        wait_for_shortcut(node);
        let attach = || {
            let mut program =
                SchedClassifier::from_program_info(program, "packets".into()).unwrap();
            program.attach(PORT, TcAttachType::Egress).unwrap();
            wait_for_bridge(node, "a program");
        };
        netns.run(attach).unwrap();
        wait_for_shortcut(node);
    });
}

#[test]
fn queues_are_heard_of() {
    on_a_node(|node| {
        let mut world = World::empty();
        let hour = Duration::from_secs(3600);
        let options = Options {
            sweep: hour,
            ..options(node)
        };
        let _proxy = start_with(node, &options, &mut world);
        wait_for_shortcut(node);
        let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
        let port = links.link_by_name(PORT).unwrap().index;
        links.add_token_bucket(port, &bucket()).unwrap();
        wait_for_bridge(node, "a queue");
        links.delete_qdisc(port, Side::Outgoing).unwrap();
        wait_for_shortcut(node);
    });
}

#[test]
fn whose_port_went_is_reached_by_the_way_that_there_is() {
    on_a_node(|node| {
        let mut world = World::empty();
        let _proxy = start(node, &mut world);
        wait_for_shortcut(node);
        let streams = Family::ALL.map(|family| {
            let to = node_port(node.bed, family, 1);
            let mut stream = node.bed.client.connect(to).unwrap();
            assert_eq!(ask(&mut stream).unwrap().pod, 3);
            stream
        });
        // The routes by it go as well.
        let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
        links.delete_link_by_name(BRIDGE).unwrap();
        links.delete_link_by_name(PORT).unwrap();
        for mut stream in streams {
            // What was lost meanwhile is sent again.
            assert_eq!(ask(&mut stream).unwrap().pod, 3);
        }
    });
}

#[test]
fn packets_take_the_bridge_where_that_is_wanted() {
    on_a_node(|node| {
        let mut world = World::empty();
        let proxy = start(node, &mut world);
        wait_for_shortcut(node);
        drop(proxy);
        let options = Options {
            peers: false,
            ..options(node)
        };
        let mut proxy = node.start_with(&world, &options);
        proxy.sync(&mut world);
        wait_for_bridge(node, "as the option says");
    });
}
