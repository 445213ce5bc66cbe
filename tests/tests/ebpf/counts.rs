//! What the programs count, on the page that Prometheus reads.

use std::net::UdpSocket;

use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::config::Mode;
use causeway_proxy::metrics::Metrics;
use lb_model::Family;

use crate::node::on_a_node;
use crate::world::{World, at, service};

#[test]
fn calls_and_entries_are_on_the_page_also_after_a_restart() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        world.serve(node.bed, &service(2), &[]);
        drop(node.start_for_sockets_only(&mut world));
        let pod = node.bed.pod(1);
        for _ in 0..5 {
            node.tcp(pod, at(Family::V4, 1)).unwrap();
        }
        node.tcp(pod, at(Family::V6, 2)).unwrap_err();
        let send = || {
            let socket = UdpSocket::bind((pod.ip(Family::V6), 0)).unwrap();
            for _ in 0..3 {
                socket.send_to(b"?", at(Family::V6, 1)).unwrap();
            }
        };
        node.inside(pod, send);

        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let metrics = Metrics::new();
        metrics.set_sockets(proxy.backend.socket_counts());
        let page = metrics.encode(Mode::Ebpf).unwrap();
        for line in [
            "ebpf_sockets_total{event=\"connected\"} 5",
            "ebpf_sockets_total{event=\"sent\"} 3",
            "ebpf_sockets_total{event=\"refused\"} 1",
            "ebpf_sockets_total{event=\"torn\"} 0",
            "ebpf_sockets_total{event=\"forgotten\"} 0",
            // Two Services, each with two families and two protocols.
            "ebpf_map_entries{map=\"frontends\"} 8",
            "ebpf_map_entries{map=\"backends\"} 8",
        ] {
            let line = format!("causeway_{line}");
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    });
}
