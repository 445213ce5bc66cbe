//! The program on packets as a filter of the clsact qdisc, the way of kernels without TCX.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use aya::programs::loaded_programs;
use causeway_proxy::backend::ebpf::{EbpfBackend, Options, PacketsHook};
use causeway_proxy::backend::{self, DataPlane as _};
use causeway_proxy::config::Mode;
use causeway_tests::packet_bed::{self, Bed, ask};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{Classifier, Handle, LinkChange, NewBridge, Side, VethEnd, VethPair};

use crate::node::{Node, PATIENCE, StopAtEnd, on_a_node};
use crate::world::{Proxy, World, at, node_port, node_port_service};

/// What the program is called there, by which `--cleanup` knows it.
const NAME: &str = "causeway_packets";

fn by(node: &Node<'_>, packets_hook: PacketsHook) -> Options {
    Options {
        packets_hook,
        ..node.cell.options()
    }
}

/// A daemon that packets are seen by in that way, after its first pass.
fn start<'a>(node: &Node<'a>, hook: PacketsHook, world: &mut World) -> Proxy<'a, EbpfBackend> {
    let mut proxy = node.start_with(world, &by(node, hook));
    let report = proxy.sync(world);
    assert!(report.complete(), "{report:?}");
    proxy
}

fn world(bed: &Bed) -> World {
    let mut world = World::empty();
    world.serve(bed, &node_port_service(1), &[2, 3]);
    world
}

fn everywhere(bed: &Bed) -> [SocketAddr; 4] {
    let [v4, v6] = Family::ALL.map(|family| [at(family, 1), node_port(bed, family, 1)]);
    [v4[0], v4[1], v6[0], v6[1]]
}

fn links(node: &Node<'_>) -> Handle {
    Handle::open_in(&node.bed.node.netns).unwrap()
}

/// Every program that is a filter of what comes in, by interface.
fn filters(node: &Node<'_>) -> BTreeMap<String, Vec<(Classifier, u32)>> {
    let mut handle = links(node);
    let mut found = BTreeMap::new();
    for link in handle.links().unwrap() {
        let filters = handle.filters(link.index, Side::Incoming).unwrap();
        let programs: Vec<_> = filters
            .into_iter()
            .filter_map(|one| one.classifier)
            .collect();
        if !programs.is_empty() {
            found.insert(link.name, programs);
        }
    }
    found
}

/// The interfaces that have the program by a filter, each once.
fn places(node: &Node<'_>) -> Vec<String> {
    let filters = filters(node);
    for (name, programs) in &filters {
        assert_eq!(programs.len(), 1, "{name}: {programs:?}");
        assert_eq!(programs[0].0.name, NAME);
    }
    filters.into_keys().collect()
}

/// The interfaces that should have it.
fn interfaces(node: &Node<'_>) -> Vec<String> {
    let all = links(node).links().unwrap().into_iter();
    let mut names: Vec<_> = all
        .filter(|link| link.name != "lo" && link.master.is_none())
        .map(|link| link.name)
        .collect();
    names.sort();
    names
}

fn hook(node: &Node<'_>, name: &str) -> Option<String> {
    let mut handle = links(node);
    let index = handle.link_by_name(name).unwrap().index;
    let qdisc = handle.qdisc(index, Side::Incoming).unwrap();
    qdisc.map(|qdisc| qdisc.kind)
}

fn drifted(node: &Node<'_>, proxy: &mut Proxy<'_, EbpfBackend>) -> bool {
    let check = || proxy.backend.check().unwrap();
    node.bed.node.netns.run(check).unwrap()
}

fn serves(node: &Node<'_>) {
    let client = &node.bed.client;
    for to in everywhere(node.bed) {
        assert!([2, 3].contains(&client.tcp(to).unwrap().pod));
        assert!([2, 3].contains(&client.udp(to).unwrap().pod));
    }
}

#[test]
fn a_daemon_takes_over_whichever_way_the_one_before_it_saw_packets() {
    on_a_node(|node| {
        let all = interfaces(node);
        let one = start(node, PacketsHook::Clsact, &mut world(node.bed));
        assert_eq!(places(node), all);
        assert_eq!(node.programs_at_packets(), 0);
        serves(node);
        let mut streams = everywhere(node.bed).map(|to| node.bed.client.connect(to).unwrap());
        let pods = streams.each_mut().map(|stream| ask(stream).unwrap().pod);
        let mut still = || streams.each_mut().map(|stream| ask(stream).unwrap().pod);
        let programs = filters(node);
        drop(one);
        assert_eq!(still(), pods);

        let two = start(node, PacketsHook::Clsact, &mut world(node.bed));
        assert_eq!(places(node), all);
        let replaced = filters(node);
        for (name, before) in programs {
            assert_ne!(
                replaced[&name][0].1, before[0].1,
                "{name} has the old program"
            );
        }
        assert_eq!(still(), pods);
        drop(two);

        let three = start(node, PacketsHook::Tcx, &mut world(node.bed));
        assert_eq!(filters(node), BTreeMap::new());
        assert!(all.iter().all(|name| hook(node, name).is_none()));
        assert_eq!(node.programs_at_packets(), all.len());
        assert_eq!(still(), pods);
        serves(node);
        drop(three);

        let _four = start(node, PacketsHook::Clsact, &mut world(node.bed));
        assert_eq!(places(node), all);
        // The kernel detaches in the background.
        let free = || node.programs_at_packets() == 0;
        wait_until("links of TCX gone", PATIENCE, free).unwrap();
        assert_eq!(still(), pods);
        serves(node);
    });
}

#[test]
fn a_filter_is_replaced_without_a_moment_without_one() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        drop(start(node, PacketsHook::Clsact, &mut world));
        let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
        let client = || {
            while !stop.load(Ordering::Relaxed) {
                for to in everywhere(node.bed) {
                    packet_bed::tcp(to, PATIENCE)?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok::<_, std::io::Error>(())
        };
        let more = |enough: usize| {
            let until = made.load(Ordering::Relaxed) + enough;
            let made = || made.load(Ordering::Relaxed) >= until;
            wait_until("connections", PATIENCE, made).unwrap();
        };
        thread::scope(|scope| {
            let running = StopAtEnd(&stop);
            let client = scope.spawn(|| node.bed.client.netns.run(client).unwrap());
            for _ in 0..4 {
                more(10);
                drop(start(node, PacketsHook::Clsact, &mut world));
            }
            more(10);
            drop(running);
            client.join().unwrap().unwrap();
        });
    });
}

#[test]
fn a_removed_filter_is_noticed_and_made_again() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        let mut proxy = start(node, PacketsHook::Clsact, &mut world);
        assert!(!drifted(node, &mut proxy));
        for whole_qdisc in [false, true] {
            let (name, programs) = filters(node).pop_first().unwrap();
            let mut handle = links(node);
            let index = handle.link_by_name(&name).unwrap().index;
            if whole_qdisc {
                handle.delete_qdisc(index, Side::Incoming).unwrap();
            } else {
                let ours = &programs[0].0;
                handle
                    .delete_classifier(index, Side::Incoming, ours)
                    .unwrap();
            }
            assert!(drifted(node, &mut proxy));
            proxy.sync(&mut world);
            assert!(!drifted(node, &mut proxy));
            assert_eq!(places(node), interfaces(node));
        }
        serves(node);
    });
}

/// A bridge without ports, and a pair of interfaces of which the other end is elsewhere.
fn create(node: &Node<'_>, bridge: &str, near: &str, far: &NetNs) {
    let mut handle = links(node);
    let bridge = NewBridge {
        name: bridge,
        mac: None,
        mtu: None,
        vlan_filtering: None,
        up: true,
    };
    handle.create_bridge(&bridge).unwrap();
    let pair = VethPair {
        near: VethEnd::named(near),
        far: VethEnd {
            netns: Some(far.as_fd()),
            ..VethEnd::named("eth0")
        },
        near_up: true,
        near_master: None,
    };
    handle.create_veth(&pair).unwrap();
}

#[test]
fn the_filter_comes_to_a_new_interface_and_goes_when_that_becomes_a_port() {
    on_a_node(|node| {
        let _proxy = start(node, PacketsHook::Clsact, &mut world(node.bed));
        let far = NetNs::anonymous().unwrap();
        create(node, "br-new", "new0", &far);
        let there = |name: &str| filters(node).contains_key(name);
        wait_until("filter at the new interface", PATIENCE, || there("new0")).unwrap();
        let mut handle = links(node);
        let index = |handle: &mut Handle, name| handle.link_by_name(name).unwrap().index;
        let (bridge, port) = (index(&mut handle, "br-new"), index(&mut handle, "new0"));
        let joins = LinkChange {
            master: Some(Some(bridge)),
            ..LinkChange::default()
        };
        handle.change_link(port, &joins).unwrap();
        let gone = || !there("new0") && hook(node, "new0").is_none();
        wait_until("filter and qdisc gone", PATIENCE, gone).unwrap();
        assert!(there("br-new"));
    });
}

/// Somebody else's filter of what leaves by an interface: the same program, by another name.
fn others(node: &Node<'_>, name: &str) -> Classifier {
    let theirs = Classifier {
        name: "theirs".to_owned(),
        priority: 1,
        handle: 1,
    };
    let mut handle = links(node);
    let index = handle.link_by_name(name).unwrap().index;
    let (_, ours) = filters(node)[name][0];
    let mut programs = loaded_programs().map(Result::unwrap);
    let program = programs.find(|program| program.id() == ours);
    let program = program.unwrap().fd().unwrap();
    handle
        .set_classifier(index, Side::Outgoing, &theirs, program.as_fd())
        .unwrap();
    theirs
}

#[test]
fn cleanup_takes_away_what_is_ours_and_leaves_what_others_made() {
    on_a_node(|node| {
        let far = NetNs::anonymous().unwrap();
        create(node, "br-theirs", "theirs0", &far);
        let mut handle = links(node);
        let index = |handle: &mut Handle, name| handle.link_by_name(name).unwrap().index;
        let theirs = index(&mut handle, "theirs0");
        handle.add_clsact(theirs).unwrap();
        let again = handle.add_clsact(theirs).unwrap_err();
        assert_eq!(again.errno(), Some(Errno::EEXIST));
        let proxy = start(node, PacketsHook::Clsact, &mut world(node.bed));
        assert_eq!(places(node), interfaces(node));
        let uses = others(node, "br-theirs");
        drop(proxy);
        // Without a daemon they stay.
        serves(node);
        for _ in 0..2 {
            let clean = || backend::cleanup(Mode::Ebpf, &node.cell.planes());
            node.bed.node.netns.run(clean).unwrap().unwrap();
            assert_eq!(filters(node), BTreeMap::new());
            for name in interfaces(node) {
                let stays = ["br-theirs", "theirs0"].contains(&name.as_str());
                let expected = stays.then(|| "clsact".to_owned());
                assert_eq!(hook(node, &name), expected, "{name}");
            }
            let bridge = index(&mut handle, "br-theirs");
            let left = handle.filters(bridge, Side::Outgoing).unwrap();
            let left: Vec<_> = left.into_iter().filter_map(|one| one.classifier).collect();
            assert_eq!(left.len(), 1);
            assert_eq!(left[0].0, uses);
        }
        let refused = |to: &SocketAddr| node.bed.client.netns.run(|| TcpStream::connect(to));
        assert!(
            refused(&node_port(node.bed, Family::V4, 1))
                .unwrap()
                .is_err()
        );
    });
}
