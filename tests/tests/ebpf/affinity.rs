//! Who is remembered as one client, and for how long: over whatever becomes of the daemon.

use std::net::SocketAddr;

use causeway_ebpf_abi::LASTING;
use causeway_proxy::backend::ebpf::OBJECT;
use lb_model::Family;

use crate::cluster::Cluster;
use crate::node::{Node, bar_the_way, on_a_node};
use crate::upgrade::{changed, grow_old, put_with, start, wait_for};
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

#[test]
fn clients_stay_when_the_maps_of_connections_get_another_layout() {
    on_a_node(|node| {
        let mut before = world(node);
        bar_the_way(node.bed.pod(3));
        node.start(&before).sync(&mut before);
        let found = everybody(node);
        for (group, layout, _) in LASTING {
            let old = grow_old(&node.cell.options().pins, group, layout, 0);
            let mut after = world(node);
            let mut proxy = node.start(&after);
            proxy.sync(&mut after);
            assert!(!old.exists(), "{} is left", old.display());
            assert_eq!(everybody(node), found, "another layout of {group}");
        }
    });
}

#[test]
fn clients_stay_over_kills_of_the_daemon() {
    on_a_node(|node| {
        let cluster = Cluster::new(node.bed);
        let webs = SERVICES.map(|n| {
            put_with(&cluster, node.bed, n.into(), |spec| {
                spec["type"] = "NodePort".into();
                spec["ports"][0]["nodePort"] = (30_000 + u16::from(n)).into();
                spec["sessionAffinity"] = "ClientIP".into();
            })
        });
        let webs: Vec<SocketAddr> = webs.collect();
        let mut proxy = start(&cluster, node);
        bar_the_way(node.bed.pod(3));
        webs.iter().for_each(|web| wait_for(node, *web));
        let pods = || {
            let inside = webs.iter().map(|web| node.tcp(node.bed.pod(3), *web));
            let inside: Vec<usize> = inside.map(|seen| seen.unwrap().pod).collect();
            [inside, outside(node, Family::V4)]
        };
        let found = pods();
        for turn in 0..2 {
            proxy.kill().unwrap();
            assert_eq!(pods(), found);
            proxy = start(&cluster, node);
            // Then it has done its work.
            let new = usize::from(*SERVICES.end()) + 1 + turn;
            wait_for(node, put_with(&cluster, node.bed, new, |_| ()));
            assert_eq!(pods(), found);
        }
        assert!(proxy.terminate().unwrap().success());
    });
}
