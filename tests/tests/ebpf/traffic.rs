//! What is counted for Services and their endpoints.

use std::net::UdpSocket;

use causeway_ebpf_abi::maps;
use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::Options;
use causeway_proxy::config::Mode;
use causeway_proxy::metrics::Metrics;
use causeway_tests::packet_bed::ask;
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;

use crate::looks::shown;
use crate::node::{Node, PATIENCE, on_a_node};
use crate::tracks::hurried;
use crate::world::{World, at, node_port, node_port_service, service};

/// (Service port, pod, connections, refused) of each row; of no pod, the Service port's own.
fn rows(node: &Node<'_>) -> Vec<(String, Option<usize>, u64, u64)> {
    let pod = |backend: &str| {
        let ip = backend.parse::<std::net::SocketAddr>().unwrap().ip();
        let is = |pod: &usize| node.bed.pod(*pod).ip(Family::of(ip)) == ip;
        [1, 2, 3].into_iter().find(is).unwrap()
    };
    let row = |row: serde_json::Value| {
        let number = |field: &str| row[field].as_u64().unwrap();
        let text = |field: &str| row[field].as_str().unwrap();
        (
            format!("{}/{}:{}", text("namespace"), text("service"), text("port")),
            row["backend"].as_str().map(pod),
            number("connections"),
            number("refused"),
        )
    };
    shown(node, "traffic").into_iter().map(row).collect()
}

/// Five connections, and two datagrams of one flow, of a pod to Service 1; one to Service 2.
fn talk(node: &Node<'_>) {
    let pod = node.bed.pod(1);
    for _ in 0..5 {
        node.tcp(pod, at(Family::V4, 1)).unwrap();
    }
    let send = || {
        let socket = UdpSocket::bind((pod.ip(Family::V4), 0)).unwrap();
        for _ in 0..2 {
            socket.send_to(b"?", at(Family::V4, 1)).unwrap();
        }
    };
    node.inside(pod, send);
    drop(node.tcp(pod, at(Family::V4, 2)));
}

/// Service 1 has `pods` behind it, Service 2 nobody.
fn world(node: &Node<'_>, pods: &[usize]) -> World {
    let mut world = World::empty();
    world.serve(node.bed, &service(1), pods);
    world.serve(node.bed, &service(2), &[]);
    world
}

#[test]
fn connections_are_counted_across_restarts_and_forgotten_with_their_service() {
    on_a_node(|node| {
        drop(node.start_for_sockets_only(&mut world(node, &[2])));
        talk(node);
        let row = |name: &str, pod, connections, refused| {
            (format!("default/{name}"), pod, connections, refused)
        };
        let talked = [
            row("s1:tcp", None, 5, 0),
            row("s1:tcp", Some(2), 5, 0),
            row("s1:udp", None, 1, 0),
            row("s1:udp", Some(2), 1, 0),
            row("s2:tcp", None, 0, 1),
        ];
        assert_eq!(rows(node), talked);
        // Another endpoint now; what the Service port has is not less for that.
        drop(node.start_for_sockets_only(&mut world(node, &[3])));
        let own = talked.iter().filter(|row| row.1.is_none()).cloned();
        assert_eq!(rows(node), own.collect::<Vec<_>>());
        talk(node);
        let twice = [
            row("s1:tcp", None, 10, 0),
            row("s1:tcp", Some(3), 5, 0),
            row("s1:udp", None, 2, 0),
            row("s1:udp", Some(3), 1, 0),
            row("s2:tcp", None, 0, 2),
        ];
        assert_eq!(rows(node), twice);

        let mut gone = world(node, &[3]);
        let mut proxy = node.start(&gone);
        proxy.sync(&mut gone);
        gone.gone(&service(1));
        proxy.sync(&mut gone);
        // What is of endpoints goes with the next look, or restart.
        let services = rows(node).into_iter().filter(|row| row.1.is_none());
        assert_eq!(services.collect::<Vec<_>>(), twice[4..]);
    });
}

#[test]
fn the_page_has_them_by_service_port_unless_nobody_wants_it() {
    on_a_node(|node| {
        let mut before = world(node, &[2, 3]);
        let proxy = node.start_for_sockets_only(&mut before);
        talk(node);
        let page = |counts| {
            let metrics = Metrics::new();
            metrics.set_ebpf(counts);
            metrics.encode(Mode::Ebpf).unwrap()
        };
        let shown = page(proxy.backend.ebpf_counts());
        for (what, service, port, count) in [
            ("connections", "s1", "tcp", 5),
            ("connections", "s1", "udp", 1),
            ("refused", "s1", "tcp", 0),
            ("refused", "s2", "tcp", 1),
        ] {
            let line = format!(
                "causeway_ebpf_service_{what}_total{{namespace=\"default\",service=\"{service}\",\
                 port=\"{port}\"}} {count}"
            );
            assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
        }
        drop(proxy);
        let options = Options {
            service_metrics: false,
            ..node.cell.options()
        };
        let proxy = node.start_with(&before, &options);
        let hidden = page(proxy.backend.ebpf_counts());
        assert!(!hidden.contains("causeway_ebpf_service_connections_total{"));
        assert!(hidden.contains("causeway_ebpf_events_total{"));
    });
}

/// The packets and bytes of a row, there and back.
fn numbers(row: &serde_json::Value) -> [u64; 4] {
    let fields = ["packets", "bytes", "answerPackets", "answerBytes"];
    fields.map(|field| row[field].as_u64().unwrap())
}

#[test]
fn packets_and_bytes_of_a_connection_are_its_endpoints_and_its_service_ports() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2]);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let _streams = Family::ALL.map(|family| {
            let mut stream = node.bed.client.connect(node_port(node.bed, family, 1));
            for _ in 0..5 {
                assert_eq!(ask(stream.as_mut().unwrap()).unwrap().pod, 2);
            }
            stream
        });
        // The last answer's acknowledgement may be under way.
        let (tracks, traffic) = loop {
            let tracks = shown(node, "tracks");
            let traffic = shown(node, "traffic");
            let same = |(one, other)| numbers(one) == numbers(other);
            if shown(node, "tracks").iter().zip(&tracks).all(same) {
                break (tracks, traffic);
            }
        };
        let mut all = [0; 4];
        for track in &tracks {
            let found = traffic
                .iter()
                .find(|row| row["backend"] == track["backend"]);
            assert_eq!(numbers(found.unwrap()), numbers(track));
            let more = numbers(track);
            assert!(more.iter().all(|number| *number >= 5), "{more:?}");
            all = std::array::from_fn(|field| all[field] + more[field]);
        }
        assert_eq!(tracks.len(), 2);
        assert!(traffic[0]["backend"].is_null());
        assert_eq!(numbers(&traffic[0]), all);
    });
}

#[test]
fn what_a_flow_brought_is_counted_when_it_is_forgotten() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2]);
        let mut proxy = node.start_with(&world, &hurried(node));
        proxy.sync(&mut world);
        for _ in 0..3 {
            let to = node_port(node.bed, Family::V4, 1);
            node.bed.client.udp(to).unwrap();
        }
        let counts = proxy.backend.ebpf_counts().unwrap();
        let gone = || {
            counts
                .maps()
                .any(|fill| fill.map == maps::TRACKS && fill.entries == 0)
        };
        wait_until("flows forgotten", 6 * PATIENCE, gone).unwrap();
        let counted = shown(node, "traffic");
        assert_eq!(counted.len(), 2, "a Service port and its endpoint");
        for row in counted {
            let [packets, _, answers, bytes] = numbers(&row);
            assert_eq!((packets, answers), (3, 3));
            assert!(bytes > 3 * 28, "{bytes}");
        }
        // The page says the same.
        let metrics = Metrics::new();
        metrics.set_ebpf(Some(counts));
        let page = metrics.encode(Mode::Ebpf).unwrap();
        let answers = "causeway_ebpf_service_answer_packets_total{namespace=\"default\",\
                       service=\"s1\",port=\"udp\"} 3";
        assert!(page.lines().any(|line| line == answers), "{page}");
    });
}
