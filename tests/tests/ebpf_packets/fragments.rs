//! Packets in fragments: those that the kernel makes of large datagrams, and such as are made by hand.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use causeway_ebpf_abi::{Counter, Frontend};
use causeway_tests::proxy_bed::wait_until;
use nodekit::route::Mac;

use crate::bed::Host;
use crate::frames::{ACK, ETHERNET, Packet, Read, SYN, folded, sum_of};
use crate::maps::{Plane, TCP, UDP};
use crate::single::{CLIENTS, DROP, GO_ON, Gate, NODES, PODS, REDIRECT, at, error, packet};
use crate::traffic::{NODE_PORTS, copied_and_not, on_a_bed};

/// Where pods echo.
const ECHO: u16 = 9_000;
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);
/// After so long without an answer a datagram is sent again.
const AGAIN: Duration = Duration::from_secs(2);

/// Sends a datagram to `at`, which `to` sends back; whom that sees.
fn echoed(client: &Host, at: SocketAddr, pod: &Host, bytes: usize) -> SocketAddr {
    let datagram: Vec<u8> = (0..251).cycle().take(bytes).collect();
    let to = SocketAddr::from((pod.beside(at.ip()), ECHO));
    let server = pod.netns.run(|| UdpSocket::bind(to).unwrap());
    let server = server.unwrap();
    server.set_read_timeout(Some(LOOK)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut room = vec![0; 65_535];
            let mut seen = None;
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut room) {
                    server.send_to(&room[..length], from).unwrap();
                    seen = Some(from);
                }
            }
            seen
        });
        let socket = client.udp_socket(at);
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        let mut answer = vec![0; 65_535];
        // A busy machine may lose a fragment, or have one overtake another.
        let answered = wait_until("an answer", PATIENCE, || {
            socket.send(&datagram).unwrap();
            let length = socket.recv(&mut answer).unwrap_or(0);
            answer[..length] == datagram
        });
        stop.store(true, Ordering::Relaxed);
        let seen = echo.join().unwrap();
        answered.unwrap_or_else(|error| panic!("{at}, {bytes} bytes: {error}"));
        seen.unwrap()
    })
}

#[test]
fn large_datagrams_arrive_as_they_were_and_so_do_their_answers() {
    for finished in [false, true] {
        copied_and_not(|bed, plane| {
            if finished {
                bed.finish_checksums();
            }
            let here = &bed.pods[0];
            let ways = [
                (here, 0),
                (here, Frontend::MASQUERADE_OTHERS),
                (&bed.remote, Frontend::MASQUERADE_OTHERS),
            ];
            for ((pod, flags), set) in ways.into_iter().zip(1..) {
                for (front, family) in NODE_PORTS.into_iter().zip([0, 10]) {
                    // Each way has its own: a client's port may come again.
                    let mut front = at(front);
                    front.set_port(30_080 + u16::try_from(set).unwrap());
                    let to = (pod.beside(front.ip()), ECHO).into();
                    plane.serve(front, set + family, flags, &[to]);
                    for bytes in [1_472, 1_473, 4_000, 20_000, 65_000] {
                        let seen = echoed(&bed.client, front, pod, bytes);
                        let own = seen.ip() == bed.client.beside(front.ip());
                        assert_eq!(own, flags == 0, "{seen}");
                    }
                }
            }
            assert_eq!(plane.counted(Counter::FragmentDropped), 0);
            assert_eq!(plane.counted(Counter::TooBig), 0);
        });
    }
}

/// The frames of a packet in fragments that have so many bytes of it each.
fn cut(packet: &Packet<'_>, mac: Mac, number: u16, bytes: usize) -> Vec<Vec<u8>> {
    let whole = packet.frame(mac);
    let (link, whole) = whole.split_at(ETHERNET);
    let v4 = whole[0] >> 4 == 4;
    let (header, payload) = whole.split_at(if v4 { 20 } else { 40 });
    let count = payload.len().div_ceil(bytes);
    let parts = payload.chunks(bytes).enumerate().map(|(place, part)| {
        let more = u16::from(place + 1 < count);
        let offset = u16::try_from(place * bytes).unwrap();
        let mut header = header.to_vec();
        if v4 {
            let length = u16::try_from(20 + part.len()).unwrap();
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[4..6].copy_from_slice(&number.to_be_bytes());
            header[6..8].copy_from_slice(&((offset / 8) | (more << 13)).to_be_bytes());
            header[10..12].fill(0);
            let sum = !folded(sum_of(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let length = u16::try_from(8 + part.len()).unwrap();
            header[4..6].copy_from_slice(&length.to_be_bytes());
            let [high, low] = (offset | more).to_be_bytes();
            let [first, second] = number.to_be_bytes();
            header.extend([header[6], 0, high, low, 0xab, 0xcd, first, second]);
            header[6] = 44;
        }
        [link, &header, part].concat()
    });
    parts.collect()
}

/// What became of fragments, put together: the packet, whose checksums must be right.
fn joined(frames: &[Vec<u8>]) -> Read {
    let v4 = frames[0][ETHERNET] >> 4 == 4;
    let mut header = Vec::new();
    let mut payload = Vec::new();
    for frame in frames {
        let packet = &frame[ETHERNET..];
        if v4 {
            assert_eq!(folded(sum_of(&packet[..20])), 0xffff, "header's checksum");
        }
        let (front, part) = packet.split_at(if v4 { 20 } else { 48 });
        let place = if v4 { &front[6..8] } else { &front[42..44] };
        let place = u16::from_be_bytes([place[0], place[1]]);
        let offset = if v4 { (place & 0x1fff) * 8 } else { place & !7 };
        assert_eq!(usize::from(offset), payload.len(), "one after the other");
        payload.extend(part);
        header = front.to_vec();
    }
    let length = u16::try_from(payload.len()).unwrap();
    if v4 {
        header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
        header[6..8].fill(0);
        header[10..12].fill(0);
        let sum = !folded(sum_of(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        assert_eq!(header[6], 44);
        header[6] = header[40];
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header.truncate(40);
    }
    Read::checked(&[header, payload].concat())
}

/// What becomes of frames that are all sent on.
fn sent_on(gate: &Gate<'_>, plane: &mut Plane, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for frame in frames {
        let (action, became) = gate.takes(plane, frame);
        assert_eq!(action, REDIRECT);
        out.push(became);
    }
    out
}

const KINDS: [(usize, u8); 4] = [(0, UDP), (0, TCP), (1, UDP), (1, TCP)];

#[test]
fn fragments_of_several_connections_are_told_apart_both_ways() {
    on_a_bed(|bed, plane| {
        let (outside, inside) = (Gate::of(bed, "eth0"), Gate::of(bed, "cni0"));
        for ((family, protocol), set) in KINDS.into_iter().zip(1..) {
            let (front, pod) = (at(NODE_PORTS[family]), at(PODS[family]));
            plane.serve(front, set, Frontend::MASQUERADE_OTHERS, &[pod]);
            let payloads: [Vec<u8>; 2] = [7, 9].map(|byte| vec![byte; 900]);
            let sent = [0, 1].map(|n| {
                let mut client = at(CLIENTS[family]);
                client.set_port(40_000 + n);
                Packet {
                    payload: &payloads[usize::from(n)],
                    ..packet(client, front, protocol)
                }
            });
            let [one, two] = [(&sent[0], 7), (&sent[1], 8)]
                .map(|(packet, number)| cut(packet, outside.mac, number, 256));
            let both = one
                .iter()
                .zip(&two)
                .flat_map(|(a, b)| [a.clone(), b.clone()]);
            let out = sent_on(&outside, plane, &both.collect::<Vec<_>>());
            let of = |n: usize| out.iter().skip(n).step_by(2).cloned().collect::<Vec<_>>();
            let arrived = [joined(&of(0)), joined(&of(1))];
            for (arrived, payload) in arrived.iter().zip(&payloads) {
                let (from, to) = arrived.sockets();
                assert_eq!(to, pod);
                assert_eq!(from.ip().to_string(), NODES[family]);
                assert_eq!(arrived.hops, 63);
                assert!(arrived.transport.ends_with(payload));
            }
            for (arrived, sent) in arrived.iter().zip(&sent) {
                let (from, _) = arrived.sockets();
                let answer = Packet {
                    flags: SYN | ACK,
                    from: pod,
                    to: from,
                    ..*sent
                };
                let frames = cut(&answer, inside.mac, 5, 512);
                let answer = joined(&sent_on(&inside, plane, &frames));
                assert_eq!(answer.sockets(), (front, sent.from));
                assert!(answer.transport.ends_with(sent.payload));
            }
        }
        assert_eq!(plane.counted(Counter::Translated), 8);
        assert_eq!(plane.counted(Counter::Fragment), 0);
    });
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        plane.serve(at(NODE_PORTS[0]), 1, 0, &[at(PODS[0])]);
        let sent = Packet {
            payload: &[7; 900],
            ..packet(at(CLIENTS[0]), at(NODE_PORTS[0]), UDP)
        };
        let mut frames = cut(&sent, outside.mac, 7, 512);
        frames[0][ETHERNET + 26..ETHERNET + 28].fill(0);
        let arrived = joined(&sent_on(&outside, plane, &frames));
        assert_eq!(arrived.transport[6..8], [0, 0]);
    });
}

/// A fragment that is the only one, as some senders of IPv6 make them (RFC 6946).
#[test]
fn the_only_fragment_is_a_packet_like_others() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        plane.serve(at(NODE_PORTS[1]), 1, 0, &[at(PODS[1])]);
        for protocol in [UDP, TCP] {
            let sent = packet(at(CLIENTS[1]), at(NODE_PORTS[1]), protocol);
            let frames = cut(&sent, outside.mac, 7, 512);
            let arrived = joined(&sent_on(&outside, plane, &frames));
            assert_eq!(arrived.sockets(), (at(CLIENTS[1]), at(PODS[1])));
        }
    });
}

#[test]
fn later_fragments_without_a_first_one_are_left_and_counted() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        for (family, protocol) in KINDS {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, 1, 0, &[at(PODS[family])]);
            let sent = Packet {
                payload: &[7; 900],
                ..packet(client, front, protocol)
            };
            let [first, later @ ..] = &cut(&sent, outside.mac, 7, 256)[..] else {
                panic!("not in fragments");
            };
            let left = |plane: &mut Plane, why: &str| {
                let before = plane.counted(Counter::Fragment);
                for frame in later {
                    assert_eq!(outside.takes(plane, frame), (GO_ON, frame.clone()), "{why}");
                }
                let counted = plane.counted(Counter::Fragment) - before;
                assert_eq!(counted, later.len() as u64);
            };
            left(plane, "nothing came before");
            sent_on(&outside, plane, std::slice::from_ref(first));
            sent_on(&outside, plane, later);
            // The number is another datagram's now, which is not for a Service.
            let elsewhere = Packet {
                to: (front.ip(), 1).into(),
                ..sent
            };
            let other = &cut(&elsewhere, outside.mac, 7, 256)[0];
            assert_eq!(outside.takes(plane, other), (GO_ON, other.clone()));
            left(plane, "another one came before");
        }
        assert_eq!(plane.counted(Counter::FragmentDropped), 0);
        assert_eq!(plane.counted(Counter::Extension), 0);
    });
}

#[test]
fn a_datagram_that_nobody_serves_ends_as_a_whole() {
    on_a_bed(|bed, plane| {
        let outside = Gate::of(bed, "eth0");
        for (family, header) in [(0, 20), (1, 48)] {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            let sent = Packet {
                payload: &[7; 900],
                ..packet(client, front, UDP)
            };
            let frames = cut(&sent, outside.mac, 7, 512);
            let dropped =
                |plane: &mut Plane, frame| assert_eq!(outside.takes(plane, frame).0, DROP);
            plane.serve(front, 1, 0, &[]);
            let (action, out) = outside.takes(plane, &frames[0]);
            assert_eq!(action, REDIRECT);
            let told = Read::checked(&out[ETHERNET..]);
            assert_eq!((told.from, told.to), (front.ip(), client.ip()));
            assert_eq!(told.transport[..2], [[3, 3], [1, 4]][family]);
            let quoted = &frames[0][ETHERNET..][..header + 8];
            assert_eq!(told.transport[8..], *quoted);
            dropped(plane, &frames[1]);
            plane.serve(front, 1, Frontend::DROP, &[at(PODS[family])]);
            dropped(plane, &frames[0]);
            dropped(plane, &frames[1]);
        }
        assert_eq!(plane.counted(Counter::FragmentDropped), 4);
        assert_eq!(plane.tracks(), []);
    });
}

#[test]
fn who_sends_fragments_that_are_too_large_is_told_once() {
    on_a_bed(|bed, plane| {
        bed.narrow();
        let outside = Gate::of(bed, "eth0");
        for (family, protocol) in KINDS {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            plane.serve(front, 1, 0, &[at(PODS[family])]);
            // Links are asked once the neighbour is known.
            bed.client.udp(front).unwrap();
            let sent = Packet {
                payload: &[7; 4_000],
                ..packet(client, front, protocol)
            };
            let frames = cut(&sent, outside.mac, 7, 1_400);
            let (action, out) = outside.takes(plane, &frames[0]);
            assert_eq!(action, REDIRECT);
            let told = Read::checked(&out[ETHERNET..]);
            assert_eq!((told.from, told.to), (front.ip(), client.ip()));
            assert_eq!(told.transport[..2], [[3, 4], [2, 0]][family]);
            assert_eq!(told.transport[4..8], 1_300_u32.to_be_bytes());
            // All but the transport's checksum.
            let checksum = [20, 48][family] + if protocol == TCP { 16 } else { 6 };
            assert_eq!(
                told.transport[8..][..checksum],
                frames[0][ETHERNET..][..checksum]
            );
            assert_eq!(outside.takes(plane, &frames[1]).0, DROP);
            // Smaller ones get through.
            let small = cut(&sent, outside.mac, 8, 1_200);
            joined(&sent_on(&outside, plane, &small));
        }
    });
}

#[test]
fn a_client_hears_how_large_its_fragments_may_be() {
    on_a_bed(|bed, plane| {
        bed.narrow();
        for (set, front) in (1..).zip(NODE_PORTS) {
            let front = at(front);
            let pod = &bed.pods[0];
            plane.serve(front, set, 0, &[(pod.beside(front.ip()), ECHO).into()]);
            let socket = bed.client.udp_socket(front);
            let to = SocketAddr::from((pod.beside(front.ip()), ECHO));
            let server = pod.netns.run(|| UdpSocket::bind(to).unwrap());
            let server = server.unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"?").unwrap();
            let mut room = vec![0; 65_535];
            server.recv(&mut room).unwrap();
            wait_until("a large datagram", PATIENCE, || {
                // Who hears of it gets an error once, and sends smaller ones from then on.
                let _ = socket.send(&[7; 4_000]);
                server.set_read_timeout(Some(LOOK)).unwrap();
                server.recv(&mut room).is_ok_and(|length| length == 4_000)
            })
            .unwrap();
        }
        assert!(plane.counted(Counter::TooBig) > 0);
    });
}

#[test]
fn an_icmp_error_about_a_first_fragment_finds_who_sent_it() {
    on_a_bed(|bed, plane| {
        let (outside, inside) = (Gate::of(bed, "eth0"), Gate::of(bed, "cni0"));
        for ((family, protocol), set) in KINDS.into_iter().zip(1..) {
            let (client, front, pod) = (
                at(CLIENTS[family]),
                at(NODE_PORTS[family]),
                at(PODS[family]),
            );
            plane.serve(front, set, Frontend::MASQUERADE_OTHERS, &[pod]);
            let there = Packet {
                payload: &[7; 900],
                ..packet(client, front, protocol)
            };
            let frames = cut(&there, outside.mac, 7, 512);
            let out = sent_on(&outside, plane, &frames);
            let (node, _) = joined(&out).sockets();
            let first = &out[0][ETHERNET..];
            let (action, told) =
                inside.takes(plane, &error(pod.ip(), node.ip(), inside.mac, first));
            assert_eq!(action, REDIRECT);
            let told = Read::checked(&told[ETHERNET..]);
            assert_eq!((told.from, told.to), (front.ip(), client.ip()));
            let quoted = &told.transport[8..];
            let header = [20, 48][family];
            let sent = &frames[0][ETHERNET..];
            // Addresses and ports; the hops are those that were left.
            let addresses = [12..20, 8..40][family].clone();
            assert_eq!(quoted[addresses.clone()], sent[addresses]);
            assert_eq!(quoted[header..][..4], sent[header..][..4]);
            // About a later one, nobody knows whose it was.
            let later = error(pod.ip(), node.ip(), inside.mac, &out[1][ETHERNET..]);
            assert_eq!(inside.takes(plane, &later), (GO_ON, later.clone()));
        }
        assert_eq!(plane.counted(Counter::ErrorTranslated), 4);
    });
}
