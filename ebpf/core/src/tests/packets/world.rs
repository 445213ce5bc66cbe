//! Maps and routes that a test makes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

use causeway_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, ClientKey, Counter, Datagram, Event, FlowKey,
    Frontend, FrontendKey, Hop, Interface, MemberKey, Original, Peer, Ports, ReverseKey, Row,
    RowKey, Settings, SlotKey, Track, Traffic, Tuple, mapped,
};

use super::{INSIDE, NODE, OUTSIDE, VIP, pod};
use crate::packet::{Family, Flow, Part, TCP, UDP};
use crate::{
    Added, Kernel, PacketTables, Routes, Tables, Verdict, Way, Work, account, begin,
    first_fragment, follow, go_on, later_fragment, settle, stray, words,
};

extern crate std;

/// The Service port of all frontends.
pub(super) const SERVICE: u32 = 12;

#[derive(Default)]
pub(super) struct World {
    pub(super) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(super) backends: BTreeMap<SlotKey, Backend>,
    pub(super) tracks: RefCell<BTreeMap<Tuple, Track>>,
    pub(super) clients: RefCell<BTreeMap<ClientKey, Affinity>>,
    pub(super) ports: RefCell<BTreeMap<Datagram, Ports>>,
    pub(super) unserved: BTreeMap<Address, u32>,
    /// Lists, each with one address.
    pub(super) sources: BTreeMap<u32, Address>,
    pub(super) counted: RefCell<Vec<Counter>>,
    pub(super) traffic: RefCell<BTreeMap<(u32, Backend), Traffic>>,
    pub(super) told: RefCell<Vec<Event>>,
    pub(super) now: Cell<u64>,
    pub(super) random: Cell<u32>,
    /// How many tracks fit in.
    pub(super) room: Option<usize>,
    /// A track that another processor adds at the moment that this one looks for a port.
    pub(super) other_processor: RefCell<Option<(Tuple, Track)>>,
    pub(super) lost: Cell<bool>,
    /// The place that was asked for last, in which table, and the slot that it names.
    pub(super) asked: Cell<(u32, u32)>,
    pub(super) named: u32,
    pub(super) narrow: Cell<bool>,
    /// How often a way was asked for.
    pub(super) ways: Cell<u32>,
    /// Pods are behind this gateway, which is outside.
    pub(super) beyond: Cell<Option<Address>>,
    pub(super) outside_flags: Cell<u32>,
    /// Nothing is known of the interface by which packets leave there.
    pub(super) unknown: Cell<bool>,
    /// Who is behind every way is in another network namespace of this machine.
    pub(super) peer: Cell<Option<Peer>>,
}

/// Where that is, as the kernel says it, but not known to be the node's.
const NOWHERE: u32 = 77;

impl Tables for World {
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
        let set = |slot: &SlotKey| slot.set == key.set;
        self.backends
            .iter()
            .any(|(slot, backend)| set(slot) && *backend == key.backend)
    }
    fn affinity(&self, _: &AffinityKey) -> Option<Affinity> {
        None
    }
    fn set_affinity(&self, _: &AffinityKey, _: &Affinity) {}
    fn flow(&self, _: &FlowKey) -> Option<Backend> {
        None
    }
    fn set_flow(&self, _: &FlowKey, _: &Backend) {}
    fn original(&self, _: &ReverseKey) -> Option<Original> {
        None
    }
    fn set_original(&self, _: &ReverseKey, _: &Original) -> bool {
        false
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

impl PacketTables for World {
    fn with_track<T>(&self, key: &Tuple, act: impl FnOnce(&mut Track) -> T) -> Option<T> {
        self.tracks.borrow_mut().get_mut(key).map(act)
    }
    fn add_track(&self, key: &Tuple, value: &Track) -> Added {
        if let Some((tuple, track)) = self.other_processor.borrow_mut().take() {
            self.tracks.borrow_mut().insert(tuple, track);
        }
        let mut tracks = self.tracks.borrow_mut();
        if tracks.contains_key(key) {
            return Added::Exists;
        }
        if self.room.is_some_and(|room| tracks.len() >= room) {
            return Added::Full;
        }
        tracks.insert(*key, *value);
        Added::New
    }
    fn remove_track(&self, key: &Tuple) {
        self.tracks.borrow_mut().remove(key);
    }
    fn interface(&self, index: u32) -> Option<Interface> {
        let interface = |v4, flags| Interface {
            v4,
            v6: [0; 16],
            flags,
        };
        match index {
            OUTSIDE => Some(interface(VIP, self.outside_flags.get())),
            INSIDE => Some(interface(NODE, 0)),
            _ => None,
        }
    }
    fn is_pod(&self, address: &Address) -> bool {
        address.starts_with(&mapped([10, 244, 0, 0])[..14])
    }
    fn admits(&self, list: u32, source: &Address) -> bool {
        self.sources.get(&list) == Some(source)
    }
    fn client(&self, key: &ClientKey) -> Option<Affinity> {
        self.clients.borrow().get(key).copied()
    }
    fn set_client(&self, key: &ClientKey, value: &Affinity) {
        self.clients.borrow_mut().insert(*key, *value);
    }
    fn slot_at(&self, key: &RowKey, place: u32) -> Option<u32> {
        self.asked.set((key.table, key.row * Row::PLACES + place));
        Some(self.named)
    }
    fn ports(&self, of: &Datagram) -> Option<Ports> {
        self.ports.borrow().get(of).copied()
    }
    fn set_ports(&self, of: &Datagram, ports: &Ports) {
        self.ports.borrow_mut().insert(*of, *ports);
    }
    fn forget_ports(&self, of: &Datagram) {
        self.ports.borrow_mut().remove(of);
    }
    fn settings(&self) -> Settings {
        Settings::DEFAULT
    }
}

impl Kernel for World {
    fn random(&self) -> u32 {
        // Another one each time.
        let random = self.random.get();
        self.random
            .set(random.wrapping_mul(2_654_435_761).wrapping_add(0x9e37_79b9));
        random
    }
    fn now(&self) -> u64 {
        self.now.get()
    }
    fn node(&self) -> u64 {
        0
    }
}

impl Routes for World {
    fn way(&self, _: u32, _: Family, tuple: &Tuple, hop: &mut Hop) -> Way {
        self.ways.set(self.ways.get() + 1);
        if self.lost.get() {
            return Way::None;
        }
        let beyond = self
            .beyond
            .get()
            .filter(|_| self.is_pod(&tuple.destination));
        hop.interface = match beyond {
            Some(_) if self.unknown.get() => NOWHERE,
            None if self.is_pod(&tuple.destination) => INSIDE,
            _ => OUTSIDE,
        };
        let [.., last] = words(&beyond.unwrap_or(tuple.destination));
        (hop.family, hop.address) = (2, [last, 0, 0, 0]);
        hop.mtu = 1_500;
        if let Some(peer) = self.peer.get() {
            hop.set_peer(peer);
        }
        if self.narrow.get() {
            hop.mtu = 1_280;
            return Way::TooBig;
        }
        Way::Out
    }
}

impl World {
    pub(super) fn with(flags: u32, backends: u8) -> Self {
        let mut world = Self::default();
        world.serve(FrontendKey::INSIDE, flags, backends);
        world
    }

    pub(super) fn serve(&mut self, view: u8, flags: u32, backends: u8) {
        let set = u32::from(view) + 1;
        for protocol in [TCP, UDP] {
            let key = FrontendKey {
                address: VIP,
                port: 80,
                protocol,
                view,
            };
            let frontend = Frontend {
                service: SERVICE,
                sources: 0,
                set,
                count: backends.into(),
                affinity_seconds: 0,
                flags: flags | Frontend::PACKETS,
                table: 0,
                places: 0,
            };
            self.frontends.insert(key, frontend);
        }
        for slot in 0..backends {
            let key = SlotKey {
                set,
                slot: slot.into(),
            };
            self.backends.insert(key, pod(slot));
        }
    }

    /// What becomes of a packet that came outside.
    pub(super) fn takes(&self, flow: &Flow) -> (Verdict, Tuple) {
        self.takes_at(OUTSIDE, flow)
    }

    pub(super) fn takes_at(&self, ingress: u32, flow: &Flow) -> (Verdict, Tuple) {
        let (verdict, work) = self.makes_of(ingress, flow);
        (verdict, work.becomes)
    }

    pub(super) fn makes_of(&self, ingress: u32, flow: &Flow) -> (Verdict, Work) {
        let mut work = Work::EMPTY;
        let flow = &mut { *flow };
        if !flow.has_ports() && !later_fragment(self, flow) {
            return (Verdict::Pass, work);
        }
        let verdict = if follow(self, self, flow, &mut work) {
            if work.may_settle() {
                settle(self, flow, &work);
            }
            Verdict::Follow
        } else if flow.begins() {
            let verdict = begin(self, self, self, ingress, flow, &mut work);
            account(self, flow, &work);
            verdict
        } else {
            stray(self, flow)
        };
        if flow.part == Part::First {
            first_fragment(self, flow, verdict != Verdict::Pass);
        }
        let verdict = match verdict {
            Verdict::Follow if work.knows_way() => Verdict::Translate,
            Verdict::Follow => go_on(self, self, ingress, flow, &mut work),
            decided => decided,
        };
        (verdict, work)
    }

    pub(super) fn translates(&self, flow: &Flow) -> Tuple {
        let (verdict, becomes) = self.takes(flow);
        assert_eq!(verdict, Verdict::Translate);
        becomes
    }

    pub(super) fn counted(&self, what: Counter) -> usize {
        let counted = self.counted.borrow();
        counted.iter().filter(|one| **one == what).count()
    }
}
