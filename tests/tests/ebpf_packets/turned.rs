//! Single frames handed to the program in the driver (`BPF_PROG_TEST_RUN`): what it makes of them,
//! byte for byte, and that it leaves no trace of those that it lets go on.

use std::net::SocketAddr;

use aya::programs::{TestRun as _, TestRunOptions};
use causeway_ebpf_abi::{Counter, Frontend};
use nodekit::route::{Handle, Mac};

use crate::bed::{Bed, Host};
use crate::frames::{ACK, ETHERNET, Packet, Read, SYN};
use crate::maps::{Plane, TCP, UDP};
use crate::servers::{PORT, Servers};
use crate::single::{CLIENTS, Gate, at, packet};
use crate::traffic::{NODE_PORTS, on_a_bed};

/// What the program returns (`enum xdp_action`, linux/bpf.h).
const GO_ON: u32 = 2;
const TURN: u32 = 3;
/// For what holds for all but the first packet of each second: they are not many in a row.
const TRIES: usize = 20;

/// The link to the client, behind which the pods of the frontends are as well.
struct Turn<'a> {
    gate: Gate<'a>,
    client: Mac,
    beyond: Host,
}

impl<'a> Turn<'a> {
    fn new(bed: &'a Bed, plane: &mut Plane) -> Self {
        let beyond = bed.beyond();
        let _server = Servers::start([("beyond", &beyond)]);
        plane.know_way_out(bed, "eth0");
        for (set, front) in (1..).zip(NODE_PORTS) {
            let front = at(front);
            plane.serve(front, set, 0, &[(beyond.beside(front.ip()), PORT).into()]);
            // The neighbour is known from now on.
            bed.client.udp(front).unwrap();
        }
        let client = Handle::open_in(&bed.client.netns)
            .unwrap()
            .link_by_name("eth0");
        Self {
            gate: Gate::of(bed, "eth0"),
            client: client.unwrap().mac.unwrap(),
            beyond,
        }
    }

    /// What becomes of a frame in the driver.
    fn takes(&self, plane: &mut Plane, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        // `data_end` and `ingress_ifindex` in `struct xdp_md`.
        let mut context = [0; 24];
        let length = u32::try_from(frame.len()).unwrap();
        context[4..8].copy_from_slice(&length.to_ne_bytes());
        context[12..16].copy_from_slice(&self.gate.index.to_ne_bytes());
        let program = plane.frames();
        let run = || {
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.data_out = Some(&mut out);
            options.ctx_in = Some(&context);
            program.test_run(options).unwrap()
        };
        let result = self.gate.bed.node.run(run).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// What becomes of a frame that turns. One after the other goes to the program at the ingress
    /// first, which may be due.
    fn turns(&self, plane: &mut Plane, packet: &Packet<'_>) -> Read {
        let frame = packet.frame(self.gate.mac);
        for _ in 0..TRIES {
            let (action, out) = self.takes(plane, &frame);
            if action == TURN {
                assert_eq!(out[..6], self.client.0, "to the neighbour");
                assert_eq!(out[6..12], self.gate.mac.0, "from the node");
                assert_eq!(out[12..14], frame[12..14]);
                return Read::checked(&out[ETHERNET..]);
            }
            assert_eq!((action, &out), (GO_ON, &frame));
            self.gate.sends_on(plane, packet);
        }
        panic!("{:?} never turned", packet.to);
    }

    /// Whether a frame goes on as it came, leaving no trace.
    fn lets_go_on(&self, plane: &mut Plane, what: &str, frame: &[u8]) {
        let before = (plane.tracks(), plane.counted(Counter::Turned));
        assert_eq!(self.takes(plane, frame), (GO_ON, frame.to_vec()), "{what}");
        let after = (plane.tracks(), plane.counted(Counter::Turned));
        assert_eq!(before, after, "{what}");
    }
}

/// A connection from `from` that has begun: its first packet went to the program at the ingress.
fn begun<'a>(turn: &Turn<'_>, plane: &mut Plane, family: usize, protocol: u8) -> [Packet<'a>; 2] {
    let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
    let first = packet(client, front, protocol);
    let (node, beyond) = turn.gate.sends_on(plane, &first).sockets();
    assert_eq!(beyond.ip(), turn.beyond.beside(front.ip()));
    assert_eq!(node.ip(), front.ip());
    let forth = Packet {
        flags: ACK,
        ..first
    };
    let back = Packet {
        from: beyond,
        to: node,
        flags: SYN | ACK,
        ..first
    };
    [forth, back]
}

const KINDS: [(usize, u8); 4] = [(0, TCP), (0, UDP), (1, TCP), (1, UDP)];

#[test]
fn there_and_back_every_byte_of_what_turns_is_right() {
    on_a_bed(|bed, plane| {
        let turn = Turn::new(bed, plane);
        for (family, protocol) in KINDS {
            let [forth, back] = begun(&turn, plane, family, protocol);
            for payload in [&b"odd"[..], &b""[..], &[7; 1_400]] {
                let sent = turn.turns(plane, &Packet { payload, ..forth });
                assert_eq!(sent.sockets(), (back.to, back.from));
                assert_eq!((sent.hops, sent.protocol), (63, protocol));
                assert!(sent.transport.ends_with(payload));
                let answer = turn.turns(plane, &Packet { payload, ..back });
                assert_eq!(answer.sockets(), (forth.to, forth.from));
                assert!(answer.transport.ends_with(payload));
            }
        }
        assert_eq!(plane.counted(Counter::Turned), 4 * 6);
        assert_eq!(plane.counted(Counter::Unwritable), 0);
    });
}

#[test]
fn a_datagram_without_a_checksum_turns_without() {
    on_a_bed(|bed, plane| {
        let turn = Turn::new(bed, plane);
        let [forth, _] = begun(&turn, plane, 0, UDP);
        turn.turns(plane, &forth);
        let mut frame = forth.frame(turn.gate.mac);
        frame[ETHERNET + 26..ETHERNET + 28].fill(0);
        let turned = (0..TRIES).find_map(|_| {
            let (action, out) = turn.takes(plane, &frame);
            turn.gate.sends_on(plane, &forth);
            (action == TURN).then_some(out)
        });
        let sent = Read::checked(&turned.unwrap()[ETHERNET..]);
        assert_eq!(sent.transport[6..8], [0, 0]);
    });
}

/// Frames of a known connection that must not turn.
fn odd_frames(turn: &Turn<'_>, forth: &Packet<'_>, family: usize) -> Vec<(&'static str, Vec<u8>)> {
    let mac = turn.gate.mac;
    let good = forth.frame(mac);
    let changed = |place: usize, byte: u8| {
        let mut frame = good.clone();
        frame[place] = byte;
        frame
    };
    let mut tagged = good.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut unfinished = good.clone();
    let checksum = ETHERNET + [20, 40][family] + if forth.protocol == TCP { 16 } else { 6 };
    let bytes = good.len() - ETHERNET - [20, 40][family];
    let pseudo = crate::frames::pseudo(forth.from.ip(), forth.to.ip(), forth.protocol, bytes);
    let pseudo = crate::frames::folded(pseudo).to_be_bytes();
    unfinished[checksum..checksum + 2].copy_from_slice(&pseudo);
    let too_long = Packet {
        payload: &[7; 1_500],
        ..*forth
    };
    let first = Packet {
        flags: SYN,
        ..*forth
    };
    let unknown = Packet {
        from: SocketAddr::new(forth.from.ip(), 1),
        ..*forth
    };
    let mut frames = vec![
        ("in a VLAN", tagged),
        ("for somebody else", forth.frame(Mac([2, 1, 1, 1, 1, 1]))),
        ("ARP", changed(13, 6)),
        ("with a checksum yet to be finished", unfinished),
        ("larger than the link takes", too_long.frame(mac)),
        ("of nobody known", unknown.frame(mac)),
    ];
    if forth.protocol == TCP {
        frames.push(("a first packet", first.frame(mac)));
    }
    let v4 = [
        ("no version", 0, 0x55),
        ("with options", 0, 0x46),
        ("of no length", 3, 0),
        ("a first fragment", 6, 0x20),
        ("a later fragment", 7, 1),
        ("the last hop", 8, 1),
        ("another protocol", 9, 47),
    ];
    let v6 = [
        ("no version", 0, 0),
        ("of no length", 5, 0),
        ("a fragment", 6, 44),
        ("the last hop", 7, 1),
    ];
    for (what, place, byte) in if family == 0 { &v4[..] } else { &v6 } {
        frames.push((what, changed(ETHERNET + place, *byte)));
    }
    frames
}

#[test]
fn what_is_not_certain_goes_on_and_leaves_no_trace() {
    on_a_bed(|bed, plane| {
        let turn = Turn::new(bed, plane);
        for (family, protocol) in KINDS {
            let [forth, _] = begun(&turn, plane, family, protocol);
            for (what, frame) in odd_frames(&turn, &forth, family) {
                turn.lets_go_on(plane, what, &frame);
            }
            let good = forth.frame(turn.gate.mac);
            for length in [0, 19, 20, 39, 40, 47].map(|length| ETHERNET + length) {
                if length >= ETHERNET + [28, 48][family] {
                    continue;
                }
                turn.lets_go_on(plane, "cut off", &good[..length]);
            }
            // All of that is left as it was.
            turn.turns(plane, &forth);
        }
    });
}

#[test]
fn who_leaves_by_another_link_or_by_nobody_known_goes_on() {
    on_a_bed(|bed, plane| {
        let mut turn = Turn::new(bed, plane);
        let [known, _] = begun(&turn, plane, 0, TCP);
        turn.turns(plane, &known);
        for (family, protocol) in KINDS {
            let (client, front) = (at(CLIENTS[family]), at(NODE_PORTS[family]));
            let pod = (bed.pods[0].beside(front.ip()), PORT).into();
            plane.serve(front, 7, Frontend::MASQUERADE_OTHERS, &[pod]);
            bed.client.udp(front).unwrap();
            let mut first = packet(client, front, protocol);
            first.from.set_port(41_000);
            turn.gate.sends_on(plane, &first);
            let forth = Packet {
                flags: ACK,
                ..first
            };
            turn.lets_go_on(plane, "to a pod here", &forth.frame(turn.gate.mac));
        }
        let mut links = Handle::open_in(&bed.node).unwrap();
        links.flush_neighbours(turn.gate.index).unwrap();
        turn.lets_go_on(plane, "neighbour unknown", &known.frame(turn.gate.mac));
        // Nobody said that frames may turn at this link.
        turn.gate.index = bed.link("eth1");
        turn.lets_go_on(plane, "another link", &known.frame(turn.gate.mac));
    });
}
