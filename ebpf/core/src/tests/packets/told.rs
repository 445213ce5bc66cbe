//! What is counted for Service ports, and what whoever watches hears.

use causeway_ebpf_abi::{Backend, Counter, Event, Frontend, Traffic};

use super::world::{SERVICE, World};
use super::{CLIENT, VIP, pod, syn};

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
    world.translates(&syn());
    assert!(world.told.borrow().is_empty());
    let counted = [((SERVICE, pod(0)), Traffic::CONNECTION)];
    assert_eq!(*world.traffic.borrow(), counted.into());
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
