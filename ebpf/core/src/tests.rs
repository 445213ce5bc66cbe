use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

use causeway_ebpf_abi::prefilter::{Block, Folded, aim, network};
use causeway_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Connected, Counter, Event, FlowKey, Frontend,
    FrontendKey, MemberKey, Original, ReverseKey, SlotKey, SocketRules, Traffic, UNSERVED_DROPPED,
    UNSERVED_REFUSED, mapped,
};
use proptest::prelude::*;

use super::prefilter::Prefilter;
use super::*;

extern crate std;

mod arithmetic;
mod packets;
mod prefilter;
mod sockets;

#[derive(Default)]
struct Maps {
    frontends: BTreeMap<FrontendKey, Frontend>,
    backends: BTreeMap<SlotKey, Backend>,
    members: Vec<MemberKey>,
    unserved: BTreeMap<Address, u32>,
    affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    flows: RefCell<BTreeMap<FlowKey, Backend>>,
    originals: RefCell<BTreeMap<ReverseKey, Original>>,
    connected: RefCell<BTreeMap<(u8, u64), Connected>>,
    /// Whether other sockets share cells, if that isn't as it is.
    shared: Option<bool>,
    rules: Option<SocketRules>,
    /// The bits of what may be aimed at, if not those of what is there.
    aimed: Option<u64>,
    counted: RefCell<Vec<Counter>>,
    told: RefCell<Vec<Event>>,
    traffic: RefCell<BTreeMap<(u32, Backend), Traffic>>,
}

impl Tables for Maps {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }
    fn unserved(&self, address: &Address) -> Option<u32> {
        self.unserved.get(address).copied()
    }
    fn backend(&self, key: &SlotKey) -> Option<Backend> {
        self.backends.get(key).copied()
    }
    fn is_member(&self, key: &MemberKey) -> bool {
        self.members.contains(key)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *value);
    }
    fn flow(&self, key: &FlowKey) -> Option<Backend> {
        self.flows.borrow().get(key).copied()
    }
    fn set_flow(&self, key: &FlowKey, value: &Backend) {
        self.flows.borrow_mut().insert(*key, *value);
    }
    fn original(&self, key: &ReverseKey) -> Option<Original> {
        self.originals.borrow().get(key).copied()
    }
    fn set_original(&self, key: &ReverseKey, value: &Original) -> bool {
        self.originals.borrow_mut().insert(*key, *value);
        true
    }
    fn count(&self, what: Counter) {
        self.counted.borrow_mut().push(what);
    }
    fn add(&self, service: u32, backend: &Backend, more: &Traffic) {
        let mut traffic = self.traffic.borrow_mut();
        traffic.entry((service, *backend)).or_default().add(more);
    }
    fn tell(&self, event: &Event) {
        self.told.borrow_mut().push(*event);
    }
}

impl Sockets for Maps {
    fn may_be_connected(&self, cookie: u64) -> bool {
        let there = || self.connected.borrow().keys().any(|key| key.1 == cookie);
        self.shared.unwrap_or_else(there)
    }
    fn connected(&self, protocol: u8, cookie: u64) -> Option<Connected> {
        self.connected.borrow().get(&(protocol, cookie)).copied()
    }
    fn set_connected(&self, protocol: u8, cookie: u64, value: &Connected) -> bool {
        let mut connected = self.connected.borrow_mut();
        connected.insert((protocol, cookie), *value);
        true
    }
    fn forget(&self, protocol: u8, cookie: u64) {
        self.connected.borrow_mut().remove(&(protocol, cookie));
    }
    fn rules(&self) -> Option<SocketRules> {
        self.rules
    }
}

/// Whatever is in a map may be aimed at.
impl Prefilter for Maps {
    fn generation(&self) -> u32 {
        0
    }
    fn mark(&self, _: u32) -> u32 {
        0
    }
    fn aims(&self, word: u32) -> u64 {
        if let Some(aimed) = self.aimed {
            return aimed;
        }
        let frontends = self.frontends.keys();
        let aims = frontends.map(|key| aim(Folded::of(&key.address), key.port, key.protocol));
        let networks = self.unserved.keys().map(|key| network(Block::of(key)));
        let there = aims.chain(networks).filter(|bit| bit.0 == word);
        there.fold(0, |bits, bit| bits | bit.1)
    }
}

impl Caller for Socket {
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn netns(&self) -> u64 {
        self.netns
    }
}

struct Machine {
    random: u32,
    now: u64,
}

impl Kernel for Machine {
    fn random(&self) -> u32 {
        self.random
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn node(&self) -> u64 {
        NODE
    }
}

const AIM: Aim = FrontendKey {
    address: mapped([10, 96, 0, 10]),
    port: 6379,
    protocol: 6,
    view: FrontendKey::INSIDE,
};
const NODE: u64 = 99;
const SERVICE: u32 = 12;
const CLIENT: Socket = Socket {
    cookie: 7,
    netns: 3,
};

fn backend(number: u8) -> Backend {
    Backend {
        address: mapped([10, 244, 1, number]),
        port: 6379,
        place: 0,
    }
}

/// One frontend with a set of so many backends.
fn maps(set: u32, count: u8, affinity_seconds: u32) -> Maps {
    let mut maps = Maps::default();
    let frontend = Frontend {
        set,
        count: count.into(),
        affinity_seconds,
        flags: Frontend::SOCKETS,
        table: 0,
        places: 0,
        service: SERVICE,
        sources: 0,
    };
    maps.frontends.insert(AIM, frontend);
    for slot in 0..count {
        let key = SlotKey {
            set,
            slot: slot.into(),
        };
        maps.backends.insert(key, backend(slot));
        maps.members.push(MemberKey {
            set,
            backend: backend(slot),
        });
    }
    maps
}

fn at(random: u32, now: u64) -> Machine {
    Machine { random, now }
}

#[test]
fn what_is_no_frontend_passes() {
    let other = FrontendKey { port: 80, ..AIM };
    let maps = maps(1, 2, 0);
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &other), Answer::NotOurs);
    assert!(maps.counted.borrow().is_empty());
}

#[test]
fn a_port_that_no_service_has_is_refused_at_a_services_address() {
    let mut maps = maps(1, 2, 0);
    maps.unserved.insert(AIM.address, UNSERVED_REFUSED);
    let other = FrontendKey { port: 80, ..AIM };
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &other), Answer::Refuse);
    assert_eq!(send(&maps, &at(0, 0), &CLIENT, &other), Answer::Refuse);
    assert_eq!(*maps.counted.borrow(), [Counter::Refused; 2]);
    // Who connects a UDP socket sends nothing yet.
    maps.rules = Some(SocketRules {
        v4: [0; 16],
        v6: [0; 16],
        flags: SocketRules::UDP_CONNECT,
    });
    let udp = FrontendKey {
        protocol: 17,
        ..other
    };
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &udp), Answer::NotOurs);
    // What is left to another data plane is known, and goes there.
    let left = Frontend {
        flags: 0,
        ..maps.frontends[&AIM]
    };
    maps.frontends.insert(other, left);
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &other), Answer::NotOurs);
}

#[test]
fn an_address_that_nobody_has_is_refused_to_the_node_and_left_to_the_interfaces_of_others() {
    let mut maps = maps(1, 2, 0);
    let other = FrontendKey {
        address: mapped([10, 96, 0, 99]),
        ..AIM
    };
    maps.unserved.insert(other.address, UNSERVED_DROPPED);
    let node = Socket {
        netns: NODE,
        ..CLIENT
    };
    for (socket, answer) in [(node, Answer::Refuse), (CLIENT, Answer::NotOurs)] {
        assert_eq!(connect(&maps, &at(0, 0), &socket, &other), answer);
        assert_eq!(send(&maps, &at(0, 0), &socket, &other), answer);
    }
}

#[test]
fn where_packets_decide_the_node_itself_is_refused_or_let_in_at_its_calls() {
    let mut maps = maps(1, 2, 0);
    let node = Socket {
        netns: NODE,
        ..CLIENT
    };
    let refused = Frontend::PACKETS;
    let admitted = Frontend::PACKETS | Frontend::NODE_SOCKETS;
    let first = Answer::To(backend(0));
    for (flags, socket, answer) in [
        (refused, CLIENT, Answer::NotOurs),
        (admitted, CLIENT, Answer::NotOurs),
        (refused, node, Answer::Refuse),
        (admitted, node, first),
        // With another data plane.
        (0, CLIENT, Answer::NotOurs),
        (0, node, Answer::NotOurs),
    ] {
        for frontend in maps.frontends.values_mut() {
            frontend.flags = flags;
        }
        assert_eq!(connect(&maps, &at(0, 0), &socket, &AIM), answer, "{flags}");
        assert_eq!(send(&maps, &at(0, 0), &socket, &AIM), answer, "{flags}");
    }
}

#[test]
fn the_nodes_loopback_is_nobody_elses() {
    let mut maps = maps(1, 1, 0);
    for frontend in maps.frontends.values_mut() {
        frontend.flags |= Frontend::NODE_ONLY;
    }
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &AIM), Answer::NotOurs);
    let node = Socket {
        netns: NODE,
        ..CLIENT
    };
    assert_eq!(
        connect(&maps, &at(0, 0), &node, &AIM),
        Answer::To(backend(0))
    );
}

#[test]
fn a_frontend_without_backends_refuses() {
    let maps = maps(1, 0, 0);
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &AIM), Answer::Refuse);
    assert_eq!(send(&maps, &at(0, 0), &CLIENT, &AIM), Answer::Refuse);
    assert_eq!(*maps.counted.borrow(), [Counter::Refused, Counter::Refused]);
}

#[test]
fn the_socket_goes_on_believing_in_the_frontend() {
    let maps = maps(1, 3, 0);
    let Answer::To(chosen) = connect(&maps, &at(u32::MAX, 0), &CLIENT, &AIM) else {
        panic!("not translated");
    };
    assert_eq!(chosen, backend(2));
    let original = believed(&maps, &CLIENT, chosen, 6).unwrap();
    assert_eq!((original.address, original.port), (AIM.address, AIM.port));
    assert_eq!(believed(&maps, &CLIENT, backend(0), 6), None);
    assert_eq!(believed(&maps, &CLIENT, chosen, 17), None);
    let other = Socket {
        cookie: 8,
        ..CLIENT
    };
    assert_eq!(believed(&maps, &other, chosen, 6), None);
}

#[test]
fn a_client_stays_until_its_time_is_up_or_its_backend_gone() {
    let mut before = maps(1, 3, 10);
    let to = |maps: &Maps, random, now| connect(maps, &at(random, now), &CLIENT, &AIM);
    assert_eq!(to(&before, 0, 0), Answer::To(backend(0)));
    assert_eq!(to(&before, u32::MAX, 9_999_999_999), Answer::To(backend(0)));
    // Each connection begins the time anew.
    assert_eq!(
        to(&before, u32::MAX, 19_000_000_000),
        Answer::To(backend(0))
    );
    assert_eq!(
        to(&before, u32::MAX, 29_000_000_000),
        Answer::To(backend(2))
    );
    before.members.retain(|member| member.backend != backend(2));
    assert_eq!(to(&before, 0, 29_000_000_002), Answer::To(backend(0)));
    let elsewhere = Socket { netns: 4, ..CLIENT };
    let other = connect(&before, &at(1 << 31, 29_000_000_002), &elsewhere, &AIM);
    assert_eq!(other, Answer::To(backend(1)));
}

#[test]
fn datagrams_of_one_socket_go_to_one_backend_until_it_leaves() {
    let mut maps_now = maps(1, 4, 0);
    let to = |maps: &Maps, random| send(maps, &at(random, 0), &CLIENT, &AIM);
    assert_eq!(to(&maps_now, 0), Answer::To(backend(0)));
    assert_eq!(to(&maps_now, u32::MAX), Answer::To(backend(0)));
    maps_now
        .members
        .retain(|member| member.backend != backend(0));
    assert_eq!(to(&maps_now, u32::MAX), Answer::To(backend(3)));
}

#[test]
fn a_missing_slot_is_counted_and_passes() {
    let mut maps = maps(1, 2, 0);
    maps.backends.clear();
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &AIM), Answer::NotOurs);
    assert_eq!(*maps.counted.borrow(), [Counter::Torn]);
}

proptest! {
    /// Whatever the random number, there is a slot for it, and every slot has its numbers.
    #[test]
    fn every_random_number_has_a_slot(count in 1_u8.., random: u32) {
        let maps = maps(1, count, 0);
        let Answer::To(chosen) = connect(&maps, &at(random, 0), &CLIENT, &AIM) else {
            panic!("not translated");
        };
        let [.., number] = chosen.address;
        prop_assert_eq!(u64::from(number), (u64::from(random) * u64::from(count)) >> 32);
    }
}
