//! Who is remembered as one client, and for how long: over whatever becomes of the daemon.

use causeway_proxy::backend::ebpf::OBJECT;
use lb_model::Family;

use crate::node::{Node, bar_the_way, on_a_node};
use crate::upgrade::changed;
use crate::world::{World, at, node_port, node_port_service};

/// So many Services that chance does not make a difference: whoever is forgotten is with the same
/// pod of two at all of them once in 16 million times.
const SERVICES: std::ops::RangeInclusive<u8> = 1..=24;

fn world(node: &Node<'_>) -> World {
    let mut world = World::empty();
    for n in SERVICES {
        let mut service = node_port_service(n);
        service.client_ip_affinity = true;
        world.serve(node.bed, &service, &[1, 2]);
    }
    world
}

/// With which pod of each Service a pod's sockets are.
fn inside(node: &Node<'_>, pod: usize, family: Family) -> Vec<usize> {
    let connect = |n| node.tcp(node.bed.pod(pod), at(family, n)).unwrap().pod;
    SERVICES.map(connect).collect()
}

/// With which pod of each Service a client outside is.
fn outside(node: &Node<'_>, family: Family) -> Vec<usize> {
    let connect = |n| node.bed.client.tcp(node_port(node.bed, family, n));
    SERVICES.map(|n| connect(n).unwrap().pod).collect()
}

/// Everybody, everywhere.
fn everybody(node: &Node<'_>) -> Vec<Vec<usize>> {
    let of = |family| [inside(node, 3, family), outside(node, family)];
    Family::ALL.into_iter().flat_map(of).collect()
}

#[test]
fn two_pods_are_two_clients() {
    on_a_node(|node| {
        let mut world = world(node);
        for pod in [2, 3] {
            bar_the_way(node.bed.pod(pod));
        }
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        for family in Family::ALL {
            let [one, other] = [2, 3].map(|pod| inside(node, pod, family));
            assert_ne!(one, other);
            assert_eq!(inside(node, 2, family), one);
            assert_eq!(inside(node, 3, family), other);
        }
    });
}

#[test]
fn clients_stay_over_a_restart_and_with_other_programs() {
    on_a_node(|node| {
        let mut before = world(node);
        bar_the_way(node.bed.pod(3));
        node.start(&before).sync(&mut before);
        let found = everybody(node);
        for object in [OBJECT, &changed(OBJECT)] {
            let mut after = world(node);
            let mut proxy = node.open(object, &after, &node.cell.options());
            assert_eq!(proxy.sync(&mut after).operations(), 0);
            assert_eq!(everybody(node), found);
            drop(proxy);
            assert_eq!(everybody(node), found);
        }
    });
}
