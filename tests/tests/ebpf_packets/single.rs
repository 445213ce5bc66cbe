//! Single packets handed to the program (`BPF_PROG_TEST_RUN`): what it makes of them, byte for byte.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use causeway_ebpf_abi::{Counter, Frontend};
use causeway_tests::proxy_bed::wait_until;
use nodekit::route::{Handle, Mac};

use crate::bed::Bed;
use crate::frames::{ACK, ETHERNET, Packet, Read, SYN, folded, header, pseudo, sum_of};
use crate::maps::{Plane, TCP, UDP};
use crate::traffic::{CLUSTER_IPS, NODE_PORTS, on_a_bed};

/// What the program returns (linux/pkt_cls.h).
pub(crate) const GO_ON: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

pub(crate) const CLIENTS: [&str; 2] = ["192.0.2.2:40000", "[2001:db8:2::2]:40000"];
pub(crate) const PODS: [&str; 2] = ["10.244.1.2:8080", "[fd00:244:1::2]:8080"];
pub(crate) const NODES: [&str; 2] = ["10.244.1.1", "fd00:244:1::1"];

/// The interface that the packets come by.
pub(crate) struct Gate<'a> {
    pub(crate) bed: &'a Bed,
    name: &'static str,
    pub(crate) index: u32,
    pub(crate) mac: Mac,
}

impl<'a> Gate<'a> {
    pub(crate) fn of(bed: &'a Bed, name: &'static str) -> Self {
        let mut links = Handle::open_in(&bed.node).unwrap();
        let link = links.link_by_name(name).unwrap();
        Self {
            bed,
            name,
            index: link.index,
            mac: link.mac.unwrap(),
        }
    }

    /// What becomes of a frame.
    pub(crate) fn takes(&self, plane: &mut Plane, frame: &[u8]) -> (i32, Vec<u8>) {
        let program = plane.program();
        let run = || self.handed(program, frame);
        self.bed.node.run(run).unwrap()
    }

    /// How many times in a row a frame is answered, without a pause.
    fn answers(&self, plane: &mut Plane, frame: &[u8]) -> usize {
        let program = plane.program();
        let answered = |_: &usize| self.handed(program, frame).0 == REDIRECT;
        let run = || (0..1_000_000).take_while(answered).count();
        self.bed.node.run(run).unwrap()
    }

    /// To be called on the node.
    fn handed(&self, program: &SchedClassifier, frame: &[u8]) -> (i32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        // `ifindex` in `struct __sk_buff`.
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&self.index.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value.cast_signed(), out)
    }

    /// The packet that it becomes, which is sent on.
    pub(crate) fn sends_on(&self, plane: &mut Plane, packet: &Packet<'_>) -> Read {
        let (action, out) = self.takes(plane, &packet.frame(self.mac));
        assert_eq!(action, REDIRECT, "{} {:?}", self.name, packet.to);
        Read::checked(&out[ETHERNET..])
    }
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn packet<'a>(from: SocketAddr, to: SocketAddr, protocol: u8) -> Packet<'a> {
    Packet {
        from,
        to,
        protocol,
        flags: SYN,
        payload: b"odd",
    }
}

#[test]
fn there_and_back_every_checksum_is_right() {
    on_a_bed(|bed, plane| {
        let (outside, inside) = (Gate::of(bed, "eth0"), Gate::of(bed, "cni0"));
        let masquerade = Frontend::MASQUERADE_OTHERS;
        for (set, flags) in [(1, 0), (11, masquerade)] {
            for (family, protocol) in [(0, TCP), (0, UDP), (1, TCP), (1, UDP)] {
                let mut client = at(CLIENTS[family]);
                client.set_port(40_000 + u16::try_from(set).unwrap());
                let (front, pod) = (at(NODE_PORTS[family]), at(PODS[family]));
                plane.serve(front, set + u32::from(protocol), flags, &[pod]);
                let there = packet(client, front, protocol);
                let sent = outside.sends_on(plane, &there);
                assert_eq!(sent.hops, 63);
                let (from, to) = sent.sockets();
                assert_eq!(to, pod);
                if flags == 0 {
                    assert_eq!(from, client);
                } else {
                    assert_eq!(from.ip(), NODES[family].parse::<IpAddr>().unwrap());
                    assert!(from.port() >= 61_000);
                }
                assert_eq!(sent.transport[sent.transport.len() - 3..], *b"odd");
                let mut back = packet(pod, from, protocol);
                back.flags = SYN | ACK;
                let answer = inside.sends_on(plane, &back);
                assert_eq!(answer.sockets(), (front, client));
                // The same once more: it is known now.
                assert_eq!(outside.sends_on(plane, &there).sockets(), (from, pod));
            }
        }
        assert_eq!(plane.counted(Counter::Translated), 8);
    });
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        plane.serve(at(NODE_PORTS[0]), 1, 0, &[at(PODS[0])]);
        let mut frame = packet(at(CLIENTS[0]), at(NODE_PORTS[0]), UDP).frame(outside.mac);
        frame[ETHERNET + 26..ETHERNET + 28].fill(0);
        let (action, out) = outside.takes(plane, &frame);
        assert_eq!(action, REDIRECT);
        let sent = Read::checked(&out[ETHERNET..]);
        assert_eq!(sent.transport[6..8], [0, 0]);
    });
}

#[test]
fn a_refusal_is_an_answer() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        for family in [0, 1] {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, 1, 0, &[]);
            let reset = outside.sends_on(plane, &packet(client, front, TCP));
            assert_eq!(reset.sockets(), (front, client));
            assert_eq!(reset.transport.len(), 20);
            assert_eq!(reset.transport[13], 4 | ACK);
            assert_eq!(reset.transport[8..12], 0x1234_5679_u32.to_be_bytes());
            for payload in [&b""[..], &[7; 700]] {
                let asked = Packet {
                    payload,
                    ..packet(client, front, UDP)
                };
                let (action, out) = outside.takes(plane, &asked.frame(outside.mac));
                assert_eq!(action, REDIRECT);
                assert_eq!(out[..6], [2, 0, 0, 0, 0, 9], "who asked gets it");
                let error = Read::checked(&out[ETHERNET..]);
                assert_eq!((error.from, error.to), (front.ip(), client.ip()));
                assert_eq!(error.transport[..2], [[3, 3], [1, 4]][family]);
                let quoted = &error.transport[8..];
                assert_eq!(*quoted, asked.packet()[..quoted.len()]);
                assert_eq!(Read::quoted(quoted).sockets(), (client, front));
            }
        }
    });
}

#[test]
fn refusals_that_come_too_fast_are_not_all_told() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        let (client, front) = (at(CLIENTS[0]), at(NODE_PORTS[0]));
        plane.serve(front, 1, 0, &[]);
        let [datagram, syn] = [UDP, TCP].map(|protocol| {
            let packet = packet(client, front, protocol);
            packet.frame(outside.mac)
        });
        // A processor has a few at once, and then one a millisecond.
        let told = outside.answers(plane, &datagram);
        assert!((50..1_000_000).contains(&told), "{told}");
        assert_eq!(plane.counted(Counter::Unanswered), 1);
        assert_eq!(outside.takes(plane, &syn).0, REDIRECT, "resets are");
        let again = || outside.takes(plane, &datagram).0 == REDIRECT;
        wait_until("the next one", Duration::from_secs(60), again).unwrap();
    });
}

/// An ICMP error that `by` sends to `to` about a packet: the frame to `mac`.
pub(crate) fn error(by: IpAddr, to: IpAddr, mac: Mac, about: &[u8]) -> Vec<u8> {
    let v4 = by.is_ipv4();
    let mut message = if v4 { vec![3, 4] } else { vec![2, 0] };
    message.extend([0, 0, 0, 0, 5, 0]);
    message.extend(&about[..about.len().min(if v4 { 28 } else { 56 })]);
    let protocol = if v4 { 1 } else { 58 };
    let pseudo = if v4 {
        0
    } else {
        pseudo(by, to, protocol, message.len())
    };
    let sum = !folded(pseudo + sum_of(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [mac.0, [2, 0, 0, 0, 0, 9]].concat();
    frame.extend(if v4 { [8, 0] } else { [0x86, 0xdd] });
    frame.extend(header(by, to, protocol, message.len()));
    frame.extend(message);
    frame
}

#[test]
fn an_icmp_error_finds_who_sent_what_it_is_about() {
    on_a_bed(|bed, plane| {
        let (outside, inside) = (Gate::of(bed, "eth0"), Gate::of(bed, "cni0"));
        let routers = ["203.0.113.9", "2001:db8:113::9"];
        for ((family, protocol), set) in [(0, TCP), (0, UDP), (1, TCP), (1, UDP)]
            .into_iter()
            .zip(1..)
        {
            let (client, front, pod) = (
                at(CLIENTS[family]),
                at(NODE_PORTS[family]),
                at(PODS[family]),
            );
            plane.serve(front, set, Frontend::MASQUERADE_OTHERS, &[pod]);
            let there = packet(client, front, protocol);
            let (node, _) = outside.sends_on(plane, &there).sockets();
            // The pod could not take what it was sent: the client hears of the frontend.
            let onward = packet(node, pod, protocol);
            let frame = error(pod.ip(), node.ip(), inside.mac, &onward.packet());
            let (action, out) = inside.takes(plane, &frame);
            assert_eq!(action, REDIRECT);
            let told = Read::checked(&out[ETHERNET..]);
            assert_eq!((told.from, told.to), (front.ip(), client.ip()));
            assert_eq!(
                Read::quoted(&told.transport[8..]).sockets(),
                (client, front)
            );
            // A router could not send on what was answered: the pod hears of it.
            let router = routers[family].parse().unwrap();
            let answer = packet(front, client, protocol);
            let frame = error(router, front.ip(), outside.mac, &answer.packet());
            let (action, out) = outside.takes(plane, &frame);
            assert_eq!(action, REDIRECT);
            let told = Read::checked(&out[ETHERNET..]);
            assert_eq!((told.from, told.to), (router, pod.ip()));
            assert_eq!(Read::quoted(&told.transport[8..]).sockets(), (pod, node));
        }
        assert_eq!(plane.counted(Counter::ErrorTranslated), 8);
    });
}

/// Packets to the frontend that are no first packets of anything, or that cannot be read.
fn odd_frames(gate: &Gate<'_>, family: usize) -> Vec<(&'static str, Vec<u8>)> {
    let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
    let good = packet(client, front, TCP);
    let late = Packet { flags: ACK, ..good };
    let elsewhere = packet(client, (front.ip(), 1).into(), TCP);
    let mut frames = vec![
        ("an acknowledgment", late.frame(gate.mac)),
        ("another port", elsewhere.frame(gate.mac)),
        ("somebody else's", good.frame(Mac([2, 1, 1, 1, 1, 1]))),
    ];
    let v4 = [
        ("no version", 0, 0x55),
        ("a header too short", 0, 0x44),
        ("a later fragment", 7, 1),
        ("the last hop", 8, 1),
        ("another protocol", 9, 47),
        ("from loopback", 12, 127),
    ];
    let v6 = [
        ("no version", 0, 0),
        ("behind options", 6, 60),
        ("a fragment of something else", 6, 44),
        ("the last hop", 7, 1),
        ("from everybody", 8, 0xff),
    ];
    for (what, place, byte) in if family == 0 { &v4[..] } else { &v6 } {
        let mut frame = good.frame(gate.mac);
        frame[ETHERNET + place] = *byte;
        frames.push((what, frame));
    }
    frames
}

#[test]
fn what_cannot_be_translated_is_left_as_it_is() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        let loopback = Gate {
            name: "lo",
            index: 1,
            ..Gate::of(bed, "eth0")
        };
        for family in [0, 1] {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, 1, 0, &[at(PODS[family])]);
            for (what, frame) in odd_frames(&outside, family) {
                assert_eq!(outside.takes(plane, &frame), (GO_ON, frame), "{what}");
            }
            let good = packet(client, front, TCP).frame(outside.mac);
            let header = ETHERNET + [20, 40][family];
            for length in header..header + 14 {
                let cut = good[..length].to_vec();
                assert_eq!(outside.takes(plane, &cut), (GO_ON, cut), "{length} bytes");
            }
            let elsewhere = loopback.takes(plane, &good);
            assert_eq!(elsewhere, (GO_ON, good), "not an interface of ours");
        }
        assert_eq!(plane.counted(Counter::Fragment), 1);
        assert_eq!(plane.counted(Counter::Extension), 1);
        assert_eq!(plane.tracks(), []);
    });
}

/// Flags and ports of TCP can be read, and its checksum is not there.
#[test]
fn what_cannot_be_written_is_dropped() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        for (family, set) in [(0, 1), (1, 2)] {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, set, 0, &[at(PODS[family])]);
            let good = packet(client, front, TCP).frame(outside.mac);
            let cut = &good[..ETHERNET + [20, 40][family] + 16];
            assert_eq!(outside.takes(plane, cut).0, DROP);
        }
        assert_eq!(plane.counted(Counter::Unwritable), 2);
    });
}

#[test]
fn who_finds_no_port_is_dropped() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        plane.masquerade_with(61_000..=61_000);
        for (family, set) in [(0, 1), (1, 2)] {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, set, Frontend::MASQUERADE_OTHERS, &[at(PODS[family])]);
            for protocol in [TCP, UDP] {
                let mut packet = packet(client, front, protocol);
                let (node, _) = outside.sends_on(plane, &packet).sockets();
                assert_eq!(node.port(), 61_000);
                packet.from.set_port(client.port() + 1);
                let frame = packet.frame(outside.mac);
                assert_eq!(outside.takes(plane, &frame).0, DROP);
            }
        }
        assert_eq!(plane.counted(Counter::NoPort), 4);
        assert_eq!(plane.tracks().len(), 8, "of those that have a port");
    });
}

#[test]
fn a_frontend_that_drops_drops() {
    on_a_bed(|bed, plane| {
        let inside = Gate::of(bed, "cni0");
        let (pod, front) = (at(PODS[0]), at(CLUSTER_IPS[0]));
        plane.serve(front, 1, Frontend::DROP, &[pod]);
        let frame = packet(pod, front, UDP).frame(inside.mac);
        assert_eq!(inside.takes(plane, &frame).0, DROP);
        assert_eq!(plane.counted(Counter::PacketsDropped), 1);
    });
}

#[test]
fn who_sends_what_is_larger_than_the_next_link_takes_is_told() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        for (family, protocol) in [(0, TCP), (0, UDP), (1, TCP), (1, UDP)] {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, 1, 0, &[at(PODS[family])]);
            // Links are asked once the neighbour is known.
            bed.client.udp(front).unwrap();
            let large = Packet {
                payload: &[7; 1_500],
                ..packet(client, front, protocol)
            };
            let told = |plane: &mut Plane| {
                let error = outside.sends_on(plane, &large);
                assert_eq!((error.from, error.to), (front.ip(), client.ip()));
                assert_eq!(error.transport[..2], [[3, 4], [2, 0]][family]);
                assert_eq!(error.transport[4..8], 1_500_u32.to_be_bytes());
                let (quoted, sent) = (&error.transport[8..], large.packet());
                // All but the transport's checksum.
                let checksum = [20, 40][family] + if protocol == TCP { 16 } else { 6 };
                assert_eq!(quoted[..checksum], sent[..checksum]);
                assert_eq!(quoted[checksum + 2..], sent[checksum + 2..quoted.len()]);
            };
            told(plane);
            // The same for a packet of a connection that is known.
            outside.sends_on(plane, &packet(client, front, protocol));
            told(plane);
        }
        assert_eq!(plane.counted(Counter::TooBig), 8);
    });
}
