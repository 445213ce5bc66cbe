//! Packets that turn in the driver (XDP), or behind it (generic XDP): those of known connections that leave
//! by where they came.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use aya::programs::XdpMode;
use causeway_ebpf_abi::Counter;
use causeway_tests::proxy_bed::wait_until;

use crate::bed::{Bed, Host};
use crate::maps::Plane;
use crate::servers::{PORT, Servers};
use crate::traffic::{NODE_PORTS, on_a_bed};

const PATIENCE: Duration = Duration::from_secs(20);

/// Frames turn at the link to the client, behind which the pods of the frontends are as well. In either
/// mode.
fn on_a_turning_bed(test: impl Fn(&Bed, &mut Plane, &Host) + Send + Sync) {
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        on_a_bed(|bed, plane| {
            let beyond = bed.beyond();
            let _server = Servers::start([("beyond", &beyond)]);
            plane.turn_at(bed, "eth0", mode);
            if mode == XdpMode::Driver {
                has_a_program(&bed.client, plane);
            }
            for (set, at) in (1..).zip(NODE_PORTS) {
                let at: SocketAddr = at.parse().unwrap();
                plane.serve(at, set, 0, &[(beyond.beside(at.ip()), PORT).into()]);
            }
            test(bed, plane, &beyond);
        });
    }
}

/// What a program in a driver sends back stays in the ring of the other end of a virtual pair unless that
/// has one as well (veth.c, veth_xdp_flush); GRO does not do.
fn has_a_program(other_end: &Host, plane: &mut Plane) {
    let program = plane.frames();
    let attach = || program.attach("eth0", XdpMode::Driver).unwrap();
    other_end.netns.run(attach).unwrap();
}

fn turned(plane: &mut Plane) -> u64 {
    plane.counted(Counter::Turned)
}

#[test]
fn who_comes_and_goes_by_one_link_reaches_a_pod_and_packets_turn_in_the_driver() {
    on_a_turning_bed(|bed, plane, _| {
        bed.finish_clients_checksums();
        for at in NODE_PORTS {
            let at: SocketAddr = at.parse().unwrap();
            let node = at.ip();
            let expected = Some(format!("beyond {node}"));
            for ask in [Host::tcp, Host::udp_twice] {
                let before = turned(plane);
                wait_until("a packet that turns", PATIENCE, || {
                    assert_eq!(ask(&bed.client, at).ok(), expected, "{at}");
                    turned(plane) > before
                })
                .unwrap();
            }
        }
    });
}

/// A driver that hands over frames as they come from a socket of this machine must not be believed.
#[test]
fn a_checksum_that_is_yet_to_be_finished_is_left_to_the_stack() {
    on_a_turning_bed(|bed, plane, _| {
        for at in NODE_PORTS {
            let at: SocketAddr = at.parse().unwrap();
            let expected = format!("beyond {}", at.ip());
            for _ in 0..20 {
                assert_eq!(bed.client.udp_twice(at).unwrap(), expected, "{at}");
            }
        }
        assert_eq!(turned(plane), 0);
        for at in NODE_PORTS {
            let at: SocketAddr = at.parse().unwrap();
            let expected = format!("beyond {}", at.ip());
            assert_eq!(bed.client.tcp(at).unwrap(), expected, "{at}");
        }
    });
}

#[test]
fn a_lot_of_bytes_turn_as_they_were() {
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    on_a_turning_bed(|bed, plane, beyond| {
        bed.finish_clients_checksums();
        for (set, at) in (11..).zip(["192.0.2.1:30090", "[2001:db8:2::1]:30090"]) {
            let at: SocketAddr = at.parse().unwrap();
            let to = SocketAddr::from((beyond.beside(at.ip()), 9_000));
            plane.serve(at, set, 0, &[to]);
            let before = turned(plane);
            assert!(echo(bed, at, beyond, to, &data) == data, "{at}");
            assert!(turned(plane) > before + 100, "{at}");
        }
    });
}

/// What comes back of `data` that the client sends, when `to` echoes it.
fn echo(bed: &Bed, at: SocketAddr, beyond: &Host, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let listener = beyond.netns.run(|| TcpListener::bind(to).unwrap()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        });
        let connect = || TcpStream::connect(at).unwrap();
        let mut stream = bed.client.netns.run(connect).unwrap();
        stream.write_all(data).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut echoed = Vec::new();
        stream.read_to_end(&mut echoed).unwrap();
        echoed
    })
}

/// Who leaves by another link than it came by is served as without the program in the driver.
#[test]
fn what_leaves_elsewhere_goes_on_to_the_stack() {
    on_a_turning_bed(|bed, plane, _| {
        bed.finish_clients_checksums();
        bed.finish_checksums();
        let nodes = ["10.244.1.1", "fd00:244:1::1"];
        for ((set, at), node) in (21..).zip(NODE_PORTS).zip(nodes) {
            let at: SocketAddr = at.parse().unwrap();
            let node: IpAddr = node.parse().unwrap();
            let pod = (bed.pods[0].beside(at.ip()), PORT).into();
            let masquerade = causeway_ebpf_abi::Frontend::MASQUERADE_OTHERS;
            plane.serve(at, set, masquerade, &[pod]);
            for ask in [Host::tcp, Host::udp_twice] {
                let said = ask(&bed.client, at).unwrap();
                assert_eq!(said, format!("one {node}"), "{at}");
            }
        }
        assert_eq!(turned(plane), 0);
    });
}
