//! Packets that leave by where they came: all or nothing.

use causeway_ebpf_abi::{Counter, Frontend, Tuple};

use super::{CLIENT, INSIDE, SECOND, VIP, of, packet, syn, world::World};
use crate::packet::{Flow, TCP, UDP};
use crate::{Work, turn};

/// Anything.
const WAY: u32 = 7;

/// What a packet becomes that finds a way, where it may turn.
fn turns(world: &World, flow: &Flow, way: Option<u32>) -> Option<Tuple> {
    let mut work = Work::EMPTY;
    let found = turn(world, world, flow, &mut work, |_| way)?;
    assert_eq!(Some(found), way);
    Some(work.becomes)
}

/// A connection that has begun, and a packet of each of its directions.
fn begun(protocol: u8) -> (World, [Flow; 2]) {
    let world = World::with(Frontend::MASQUERADE_OTHERS, 1);
    let first = if protocol == TCP {
        syn()
    } else {
        packet(UDP, 0)
    };
    let becomes = world.translates(&first);
    let forth = of(first.tuple, Flow::ACK);
    (world, [forth, of(becomes.reversed(), Flow::ACK)])
}

#[test]
fn packets_of_a_known_connection_turn_and_are_counted_like_others() {
    for protocol in [TCP, UDP] {
        let (world, [forth, back]) = begun(protocol);
        let there = turns(&world, &forth, Some(WAY)).unwrap();
        assert_eq!(there, back.tuple.reversed());
        let here = turns(&world, &back, Some(WAY)).unwrap();
        assert_eq!((here.source, here.destination), (VIP, CLIENT));
        let tracks = world.tracks.borrow();
        let counts = |flow: &Flow| (tracks[&flow.tuple].packets, tracks[&flow.tuple].bytes);
        assert_eq!((counts(&forth), counts(&back)), ((2, 120), (1, 60)));
    }
}

#[test]
fn the_end_of_a_connection_is_not_for_the_driver() {
    let (world, [forth, back]) = begun(TCP);
    for flags in [Flow::FIN | Flow::ACK, Flow::RST] {
        let last = of(back.tuple, flags);
        assert_eq!(turns(&world, &last, Some(WAY)), None);
        world.takes_at(INSIDE, &last);
    }
    assert_eq!(turns(&world, &back, Some(WAY)), None);
    assert!(turns(&world, &forth, Some(WAY)).is_some(), "not yet");
}

#[test]
fn what_does_not_turn_leaves_no_trace() {
    let (world, [forth, _]) = begun(TCP);
    let before = world.tracks.borrow().clone();
    let mut unknown = forth;
    unknown.tuple.source_port += 1;
    for (flow, way) in [
        (forth, None),
        (syn(), Some(WAY)),
        (unknown, Some(WAY)),
        (packet(UDP, 0), Some(WAY)),
    ] {
        assert_eq!(turns(&world, &flow, way), None);
    }
    assert_eq!(*world.tracks.borrow(), before);
    assert_eq!(*world.counted.borrow(), [Counter::Translated]);
}

/// It is the stack that asks whether a neighbour is still there.
#[test]
fn once_in_a_while_a_packet_goes_the_long_way() {
    let (world, [forth, _]) = begun(UDP);
    for second in [2, 4, 6] {
        world.now.set(second * SECOND);
        assert_eq!(turns(&world, &forth, Some(WAY)), None);
        world.translates(&forth);
        assert!(turns(&world, &forth, Some(WAY)).is_some());
    }
}

/// A direction that means more than is known here.
#[test]
fn a_connection_of_another_kind_does_not_turn() {
    let (world, [forth, _]) = begun(TCP);
    if let Some(track) = world.tracks.borrow_mut().get_mut(&forth.tuple) {
        track.flags |= 1 << 9;
    }
    assert_eq!(turns(&world, &forth, Some(WAY)), None);
}
