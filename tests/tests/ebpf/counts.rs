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
        metrics.set_ebpf(proxy.backend.ebpf_counts());
        let page = metrics.encode(Mode::Ebpf).unwrap();
        for line in [
            "ebpf_events_total{hook=\"socket\",event=\"connected_tcp\"} 5",
            "ebpf_events_total{hook=\"socket\",event=\"sent\"} 3",
            "ebpf_events_total{hook=\"socket\",event=\"torn\"} 0",
            "ebpf_events_total{hook=\"socket\",event=\"forgotten\"} 0",
            "ebpf_events_total{hook=\"packet\",event=\"connection\"} 0",
            "ebpf_drops_total{hook=\"socket\",reason=\"no_endpoint\"} 1",
            "ebpf_drops_total{hook=\"packet\",reason=\"no_room\"} 0",
            // Two Services, each with two families and two protocols.
            "ebpf_map_entries{map=\"frontends\"} 8",
            "ebpf_map_entries{map=\"backends\"} 8",
            // The UDP socket above, and one backend for it.
            "ebpf_map_entries{map=\"flows\"} 1",
            "ebpf_map_entries{map=\"connected_tcp\"} 0",
            "ebpf_map_entries{map=\"tracks\"} 0",
            "ebpf_map_max_entries{map=\"flows\"} 65536",
            "ebpf_map_max_entries{map=\"tracks\"} 4096",
        ] {
            let line = format!("causeway_{line}");
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    });
}
