//! Connections from outside and from pods, to pods here and on another node.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use aya::programs::XdpMode;
use causeway_ebpf_abi::{Counter, Frontend};

use crate::bed::{Bed, Host, exchange};
use crate::maps::Plane;
use crate::servers::{PORT, Servers};

/// The node's own address and a node port, of both families.
pub(crate) const NODE_PORTS: [&str; 2] = ["192.0.2.1:30080", "[2001:db8:2::1]:30080"];
/// A cluster IP.
pub(crate) const CLUSTER_IPS: [&str; 2] = ["10.96.0.10:80", "[fd00:96::10]:80"];

/// Runs `test` on a thread of its own, with servers in all pods.
pub(crate) fn on_a_bed(test: impl FnOnce(&Bed, &mut Plane) + Send) {
    let run = || {
        let bed = Bed::new();
        let [one, two] = &bed.pods;
        let pods = [("one", one), ("two", two), ("remote", &bed.remote)];
        let _servers = Servers::start(pods);
        let mut plane = Plane::over(&bed);
        test(&bed, &mut plane);
    };
    let done = thread::scope(|scope| scope.spawn(run).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs `test` twice: on such a bed, and where links have a program behind their drivers (generic XDP), for
/// which the kernel copies most packets.
pub(crate) fn copied_and_not(test: impl Fn(&Bed, &mut Plane) + Send + Sync) {
    on_a_bed(&test);
    on_a_bed(|bed, plane| {
        for link in ["eth0", "eth1", "cni0"] {
            plane.see_frames(bed, link, XdpMode::Skb);
        }
        test(bed, plane);
    });
}

fn backend(host: &Host, beside: SocketAddr) -> SocketAddr {
    (host.beside(beside.ip()), PORT).into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn asks(client: &Host, to: SocketAddr, expected: &str) {
    assert_eq!(client.tcp(to).unwrap(), expected, "TCP {to}");
    assert_eq!(client.udp(to).unwrap(), expected, "UDP {to}");
}

#[test]
fn a_client_outside_reaches_a_pod_here_under_its_own_address() {
    copied_and_not(|bed, plane| {
        for (set, at) in (1..).zip(NODE_PORTS) {
            let at = at.parse().unwrap();
            plane.serve(at, set, 0, &[backend(&bed.pods[0], at)]);
            let client = bed.client.beside(at.ip());
            asks(&bed.client, at, &format!("one {client}"));
        }
        assert_eq!(plane.counted(Counter::Translated), 4);
        assert_eq!(plane.tracks().len(), 8);
    });
}

#[test]
fn a_client_outside_reaches_a_pod_here_under_the_nodes_address() {
    copied_and_not(|bed, plane| {
        let nodes = [ip("10.244.1.1"), ip("fd00:244:1::1")];
        for ((set, at), node) in (1..).zip(NODE_PORTS).zip(nodes) {
            let at = at.parse().unwrap();
            let to = [backend(&bed.pods[0], at)];
            plane.serve(at, set, Frontend::MASQUERADE_OTHERS, &to);
            asks(&bed.client, at, &format!("one {node}"));
        }
    });
}

#[test]
fn a_client_outside_reaches_a_pod_of_another_node() {
    copied_and_not(|bed, plane| {
        let nodes = [ip("198.51.100.1"), ip("2001:db8:51::1")];
        for ((set, at), node) in (1..).zip(NODE_PORTS).zip(nodes) {
            let at = at.parse().unwrap();
            let to = [backend(&bed.remote, at)];
            plane.serve(at, set, Frontend::MASQUERADE_OTHERS, &to);
            asks(&bed.client, at, &format!("remote {node}"));
        }
    });
}

#[test]
fn a_pod_reaches_a_pod_of_another_node_and_its_neighbour_and_itself() {
    copied_and_not(|bed, plane| {
        bed.finish_checksums();
        let [one, two] = &bed.pods;
        let nodes = [ip("10.244.1.1"), ip("fd00:244:1::1")];
        for ((set, at), node) in (1..).zip(CLUSTER_IPS).zip(nodes) {
            let at = at.parse().unwrap();
            plane.serve(at, set, 0, &[backend(&bed.remote, at)]);
            asks(one, at, &format!("remote {}", one.beside(at.ip())));
            // What goes out where it came in must come back this way.
            plane.serve(at, set + 10, 0, &[backend(two, at)]);
            asks(one, at, &format!("two {node}"));
            plane.serve(at, set + 20, 0, &[backend(one, at)]);
            asks(one, at, &format!("one {node}"));
        }
    });
}

#[test]
fn a_frontend_without_backends_refuses_at_once() {
    copied_and_not(|bed, plane| {
        bed.finish_checksums();
        for (clients, frontends) in [(&bed.client, NODE_PORTS), (&bed.pods[0], CLUSTER_IPS)] {
            for (set, at) in (1..).zip(frontends) {
                let at = at.parse().unwrap();
                plane.serve(at, set, 0, &[]);
                let tcp = clients.tcp(at).unwrap_err();
                assert_eq!(tcp.kind(), ErrorKind::ConnectionRefused, "TCP {at}");
                let udp = clients.udp(at).unwrap_err();
                assert_eq!(udp.kind(), ErrorKind::ConnectionRefused, "UDP {at}");
            }
        }
        assert_eq!(plane.counted(Counter::PacketsRefused), 8);
    });
}

#[test]
fn a_client_with_affinity_stays_and_others_are_spread() {
    copied_and_not(|bed, plane| {
        for (set, at) in (1..).zip(NODE_PORTS) {
            let at = at.parse().unwrap();
            let to = [
                backend(&bed.pods[0], at),
                backend(&bed.pods[1], at),
                backend(&bed.remote, at),
            ];
            plane.serve_clients(at, set, Frontend::MASQUERADE_OTHERS, 600, &to);
            let who = |said: String| said.split(' ').next().unwrap().to_owned();
            let first = who(bed.client.tcp(at).unwrap());
            for _ in 0..20 {
                assert_eq!(who(bed.client.tcp(at).unwrap()), first);
            }
            plane.serve_clients(at, set, Frontend::MASQUERADE_OTHERS, 0, &to);
            let all: BTreeSet<_> = (0..60).map(|_| who(bed.client.udp(at).unwrap())).collect();
            assert_eq!(all.len(), 3, "{all:?}");
        }
    });
}

/// Many segments at once, both ways, whose checksums the receiver finishes.
#[test]
fn a_lot_of_bytes_arrive_as_they_were() {
    copied_and_not(|bed, plane| {
        bed.finish_checksums();
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        for (set, at) in (1..).zip(NODE_PORTS) {
            let at: SocketAddr = at.parse().unwrap();
            let to = SocketAddr::from((bed.remote.beside(at.ip()), 9_000));
            plane.serve(at, set, Frontend::MASQUERADE_OTHERS, &[to]);
            let listener = bed.remote.netns.run(|| TcpListener::bind(to).unwrap());
            let listener = listener.unwrap();
            let echoed = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).unwrap();
                    stream.write_all(&got).unwrap();
                });
                let connect = || TcpStream::connect(at).unwrap();
                let mut stream = bed.client.netns.run(connect).unwrap();
                stream.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut echoed = Vec::new();
                stream.read_to_end(&mut echoed).unwrap();
                echoed
            });
            assert!(echoed == data, "{at}");
        }
    });
}

/// With checksums that are yet to be finished, and with those that are.
#[test]
fn a_client_hears_how_large_its_packets_may_be() {
    for finished in [false, true] {
        copied_and_not(|bed, plane| {
            bed.narrow();
            if finished {
                bed.finish_checksums();
            }
            for (set, at) in (1..).zip(NODE_PORTS) {
                let at = at.parse().unwrap();
                plane.serve(at, set, 0, &[backend(&bed.pods[0], at)]);
                let socket = bed.client.udp_socket(at);
                exchange(&socket, b"?").unwrap();
                let error = exchange(&socket, &[7; 1_400]).unwrap_err();
                let too_long = Some(nix::libc::EMSGSIZE);
                assert_eq!(error.raw_os_error(), too_long, "{at}, {finished}: {error}");
            }
            assert_eq!(plane.counted(Counter::TooBig), 2);
        });
    }
}
