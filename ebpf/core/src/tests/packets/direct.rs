//! Connections whose packets go to the endpoint's node as they came.

use causeway_ebpf_abi::{
    Address, Backend, Counter, Frontend, Hop, Interface, Peer, Track, Traffic, Tuple, mapped,
};

use super::world::{SERVICE, World};
use super::{CLIENT, INSIDE, OUTSIDE, SECOND, VIP, of, packet, pod, syn};
use crate::onward::is_at;
use crate::packet::{Family, Flow, TCP, UDP};
use crate::{Verdict, Work, answer_to, turn, words};

extern crate std;

/// The endpoint's node.
const OTHER_NODE: Address = mapped([192, 0, 2, 12]);

/// A frontend whose one backend is there, behind another node, and has a table.
fn world(place: u16) -> World {
    let mut world = World::with(Frontend::MASQUERADE_OTHERS | Frontend::MASQUERADE_PODS, 1);
    for backend in world.backends.values_mut() {
        backend.place = place;
    }
    for frontend in world.frontends.values_mut() {
        (frontend.table, frontend.places) = (9, 251);
    }
    if place != Backend::HERE {
        world.beyond.set(Some(OTHER_NODE));
    }
    world
}

fn first(protocol: u8) -> Flow {
    packet(protocol, if protocol == TCP { Flow::SYN } else { 0 })
}

/// A packet goes on as it came, to the other node.
#[track_caller]
fn goes_on(world: &World, flow: &Flow) {
    let (verdict, work) = world.makes_of(OUTSIDE, flow);
    assert_eq!(verdict, Verdict::Translate);
    assert_eq!(*work.leaves_as(&flow.tuple), flow.tuple);
    assert_eq!(work.hop.interface, OUTSIDE);
}

/// It goes on under other addresses.
#[track_caller]
fn is_translated(world: &World, flow: &Flow) -> Tuple {
    let (verdict, work) = world.makes_of(OUTSIDE, flow);
    assert_eq!(verdict, Verdict::Translate);
    let leaves = *work.leaves_as(&flow.tuple);
    assert_eq!(leaves.destination, pod(0).address);
    leaves
}

#[test]
fn one_direction_is_remembered_and_counted_for_nobody_here() {
    for protocol in [TCP, UDP] {
        let world = world(Backend::DELEGABLE);
        let flow = first(protocol);
        goes_on(&world, &flow);
        for second in 1..4 {
            world.now.set(second * SECOND);
            goes_on(&world, &packet(protocol, Flow::ACK));
        }
        let tracks = world.tracks.borrow();
        assert_eq!(tracks.len(), 1);
        let track = tracks[&flow.tuple];
        assert!(track.is_direct());
        assert_eq!((track.packets, track.bytes), (4, 240));
        let there = (track.becomes.source, track.becomes.destination);
        assert_eq!(there, (CLIENT, pod(0).address));
        assert_eq!(world.counted(Counter::Direct), 1);
        assert_eq!(world.counted(Counter::Translated), 0);
        assert!(world.traffic.borrow().is_empty());
        let told = world.told.borrow();
        assert_eq!((told.len(), told[0].backend), (1, pod(0)));
        assert_eq!(told[0].what, Counter::Direct as u32);
    }
}

#[test]
fn an_endpoint_here_sees_its_client_and_is_counted() {
    let world = world(Backend::HERE);
    let becomes = is_translated(&world, &syn());
    assert_eq!(becomes.source, CLIENT);
    let (verdict, back) = world.takes_at(INSIDE, &of(becomes.reversed(), Flow::SYN | Flow::ACK));
    assert_eq!(
        (verdict, back),
        (Verdict::Translate, syn().tuple.reversed())
    );
    let all = (SERVICE, pod(0));
    let expected = Traffic {
        connections: 1,
        ..Traffic::packets(1, 60, false)
    };
    assert_eq!(world.traffic.borrow()[&all], expected);
}

#[test]
fn what_may_not_go_so_is_masqueraded() {
    let changes: [fn(&mut World); 7] = [
        // Nobody knows that it is on another node, or that that one would choose it.
        |world| *world = self::world(0),
        |world| world.frontends.values_mut().for_each(|one| one.table = 0),
        // It is no gateway that leads there, but the endpoint itself.
        |world| world.beyond.set(Some(pod(0).address)),
        |world| world.outside_flags.set(Interface::NO_ETHERNET),
        |world| world.outside_flags.set(Interface::PODS),
        // It is on this machine.
        |world| world.peer.set(Some(PEER)),
        |world| world.unknown.set(true),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut world = world(Backend::DELEGABLE);
        change(&mut world);
        let (verdict, work) = world.makes_of(OUTSIDE, &syn());
        let unknown = number == 6;
        let leaves = work.leaves_as(&syn().tuple).source;
        if unknown {
            assert_eq!(
                verdict,
                Verdict::Pass,
                "without an address to masquerade with"
            );
        } else {
            assert_eq!((verdict, leaves), (Verdict::Translate, VIP), "{number}");
        }
        assert_eq!(world.counted(Counter::Direct), 0, "{number}");
    }
    let world = world(Backend::DELEGABLE);
    let mut pods = syn();
    pods.tuple.source = mapped([10, 244, 9, 9]);
    assert_eq!(is_translated(&world, &pods).source, VIP);
}

#[test]
fn a_packet_that_came_back_is_masqueraded_from_then_on() {
    for protocol in [TCP, UDP] {
        let world = world(Backend::DELEGABLE);
        let flow = first(protocol);
        goes_on(&world, &flow);
        goes_on(&world, &flow);
        let returned = Flow { hops: 62, ..flow };
        let becomes = is_translated(&world, &returned);
        assert_eq!(becomes.source, VIP);
        assert_eq!(is_translated(&world, &flow), becomes);
        assert_eq!(world.tracks.borrow().len(), 2, "both directions");
        assert_eq!(world.counted(Counter::Direct), 1);
        assert_eq!(world.counted(Counter::Translated), 1);
    }
}

/// The client's way here may change.
#[test]
fn one_that_has_gone_on_for_a_while_does_not_come_back() {
    let world = world(Backend::DELEGABLE);
    for _ in 0..20 {
        goes_on(&world, &packet(UDP, 0));
    }
    goes_on(
        &world,
        &Flow {
            hops: 62,
            ..packet(UDP, 0)
        },
    );
    // And what begins nothing is never taken for it.
    let other = self::world(Backend::DELEGABLE);
    goes_on(&other, &syn());
    goes_on(
        &other,
        &Flow {
            hops: 62,
            ..packet(TCP, Flow::ACK)
        },
    );
}

#[test]
fn a_port_begins_anew_when_its_client_has_ended() {
    for (ends, seconds, anew) in [
        (None, 1, false),
        (None, 61, true),
        (Some(Flow::ACK), 1, false),
        (Some(Flow::FIN | Flow::ACK), 1, true),
        (Some(Flow::RST), 1, true),
    ] {
        let world = world(Backend::DELEGABLE);
        goes_on(&world, &syn());
        if let Some(flags) = ends {
            goes_on(&world, &packet(TCP, flags));
        }
        world.now.set(seconds * SECOND);
        goes_on(&world, &syn());
        let connections = if anew { 2 } else { 1 };
        assert_eq!(world.counted(Counter::Direct), connections, "{ends:?}");
        assert_eq!(world.tracks.borrow().len(), 1);
    }
    for (packets, seconds, anew) in [
        (1, 30, false),
        (1, 31, true),
        (2, 180, false),
        (2, 181, true),
    ] {
        let world = world(Backend::DELEGABLE);
        for _ in 0..packets {
            goes_on(&world, &packet(UDP, 0));
        }
        world.now.set(seconds * SECOND);
        goes_on(&world, &packet(UDP, 0));
        let flows = if anew { 2 } else { 1 };
        assert_eq!(world.counted(Counter::Direct), flows, "{packets} {seconds}");
    }
}

/// The other node holds both directions.
#[test]
fn an_error_about_an_answer_goes_on_as_it_came() {
    let (here, there) = (world(Backend::DELEGABLE), world(Backend::HERE));
    goes_on(&here, &syn());
    let becomes = is_translated(&there, &syn());
    let about = of(syn().tuple.reversed(), 0);
    let mut work = Work::EMPTY;
    assert!(answer_to(&here, &about, &mut work));
    assert_eq!(*work.answer_leaves_as(), syn().tuple);
    assert_eq!(work.becomes.destination, pod(0).address, "by that way");
    assert!(answer_to(&there, &about, &mut work));
    assert_eq!(*work.answer_leaves_as(), becomes);
}

#[test]
fn whoever_loses_a_race_follows_the_winner_and_takes_nothing_away() {
    let world = world(Backend::DELEGABLE);
    let translated = Track {
        seen: 0,
        packets: 1,
        bytes: 60,
        counted_packets: 0,
        counted_bytes: 0,
        becomes: Tuple {
            source: VIP,
            destination: pod(0).address,
            ..syn().tuple
        },
        flags: 0,
        service: 0,
        hop: Hop::NONE,
        zero: 0,
    };
    *world.other_processor.borrow_mut() = Some((syn().tuple, translated));
    assert_eq!(is_translated(&world, &syn()), translated.becomes);
    let directly = Track {
        flags: Track::direct(64),
        ..translated
    };
    let other = self::world(0);
    *other.other_processor.borrow_mut() = Some((syn().tuple, directly));
    goes_on(&other, &syn());
    assert_eq!(other.tracks.borrow().len(), 1);

    let mut full = self::world(Backend::DELEGABLE);
    full.room = Some(0);
    assert_eq!(full.takes(&syn()).0, Verdict::Drop);
    assert_eq!(full.counted(Counter::Untracked), 1);
}

/// What looks like the way back of one is another one's only direction.
#[test]
fn nobodys_port_is_taken_for_it() {
    let world = world(0);
    let answer = Tuple {
        source: pod(0).address,
        destination: VIP,
        source_port: pod(0).port,
        destination_port: 61_000,
        protocol: TCP,
        zero: [0; 3],
    };
    let gone = Track {
        seen: 0,
        packets: 1,
        bytes: 60,
        counted_packets: 0,
        counted_bytes: 0,
        becomes: answer,
        flags: Track::direct(64) | Track::RESET,
        service: 0,
        hop: Hop::NONE,
        zero: 0,
    };
    world.now.set(SECOND);
    for port in 61_000..=u16::MAX {
        let key = Tuple {
            destination_port: port,
            ..answer
        };
        world.tracks.borrow_mut().insert(key, gone);
    }
    assert_eq!(world.takes(&syn()).0, Verdict::Drop);
    assert_eq!(world.counted(Counter::NoPort), 1);
    assert_eq!(world.tracks.borrow().len(), 4_536);
}

#[test]
fn the_driver_leaves_it_alone() {
    let world = world(Backend::DELEGABLE);
    goes_on(&world, &packet(UDP, 0));
    let mut work = Work::EMPTY;
    let way = |_: &Tuple| Some(());
    assert_eq!(turn(&world, &world, &packet(UDP, 0), &mut work, way), None);
}

#[test]
fn a_hop_is_told_by_as_much_as_its_family_has() {
    let v6 =
        |last| Address::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets());
    let hop = |address| Hop {
        interface: 2,
        family: 0,
        address,
        mtu: 0,
    };
    let [.., first] = words(&OTHER_NODE);
    let v4 = hop([first, 0, 0, 0]);
    assert!(is_at(&v4, Family::V4, &OTHER_NODE) && !is_at(&v4, Family::V4, &VIP));
    let long = hop(words(&v6(12)));
    assert!(is_at(&long, Family::V6, &v6(12)) && !is_at(&long, Family::V6, &v6(13)));
}

const PEER: Peer = Peer {
    end: 7,
    frame: [1, 2, 3],
};

#[test]
fn a_hop_has_an_address_or_is_a_peer() {
    let mut hop = Hop {
        interface: 2,
        family: 2,
        address: [9, 0, 0, 7],
        mtu: 1_500,
    };
    assert_eq!([hop.peer(), Hop::NONE.peer()], [None, None]);
    hop.set_peer(PEER);
    assert_eq!((hop.peer(), hop.interface, hop.mtu), (Some(PEER), 2, 1_500));
}
