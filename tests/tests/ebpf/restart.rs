//! A daemon that is killed, one that starts where one was before, and one that cleans up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use causeway_proxy::backend::{self, DataPlane as _};
use causeway_proxy::config::Mode;
use causeway_tests::packet_bed::{self, Bed, ask};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;

use crate::node::{Node, PATIENCE, StopAtEnd, bar_the_way, on_a_node};
use crate::world::{Proxy, World, at, node_port_service, service};

fn world(bed: &Bed) -> World {
    let mut world = World::empty();
    let mut third = node_port_service(3);
    third.client_ip_affinity = true;
    world.serve(bed, &service(1), &[1, 2]);
    world.serve(bed, &node_port_service(2), &[2, 3]);
    world.serve(bed, &third, &[1, 3]);
    world
}

#[test]
fn sockets_are_translated_while_no_daemon_runs_and_a_restart_writes_nothing() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        let mut proxy = node.start(&before);
        assert!(proxy.sync(&mut before).operations() > 100);
        drop(proxy);
        let pod = node.bed.pod(3);
        bar_the_way(pod);
        for family in Family::ALL {
            assert!([1, 2].contains(&node.tcp(pod, at(family, 1)).unwrap().pod));
        }
        let connect = || std::net::TcpStream::connect_timeout(&at(Family::V4, 1), PATIENCE);
        let mut stream = node.inside(pod, connect).unwrap();
        let answers = ask(&mut stream).unwrap().pod;

        let mut after = world(node.bed);
        let mut proxy = node.start(&after);
        let report = proxy.sync(&mut after);
        assert_eq!(report.operations(), 0, "{report:?}");
        assert!(report.families.values().all(|family| family.full));
        assert_eq!(ask(&mut stream).unwrap().pod, answers);
        let name = || stream.peer_addr().unwrap();
        assert_eq!(node.inside(pod, name), at(Family::V4, 1));
    });
}

#[test]
fn what_changed_while_nobody_looked_is_put_right() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        node.start(&before).sync(&mut before);
        let pod = node.bed.pod(1);
        bar_the_way(pod);
        let mut after = World::empty();
        after.serve(node.bed, &service(1), &[3]);
        let mut proxy = node.start(&after);
        assert!(
            node.tcp(pod, at(Family::V4, 2)).is_ok(),
            "nothing goes before the first pass"
        );
        proxy.sync(&mut after);
        for family in Family::ALL {
            assert_eq!(node.tcp(pod, at(family, 1)).unwrap().pod, 3);
            assert!(node.tcp(pod, at(family, 2)).is_err());
            assert!(node.tcp(pod, at(family, 3)).is_err());
        }
    });
}

/// Starts a daemon and lets it do its first pass, some times.
fn restart_often(node: &Node<'_>, world: &mut World) {
    for _ in 0..4 {
        let mut proxy = node.start(world);
        proxy.sync(world);
    }
}

#[test]
fn new_programs_take_over_without_a_moment_without_any() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        node.start(&world).sync(&mut world);
        let pod = node.bed.pod(3);
        bar_the_way(pod);
        let (stop, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
        let client = |family| {
            while !stop.load(Ordering::Relaxed) {
                packet_bed::tcp(at(family, 1), PATIENCE)?;
                tries.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, std::io::Error>(())
        };
        let (client, tries) = (&client, &tries);
        thread::scope(|scope| {
            let running = StopAtEnd(&stop);
            let clients =
                Family::ALL.map(|family| scope.spawn(move || node.inside(pod, || client(family))));
            let before = connections(tries, 20);
            restart_often(node, &mut world);
            assert!(
                tries.load(Ordering::Relaxed) > before,
                "nobody connected meanwhile"
            );
            drop(running);
            for client in clients {
                client.join().unwrap().unwrap();
            }
        });
    });
}

/// Waits for that many connections; how many there are then.
fn connections(tries: &AtomicUsize, enough: usize) -> usize {
    let made = || tries.load(Ordering::Relaxed);
    wait_until("connections", PATIENCE, || made() >= enough).unwrap();
    made()
}

#[test]
fn removed_pins_are_noticed_and_made_again() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let drifted = |proxy: &mut Proxy<'_, backend::ebpf::EbpfBackend>| {
            let check = || proxy.backend.check().unwrap();
            node.bed.node.netns.run(check).unwrap()
        };
        assert!(!drifted(&mut proxy));
        let link = node.cell.options().pins.join("links/connect4");
        std::fs::remove_file(&link).unwrap();
        assert!(drifted(&mut proxy));
        proxy.sync(&mut world);
        assert!(!drifted(&mut proxy));
        let pod = node.bed.pod(3);
        bar_the_way(pod);
        assert!(node.tcp(pod, at(Family::V4, 1)).is_ok());
    });
}

#[test]
fn cleanup_leaves_neither_pins_nor_programs() {
    on_a_node(|node| {
        let mut world = world(node.bed);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let pod = node.bed.pod(3);
        bar_the_way(pod);
        drop(proxy);
        assert!(node.tcp(pod, at(Family::V4, 1)).is_ok());
        for _ in 0..2 {
            backend::cleanup(Mode::Ebpf, &node.cell.planes()).unwrap();
            assert!(!node.cell.options().pins.exists());
        }
        // The kernel detaches in the background.
        for family in Family::ALL {
            let free = || node.tcp(pod, at(family, 1)).is_err();
            wait_until("program on the cgroup gone", PATIENCE, free).unwrap();
        }
    });
}
