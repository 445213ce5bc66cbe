//! Where ClusterIPs are for sockets only, the program on packets is at interfaces while a Service can
//! be reached from outside, and as long as a connection needs it.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use causeway_proxy::backend::ebpf::{EbpfBackend, Frames, Options, PacketsHook};
use causeway_proxy::backend::{self, DataPlane as _};
use causeway_proxy::config::Mode;
use causeway_tests::packet_bed::{self, POD_PORT, ask};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use lb_model::said::{Event, Service};
use nodekit::nft::NftSocket;
use nodekit::route::{Handle, Side};

use crate::node::{Node, PATIENCE, StopAtEnd, bar_the_way, on_a_node};
use crate::tracks::hurried;
use crate::world::{Proxy, World, at, node_port, node_port_service, service};

const HOOKS: [PacketsHook; 2] = [PacketsHook::Tcx, PacketsHook::Clsact];

fn options(node: &Node<'_>, packets_hook: PacketsHook) -> Options {
    Options {
        packets_hook,
        external_cluster_ips: false,
        ..hurried(node)
    }
}

/// The interfaces that have a program on packets, by link or by filter.
pub(crate) fn hooked(node: &Node<'_>) -> BTreeSet<String> {
    let mut handle = Handle::open_in(&node.bed.node.netns).unwrap();
    let mut found = BTreeSet::new();
    for link in handle.links().unwrap() {
        let filters = handle.filters(link.index, Side::Incoming).unwrap();
        let by_filter = filters.iter().any(|one| one.classifier.is_some());
        if by_filter || node.programs_at(&link.name) > 0 {
            found.insert(link.name);
        }
    }
    found
}

/// Those that should have one, where any has.
fn all(node: &Node<'_>) -> BTreeSet<String> {
    let mut handle = Handle::open_in(&node.bed.node.netns).unwrap();
    let links = handle.links().unwrap().into_iter();
    let seen = links.filter(|link| link.name != "lo" && link.master.is_none());
    seen.map(|link| link.name).collect()
}

fn told(proxy: &Proxy<'_, EbpfBackend>) -> usize {
    let counts = proxy.backend.ebpf_counts().unwrap();
    usize::try_from(counts.hooked()).unwrap()
}

/// Waits until no interface has a program.
fn wait_for_none(node: &Node<'_>, proxy: &Proxy<'_, EbpfBackend>) {
    let none = || hooked(node).is_empty() && told(proxy) == 0;
    wait_until("free interfaces", 12 * PATIENCE, none).unwrap();
}

/// So many more times it was looked whether a connection is left.
fn sweeps(node: &Node<'_>, times: u32) {
    let then = crate::tracks::generation(node) + times;
    let swept = || crate::tracks::generation(node) >= then;
    wait_until("sweeps", 6 * PATIENCE, swept).unwrap();
}

/// A Service with an external IP.
fn external(n: u8) -> Service {
    let mut service = service(n);
    service.external_ips = vec![format!("203.0.113.{n}")];
    service
}

/// Everybody on this node reaches `n`, by TCP and UDP.
fn serves_sockets(node: &Node<'_>, n: u8) {
    for family in Family::ALL {
        let to = at(family, n);
        for host in [node.bed.pod(1), node.bed.pod(3), &node.bed.node] {
            assert!([2, 3].contains(&node.tcp(host, to).unwrap().pod));
        }
        let pod = node.bed.pod(1);
        let ask = || packet_bed::udp(pod.ip(family), to, PATIENCE, 1);
        assert!([2, 3].contains(&node.inside(pod, ask).unwrap().pod));
    }
}

/// Clients outside reach `to`.
fn serves_clients(node: &Node<'_>, to: SocketAddr) {
    assert!([2, 3].contains(&node.bed.client.tcp(to).unwrap().pod));
    assert!([2, 3].contains(&node.bed.client.udp(to).unwrap().pod));
}

fn has_tables(node: &Node<'_>) -> bool {
    let list = || NftSocket::open().unwrap().tables(None).unwrap();
    !node.bed.node.netns.run(list).unwrap().is_empty()
}

#[test]
fn cluster_ips_for_sockets_only_put_no_program_at_any_interface() {
    for hook in HOOKS {
        on_a_node(|node| {
            let mut world = World::empty();
            world.serve(node.bed, &service(1), &[2, 3]);
            world.serve(node.bed, &service(2), &[]);
            let mut proxy = node.start_with(&world, &options(node, hook));
            proxy.sync(&mut world);
            assert_eq!(hooked(node), BTreeSet::new());
            assert_eq!(told(&proxy), 0);
            for host in [node.bed.pod(1), node.bed.pod(3)] {
                bar_the_way(host);
            }
            serves_sockets(node, 1);
            let refused = node.tcp(node.bed.pod(1), at(Family::V4, 2)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            // Another host's packets take the route that they take: here, back outside.
            let outside = || packet_bed::tcp(at(Family::V4, 1), Duration::from_millis(200));
            assert!(node.bed.client.netns.run(outside).unwrap().is_err());

            sweeps(node, 3);
            let check = || proxy.backend.check().unwrap();
            assert!(!node.bed.node.netns.run(check).unwrap(), "that is no drift");
            assert_eq!(hooked(node), BTreeSet::new());
            assert!(!has_tables(node));
        });
    }
}

/// Its answers come in by no interface, which no socket needs.
#[test]
fn an_endpoint_that_is_the_node_itself_needs_neither_interfaces_nor_nftables() {
    on_a_node(|node| {
        let mut world = World::empty();
        let here = service(1);
        world.say(Event::Service(here.clone()));
        for family in Family::ALL {
            let mut slice = world.slice(node.bed, &here, family, &[1]);
            slice.endpoints[0].addresses = vec![node.bed.node.ip(family).to_string()];
            world.say(Event::Slice(slice));
        }
        let mut proxy = node.start_with(&world, &options(node, PacketsHook::Auto));
        proxy.sync(&mut world);
        assert!(hooked(node).is_empty() && !has_tables(node));
        for family in Family::ALL {
            let own = SocketAddr::new(node.bed.node.ip(family), POD_PORT);
            let bind = || TcpListener::bind(own).unwrap();
            let listener = node.bed.node.netns.run(bind).unwrap();
            for host in [node.bed.pod(1), &node.bed.node] {
                let connect = || TcpStream::connect_timeout(&at(family, 1), PATIENCE).unwrap();
                let stream = node.inside(host, connect);
                let (_, client) = listener.accept().unwrap();
                assert_eq!(client, stream.local_addr().unwrap());
            }
        }
    });
}

#[test]
fn the_program_comes_with_the_first_reachable_service_and_goes_with_the_last_connection() {
    for hook in HOOKS {
        on_a_node(|node| comes_and_goes(node, hook));
    }
}

fn comes_and_goes(node: &Node<'_>, hook: PacketsHook) {
    let mut world = World::empty();
    world.serve(node.bed, &service(1), &[2, 3]);
    let mut proxy = node.start_with(&world, &options(node, hook));
    proxy.sync(&mut world);
    assert_eq!(hooked(node), BTreeSet::new());
    let connect = || TcpStream::connect_timeout(&at(Family::V4, 1), PATIENCE).unwrap();
    let mut inside = node.inside(node.bed.pod(1), connect);
    let pod = ask(&mut inside).unwrap().pod;

    let (by_port, by_address) = (node_port_service(2), external(3));
    world.serve(node.bed, &by_port, &[2, 3]);
    proxy.sync(&mut world);
    assert_eq!(hooked(node), all(node));
    assert_eq!(told(&proxy), all(node).len());
    let mut outside = Family::ALL.map(|family| {
        let to = node_port(node.bed, family, 2);
        serves_clients(node, to);
        node.bed.client.connect(to).unwrap()
    });
    let pods = outside.each_mut().map(|stream| ask(stream).unwrap().pod);

    world.serve(node.bed, &by_address, &[2, 3]);
    proxy.sync(&mut world);
    serves_clients(node, "203.0.113.3:80".parse().unwrap());
    world.gone(&by_port);
    proxy.sync(&mut world);
    sweeps(node, 5);
    assert_eq!(hooked(node), all(node), "there is another one");
    world.gone(&by_address);
    proxy.sync(&mut world);
    sweeps(node, 5);
    assert_eq!(hooked(node), all(node), "connections are left");
    let still = outside.each_mut().map(|stream| ask(stream).unwrap().pod);
    assert_eq!(still, pods);

    drop(outside);
    wait_for_none(node, &proxy);
    assert_eq!(ask(&mut inside).unwrap().pod, pod);
    serves_sockets(node, 1);

    world.serve(node.bed, &by_port, &[2, 3]);
    proxy.sync(&mut world);
    assert_eq!(hooked(node), all(node));
    serves_clients(node, node_port(node.bed, Family::V6, 2));
    assert_eq!(ask(&mut inside).unwrap().pod, pod);
}

#[test]
fn a_restart_finds_the_program_and_a_later_one_takes_it_away() {
    for hook in HOOKS {
        on_a_node(|node| {
            let by_port = node_port_service(2);
            let to = node_port(node.bed, Family::V4, 2);
            let world = || {
                let mut world = World::empty();
                world.serve(node.bed, &service(1), &[2, 3]);
                world.serve(node.bed, &by_port, &[2, 3]);
                world
            };
            let mut first = node.start_with(&world(), &options(node, hook));
            first.sync(&mut world());
            let mut kept = node.bed.client.connect(to).unwrap();
            let pod = ask(&mut kept).unwrap().pod;
            drop(first);

            // The Service went while no daemon ran; the connection did not.
            let mut after = world();
            after.gone(&by_port);
            let mut second = node.start_with(&after, &options(node, hook));
            second.sync(&mut after);
            sweeps(node, 5);
            assert_eq!(hooked(node), all(node));
            assert_eq!(ask(&mut kept).unwrap().pod, pod);
            drop(second);
            drop(kept);
            let mut third = node.start_with(&after, &options(node, hook));
            assert_eq!(hooked(node), all(node), "nothing was said yet");
            third.sync(&mut after);
            wait_for_none(node, &third);
            drop(third);

            let mut fourth = node.start_with(&after, &options(node, hook));
            fourth.sync(&mut after);
            assert_eq!(hooked(node), BTreeSet::new());
        });
    }
}

/// Who served everybody before: a connection from outside to a ClusterIP goes on, and is the last.
#[test]
fn going_over_to_sockets_only_and_back_ends_no_connection() {
    for hook in HOOKS {
        on_a_node(|node| {
            let world = || {
                let mut world = World::empty();
                world.serve(node.bed, &service(1), &[2, 3]);
                world
            };
            let everybody = Options {
                external_cluster_ips: true,
                ..options(node, hook)
            };
            let to = at(Family::V4, 1);
            let mut before = node.start_with(&world(), &everybody);
            before.sync(&mut world());
            assert_eq!(hooked(node), all(node));
            let mut kept = node.bed.client.connect(to).unwrap();
            let pod = ask(&mut kept).unwrap().pod;
            drop(before);

            let mut between = node.start_with(&world(), &options(node, hook));
            between.sync(&mut world());
            let outside = || packet_bed::tcp(to, Duration::from_millis(200));
            assert!(node.bed.client.netns.run(outside).unwrap().is_err());
            sweeps(node, 5);
            assert_eq!(hooked(node), all(node));
            assert_eq!(ask(&mut kept).unwrap().pod, pod);
            drop(kept);
            wait_for_none(node, &between);
            drop(between);

            let mut after = node.start_with(&world(), &everybody);
            after.sync(&mut world());
            assert_eq!(hooked(node), all(node));
            assert!([2, 3].contains(&node.bed.client.tcp(to).unwrap().pod));
            drop(after);
            backend::cleanup(Mode::Ebpf, &node.cell.planes()).unwrap();
            // The kernel detaches in the background.
            let none = || hooked(node).is_empty();
            wait_until("interfaces free", PATIENCE, none).unwrap();
        });
    }
}

#[test]
fn an_interface_that_comes_while_nobody_needs_the_program_gets_it_with_the_others() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        let mut proxy = node.start_with(&world, &options(node, PacketsHook::Auto));
        proxy.sync(&mut world);
        let mut ip = Command::new("ip");
        ip.args([
            "link", "add", "new0", "type", "veth", "peer", "name", "new1",
        ]);
        let output = node.bed.node.netns.run(|| ip.output()).unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        sweeps(node, 5);
        assert_eq!(hooked(node), BTreeSet::new());
        world.serve(node.bed, &node_port_service(2), &[2, 3]);
        proxy.sync(&mut world);
        let with_both = all(node);
        assert!(with_both.contains("new0") && with_both.contains("new1"));
        assert_eq!(hooked(node), with_both);
    });
}

#[test]
fn programs_in_drivers_come_and_go_with_it() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        let native = Options {
            frames: Frames::Native,
            ..options(node, PacketsHook::Auto)
        };
        let mut proxy = node.start_with(&world, &native);
        proxy.sync(&mut world);
        let in_drivers = || {
            let pins = std::fs::read_dir(native.pins.join("links")).unwrap();
            let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with("xdp-")).count()
        };
        assert_eq!(in_drivers(), 0);
        let by_port = node_port_service(2);
        world.serve(node.bed, &by_port, &[2, 3]);
        proxy.sync(&mut world);
        assert!(in_drivers() > 0);
        world.gone(&by_port);
        proxy.sync(&mut world);
        wait_for_none(node, &proxy);
        assert_eq!(in_drivers(), 0);
    });
}

/// Pods that connect all the time, and clients that come with each reachable Service.
#[test]
fn no_connection_fails_while_the_program_comes_and_goes() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        let mut proxy = node.start_with(&world, &options(node, PacketsHook::Auto));
        proxy.sync(&mut world);
        bar_the_way(node.bed.pod(1));
        let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
        let failures = Mutex::new(Vec::new());
        let connect = || {
            while !stop.load(Ordering::Relaxed) {
                match packet_bed::tcp(at(Family::V4, 1), PATIENCE) {
                    Ok(_) => made.fetch_add(1, Ordering::Relaxed),
                    Err(error) => return failures.lock().unwrap().push(error),
                };
                thread::sleep(Duration::from_millis(1));
            }
        };
        let by_port = node_port_service(2);
        thread::scope(|scope| {
            let running = StopAtEnd(&stop);
            scope.spawn(|| node.inside(node.bed.pod(1), connect));
            for _ in 0..2 {
                world.serve(node.bed, &by_port, &[2, 3]);
                proxy.sync(&mut world);
                for family in Family::ALL {
                    serves_clients(node, node_port(node.bed, family, 2));
                }
                world.gone(&by_port);
                proxy.sync(&mut world);
                wait_for_none(node, &proxy);
            }
            drop(running);
        });
        assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
        assert!(made.load(Ordering::Relaxed) > 0);
    });
}
