//! The program in drivers (XDP), or behind them: where it goes, who has it already, and that packets turn
//! there.

use std::fs;
use std::process::Command;

use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use causeway_proxy::backend::ebpf::{self, EbpfBackend, Frames, Options};
use causeway_proxy::backend::{self, DataPlane as _};
use causeway_proxy::config::Mode;
use causeway_tests::proxy_bed::{PORTS, wait_until};
use lb_model::Family;
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Route};
use serde_json::Value;

use crate::daemon::{self, in_a_cell};
use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{Proxy, World, at, node_port, node_port_service};

/// Behind it is pod 3, as if other nodes and their pods were there.
const WAY_OUT: &str = "veth3";

/// A Service whose only endpoint leaves by where its client came.
fn world(node: &Node<'_>) -> World {
    let pod = node.bed.pod(3);
    let mut beyond = Route::to("10.245.0.0/16".parse().unwrap());
    beyond.gateway = Some(pod.ip(Family::V4));
    let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
    links.add_route(&beyond).unwrap();
    // As if it were a real link: who sends finishes checksums.
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["--offload", "eth0", "tx", "off"]);
    let output = pod.netns.run(|| ethtool.output()).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    same_world(node)
}

/// A program of somebody else in the driver of a link of `netns`; it lets everything go on.
fn others_program(node: &Node<'_>, netns: &NetNs, link: &str) -> Ebpf {
    let others = node.cell.options().pins.with_file_name("others");
    fs::create_dir_all(&others).unwrap();
    let mut loader = EbpfLoader::new();
    let mut theirs = loader
        .default_map_pin_directory(&others)
        .load(ebpf::OBJECT)
        .unwrap();
    let program: &mut Xdp = theirs.program_mut("frames").unwrap().try_into().unwrap();
    program.load().unwrap();
    let attach = || program.attach(link, XdpMode::Driver).unwrap();
    netns.run(attach).unwrap();
    theirs
}

fn same_world(node: &Node<'_>) -> World {
    let mut world = World::empty();
    world.serve(node.bed, &node_port_service(1), &[3]);
    world
}

fn options(node: &Node<'_>, frames: Frames) -> Options {
    Options {
        frames,
        ..node.cell.options()
    }
}

/// A daemon that has done its first pass.
fn start<'a>(node: &Node<'a>, world: &mut World, frames: Frames) -> Proxy<'a, EbpfBackend> {
    let mut proxy = node.start_with(world, &options(node, frames));
    proxy.sync(world);
    proxy
}

/// Whether it is in the driver or behind it (`XDP_ATTACHED_DRV`, `XDP_ATTACHED_SKB`, linux/if_link.h).
const fn mode(frames: Frames) -> u64 {
    match frames {
        Frames::Generic => 2,
        _ => 1,
    }
}

/// The mode and the number of a link's program on the node (`IFLA_XDP`, linux/if_link.h).
fn program(node: &Node<'_>, link: &str) -> Option<(u64, u64)> {
    let mut ip = Command::new("ip");
    ip.args(["-json", "link", "show", "dev", link]);
    let output = node.bed.node.netns.run(|| ip.output()).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let xdp = &told[0]["xdp"];
    let number = |value: &Value| value.as_u64().unwrap();
    (!xdp.is_null()).then(|| (number(&xdp["mode"]), number(&xdp["prog"]["id"])))
}

fn is_free(node: &Node<'_>) -> bool {
    program(node, WAY_OUT).is_none()
}

/// The pins of its attachments.
fn pins(node: &Node<'_>) -> Vec<String> {
    let links = fs::read_dir(node.cell.options().pins.join("links")).unwrap();
    let names = links.map(|link| link.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("xdp-")).collect()
}

fn turned(proxy: &Proxy<'_, EbpfBackend>) -> u64 {
    let counts = proxy.backend.ebpf_counts().unwrap();
    let mut events = counts.events();
    events.find(|event| event.hook == "xdp").unwrap().count
}

/// Connections work in all ways, and sooner or later some of their packets turn.
fn packets_turn(node: &Node<'_>, proxy: &Proxy<'_, EbpfBackend>) {
    let pod = node.bed.pod(3);
    for family in Family::ALL {
        for to in [at(family, 1), node_port(node.bed, family, 1)] {
            let before = turned(proxy);
            wait_until("a packet that turns", PATIENCE, || {
                assert_eq!(pod.tcp(to).unwrap().pod, 3, "{to}");
                assert_eq!(pod.udp(to).unwrap().pod, 3, "{to}");
                turned(proxy) > before
            })
            .unwrap();
        }
    }
}

#[test]
fn packets_turn_at_ways_out_and_a_restart_replaces_the_program_in_place() {
    for frames in [Frames::Native, Frames::Generic] {
        on_a_node(|node| {
            let mut before = world(node);
            // Without it what turns in the driver would not arrive.
            let other_end = || others_program(node, &node.bed.pod(3).netns, "eth0");
            let _other_end = (frames == Frames::Native).then(other_end);
            let proxy = start(node, &mut before, frames);
            let first = program(node, WAY_OUT).unwrap();
            assert_eq!(first.0, mode(frames));
            assert_eq!(program(node, "veth1"), None, "no way out");
            packets_turn(node, &proxy);
            let held = pins(node);
            drop(proxy);
            assert_eq!(program(node, WAY_OUT), Some(first));

            let mut after = same_world(node);
            let proxy = start(node, &mut after, frames);
            let second = program(node, WAY_OUT).unwrap();
            assert_eq!(second.0, mode(frames));
            assert_ne!(second, first, "the new daemon's program");
            assert_eq!(pins(node), held);
            packets_turn(node, &proxy);
            drop(proxy);
            backend::cleanup(Mode::Ebpf, &node.cell.planes()).unwrap();
            // The kernel detaches in the background.
            wait_until("interface free", PATIENCE, || is_free(node)).unwrap();
        });
    }
}

/// At virtual pairs that is what `auto` does as well.
#[test]
fn who_does_not_want_it_any_more_gets_rid_of_it() {
    for before in [Frames::Native, Frames::Generic] {
        for frames in [Frames::Auto, Frames::Off] {
            on_a_node(|node| {
                let mut world = world(node);
                drop(start(node, &mut world, before));
                assert!(!is_free(node));
                let mut next = same_world(node);
                drop(start(node, &mut next, frames));
                assert_eq!(pins(node), [""; 0], "{before:?}, {frames:?}");
                wait_until("interface free", PATIENCE, || is_free(node)).unwrap();
            });
        }
    }
}

/// Both cannot be at an interface at once.
#[test]
fn the_program_goes_from_the_driver_to_behind_it_and_back() {
    on_a_node(|node| {
        let mut first = world(node);
        let _other_end = others_program(node, &node.bed.pod(3).netns, "eth0");
        drop(start(node, &mut first, Frames::Native));
        for frames in [Frames::Generic, Frames::Native] {
            let mut world = same_world(node);
            let proxy = start(node, &mut world, frames);
            let now = program(node, WAY_OUT).map(|(mode, _)| mode);
            assert_eq!(now, Some(mode(frames)), "at the first pass");
            let held = pins(node);
            let behind = |pin: &String| pin.starts_with("xdp-generic-");
            assert_eq!(held.iter().all(behind), frames == Frames::Generic);
            assert_eq!(held.iter().any(behind), frames == Frames::Generic);
            packets_turn(node, &proxy);
        }
    });
}

#[test]
fn the_program_of_somebody_else_stays_and_nothing_fails() {
    on_a_node(|node| {
        let mut world = world(node);
        let theirs = others_program(node, &node.bed.node.netns, WAY_OUT);
        let before = program(node, WAY_OUT);
        assert!(before.is_some());

        let mut proxy = start(node, &mut world, Frames::Native);
        assert_eq!(program(node, WAY_OUT), before);
        let ours = |node: &Node<'_>| pins(node).iter().any(|pin| pin.ends_with(&index(node)));
        assert!(!ours(node), "{:?}", pins(node));
        let check = || proxy.backend.check().unwrap();
        assert!(!node.bed.node.netns.run(check).unwrap(), "that is no drift");
        assert_eq!(node.bed.pod(3).tcp(at(Family::V4, 1)).unwrap().pod, 3);
        drop(theirs);
        wait_until("ours", PATIENCE, || {
            proxy.sync(&mut world);
            ours(node)
        })
        .unwrap();
    });
}

/// The end of the pin's name.
fn index(node: &Node<'_>) -> String {
    let mut links = Handle::open_in(&node.bed.node.netns).unwrap();
    format!("-{}", links.link_by_name(WAY_OUT).unwrap().index)
}

/// A folder stands where a pin could be, so that each look fails.
#[test]
fn what_keeps_it_from_its_place_is_said_once_and_its_end_as_well() {
    in_a_cell(|| {
        let node = daemon::Node::new();
        let web = node.put("web", 0, PORTS[0]);
        let proxy = node.start();
        node.wait_for(web, PORTS[0]);
        let folder = node.cell.options().pins.join("links/xdp-99999");
        fs::create_dir(&folder).unwrap();
        let said = |text: &str| proxy.log().unwrap().matches(text).count();
        for name in ["a", "b", "c"] {
            node.add_link(name);
        }
        let wrong = "XDP is not where it should be";
        wait_until(wrong, daemon::PATIENCE, || said(wrong) > 0).unwrap();
        fs::remove_dir(&folder).unwrap();
        node.add_link("d");
        let right = "XDP is where it should be again";
        wait_until(right, daemon::PATIENCE, || said(right) > 0).unwrap();
        node.add_link("e");
        assert_eq!(
            [said(wrong), said(right)],
            [1, 1],
            "{}",
            proxy.log().unwrap()
        );
        assert!(proxy.terminate().unwrap().success());
    });
}
