//! What is counted for Service ports, and what whoever watches hears.

use causeway_ebpf_abi::{Backend, Counter, Event, Frontend, Traffic};

use super::world::{SERVICE, World};
use super::{CLIENT, INSIDE, SECOND, VIP, of, packet, pod, syn};
use crate::Limit;
use crate::packet::{Flow, TCP, UDP};

/// The only thing that was told.
fn told(world: &World) -> Event {
    let told = world.told.borrow_mut().split_off(0);
    assert_eq!(told.len(), 1, "{told:?}");
    let event = told[0];
    assert_eq!(event.client.address, CLIENT);
    assert_eq!(event.frontend.address, VIP);
    event
}

#[test]
fn a_connection_is_counted_and_told_once() {
    let world = World::with(Frontend::MASQUERADE_OTHERS, 1);
    let becomes = world.translates(&syn());
    let event = told(&world);
    assert_eq!(event.what, Counter::Translated as u32);
    assert_eq!(event.backend, pod(0));
    assert_eq!(becomes.destination, pod(0).address);
    world.now.set(4 * SECOND);
    world.translates(&syn());
    assert!(world.told.borrow().is_empty());
    let answer = Flow {
        length: 1_400,
        ..of(becomes.reversed(), Flow::SYN | Flow::ACK)
    };
    world.takes_at(INSIDE, &answer);
    let all = Traffic {
        connections: 1,
        refused: 0,
        packets: 2,
        bytes: 120,
        answer_packets: 1,
        answer_bytes: 1_400,
    };
    assert_eq!(*world.traffic.borrow(), [((SERVICE, pod(0)), all)].into());
}

#[test]
fn what_is_refused_or_finds_no_way_is_told_with_the_reason() {
    let refused = World::with(0, 0);
    refused.takes(&syn());
    let event = told(&refused);
    assert_eq!(event.what, Counter::PacketsRefused as u32);
    assert_eq!(event.backend, Backend::NONE);
    let counted = [((SERVICE, Backend::NONE), Traffic::REFUSAL)];
    assert_eq!(*refused.traffic.borrow(), counted.into());

    let lost = World::with(0, 1);
    lost.lost.set(true);
    lost.takes(&syn());
    assert_eq!(told(&lost).what, Counter::NotForwarded as u32);
    assert!(lost.traffic.borrow().is_empty());
}

/// What the Service port has of packets to its backend, and of those back.
fn passed(world: &World) -> (u64, u64) {
    let traffic = world.traffic.borrow();
    let all = traffic.get(&(SERVICE, pod(0))).copied().unwrap_or_default();
    (all.packets, all.answer_packets)
}

#[test]
fn packets_are_counted_once_a_second_and_at_the_end() {
    let world = World::with(0, 1);
    let becomes = world.translates(&syn());
    let (forth, back) = (packet(TCP, Flow::ACK), of(becomes.reversed(), Flow::ACK));
    let exchange = || {
        world.takes(&forth);
        world.takes_at(INSIDE, &back);
    };
    (0..10).for_each(|_| exchange());
    assert_eq!(passed(&world), (1, 0), "the first one");
    world.now.set(2 * SECOND);
    exchange();
    assert_eq!(passed(&world), (12, 11));
    exchange();
    assert_eq!(passed(&world), (12, 11));
    world.takes(&packet(TCP, Flow::FIN | Flow::ACK));
    world.takes_at(INSIDE, &of(becomes.reversed(), Flow::FIN | Flow::ACK));
    world.takes(&forth);
    assert_eq!(passed(&world), (15, 13), "each of those at the end");
}

#[test]
fn what_was_not_counted_is_when_the_next_connection_takes_the_place() {
    for protocol in [TCP, UDP] {
        let world = World::with(0, 1);
        let first = packet(protocol, if protocol == TCP { Flow::SYN } else { 0 });
        let becomes = world.translates(&first);
        world.takes(&packet(
            protocol,
            if protocol == TCP { Flow::ACK } else { 0 },
        ));
        world.takes_at(INSIDE, &of(becomes.reversed(), 0));
        assert_eq!(passed(&world), (1, 0));
        world.now.set(400 * SECOND);
        world.translates(&first);
        assert_eq!(passed(&world), (3, 1), "and the next one's first");
        assert_eq!(world.traffic.borrow()[&(SERVICE, pod(0))].connections, 2);
    }
}

#[test]
fn errors_are_told_one_a_millisecond_and_fifty_at_once() {
    const MILLISECOND: u64 = SECOND / 1_000;
    let mut limit = Limit::default();
    let mut said = |now| (0..1_000).filter(|_| limit.take(now)).count();
    for (now, expected) in [
        (1, 50),
        (1, 0),
        (MILLISECOND, 0),
        (MILLISECOND + 1, 1),
        (9 * SECOND, 50),
    ] {
        assert_eq!(said(now), expected, "{now}");
    }
    // Never more than that, however they come.
    let mut limit = Limit::default();
    let all = (0..SECOND)
        .step_by(10_000)
        .filter(|now| limit.take(*now))
        .count();
    assert_eq!(all, 1_049);
}
