//! The maps, pinned so that they outlive the daemon. Their sizes are what the daemon sets before
//! it loads them; the ones here are the defaults.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use causeway_ebpf_abi::prefilter::{AIM_WORDS, MARKS, mark_of};
use causeway_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, ClientKey, Counter, Datagram, Event, FlowKey,
    Frontend, FrontendKey, HardwareAddress, Interface, MemberKey, Original, PeerKey, Ports,
    ReverseKey, Row, RowKey, Settings, SlotKey, Source, SourceRange, Track, Traffic, Tuple,
};
use causeway_ebpf_core::prefilter::Prefilter;
use causeway_ebpf_core::{Added, Kernel as _, PacketTables, Tables};

use crate::packets::Room;
use crate::socket::ThisMachine;
use crate::{traffic, watch};

/// Entries of a map unless the daemon says otherwise; memory is taken as entries come.
const FRONTENDS: u32 = 65_536;
const BACKENDS: u32 = 1_048_576;
const SOCKETS: u32 = 65_536;
const INTERFACES: u32 = 4_096;
const WAYS_OUT: u32 = 256;
const PEERS: u32 = 4_096;
const OWN: u32 = 4_096;
const PODS: u32 = 1_024;
const UNSERVED: u32 = 65_536;
const SOURCES: u32 = 65_536;
const TRACKS: u32 = 262_144;
const FRAGMENTED: u32 = 16_384;

/// The length of an address as a network, in bits.
const HOST: u32 = 128;
/// Only where there is no such entry yet (linux/bpf.h).
const NEW: u64 = BPF_NOEXIST as u64;
/// There is one (asm-generic/errno-base.h).
const EXISTS: i32 = -17;

#[map(name = "frontends")]
static FRONTENDS_MAP: HashMap<FrontendKey, Frontend> =
    HashMap::pinned(FRONTENDS, BPF_F_NO_PREALLOC);

#[map(name = "backends")]
static BACKENDS_MAP: HashMap<SlotKey, Backend> = HashMap::pinned(BACKENDS, BPF_F_NO_PREALLOC);

#[map(name = "members")]
static MEMBERS_MAP: HashMap<MemberKey, u32> = HashMap::pinned(BACKENDS, BPF_F_NO_PREALLOC);

#[map(name = "affinity")]
static AFFINITY_MAP: LruHashMap<AffinityKey, Affinity> = LruHashMap::pinned(SOCKETS, 0);

#[map(name = "flows")]
static FLOWS_MAP: LruHashMap<FlowKey, Backend> = LruHashMap::pinned(SOCKETS, 0);

#[map(name = "reverse")]
static REVERSE_MAP: LruHashMap<ReverseKey, Original> = LruHashMap::pinned(SOCKETS, 0);

#[map(name = "counters")]
static COUNTERS_MAP: PerCpuArray<u64> = PerCpuArray::pinned(Counter::ALL.len() as u32, 0);

#[map(name = "node")]
static NODE_MAP: Array<u64> = Array::pinned(1, 0);

#[map(name = "interfaces")]
static INTERFACES_MAP: HashMap<u32, Interface> = HashMap::pinned(INTERFACES, BPF_F_NO_PREALLOC);

#[map(name = "ways_out")]
static WAYS_OUT_MAP: HashMap<u32, HardwareAddress> = HashMap::pinned(WAYS_OUT, BPF_F_NO_PREALLOC);

#[map(name = "peers")]
static PEERS_MAP: HashMap<PeerKey, u32> = HashMap::pinned(PEERS, BPF_F_NO_PREALLOC);

#[map(name = "straight")]
static STRAIGHT_MAP: Array<u64> = Array::pinned(2, 0);

#[map(name = "own")]
static OWN_MAP: HashMap<Address, u32> = HashMap::pinned(OWN, BPF_F_NO_PREALLOC);

#[map(name = "pods")]
static PODS_MAP: LpmTrie<Address, u32> = LpmTrie::pinned(PODS, BPF_F_NO_PREALLOC);

#[map(name = "unserved")]
static UNSERVED_MAP: LpmTrie<Address, u32> = LpmTrie::pinned(UNSERVED, BPF_F_NO_PREALLOC);

#[map(name = "sources")]
static SOURCES_MAP: LpmTrie<Source, u32> = LpmTrie::pinned(SOURCES, BPF_F_NO_PREALLOC);

#[map(name = "tracks")]
static TRACKS_MAP: LruHashMap<Tuple, Track> = LruHashMap::pinned(TRACKS, 0);

#[map(name = "clients")]
static CLIENTS_MAP: LruHashMap<ClientKey, Affinity> = LruHashMap::pinned(SOCKETS, 0);

#[map(name = "fragments")]
static FRAGMENTS_MAP: LruHashMap<Datagram, Ports> = LruHashMap::pinned(FRAGMENTED, 0);

#[map(name = "settings")]
static SETTINGS_MAP: Array<Settings> = Array::pinned(1, 0);

#[map(name = "rows")]
static ROWS_MAP: HashMap<RowKey, Row> = HashMap::pinned(Row::ALL, BPF_F_NO_PREALLOC);

#[map(name = "aims")]
static AIMS_MAP: Array<u64> = Array::pinned(AIM_WORDS, 0);

#[map(name = "marks")]
static MARKS_MAP: Array<u32> = Array::pinned(MARKS, 0);

#[map(name = "generation")]
static GENERATION_MAP: Array<u32> = Array::pinned(1, 0);

/// For the packet that a processor is at; nobody else sees it.
#[map(name = "room")]
static ROOM_MAP: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// See there.
#[inline(always)]
pub fn room() -> Option<&'static mut Room> {
    // SAFETY: this processor's own place, and a program is not interrupted by itself. Zero is a
    // value of everything in it.
    ROOM_MAP.get_ptr_mut(0).map(|room| unsafe { &mut *room })
}

/// The cookie of the node's own network namespace; none is 0.
#[inline(always)]
pub fn node() -> u64 {
    NODE_MAP.get(0).copied().unwrap_or(0)
}

/// The maps above.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        // SAFETY: an entry is replaced as a whole, and copied here at once.
        unsafe { FRONTENDS_MAP.get(key) }.copied()
    }
    #[inline(always)]
    fn unserved(&self, address: &Address) -> Option<u32> {
        UNSERVED_MAP.get(Key::new(HOST, *address)).copied()
    }
    #[inline(always)]
    fn backend(&self, key: &SlotKey) -> Option<Backend> {
        // SAFETY: as above.
        unsafe { BACKENDS_MAP.get(key) }.copied()
    }
    #[inline(always)]
    fn is_member(&self, key: &MemberKey) -> bool {
        // SAFETY: the value is not read.
        unsafe { MEMBERS_MAP.get(key) }.is_some()
    }
    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: two sockets of one client may write at once; either one's backend is good.
        unsafe { AFFINITY_MAP.get(key) }.copied()
    }
    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        // A full map forgets its oldest; where that fails, too, the client is not remembered.
        let _ = AFFINITY_MAP.insert(key, value, 0);
    }
    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Backend> {
        // SAFETY: as for the frontends.
        unsafe { FLOWS_MAP.get(key) }.copied()
    }
    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, value: &Backend) {
        let _ = FLOWS_MAP.insert(key, value, 0);
    }
    #[inline(always)]
    fn original(&self, key: &ReverseKey) -> Option<Original> {
        // SAFETY: as for the frontends.
        unsafe { REVERSE_MAP.get(key) }.copied()
    }
    #[inline(always)]
    fn set_original(&self, key: &ReverseKey, value: &Original) -> bool {
        REVERSE_MAP.insert(key, value, 0).is_ok()
    }
    #[inline(always)]
    fn count(&self, what: Counter) {
        if let Some(count) = COUNTERS_MAP.get_ptr_mut(what as u32) {
            // SAFETY: this processor's own place; a program is not interrupted by itself.
            unsafe { *count += 1 };
        }
    }
    #[inline(always)]
    fn add(&self, service: u32, backend: &Backend, more: &Traffic) {
        traffic::add(service, backend, more);
    }
    #[inline(always)]
    fn tell(&self, event: &Event) {
        watch::tell(event);
    }
}

impl PacketTables for Maps {
    #[inline(always)]
    fn with_track<T>(&self, key: &Tuple, act: impl FnOnce(&mut Track) -> T) -> Option<T> {
        let track = TRACKS_MAP.get_ptr_mut(key)?;
        // SAFETY: other processors may write it at once, and it may become another connection's
        // meanwhile: a packet is then counted wrongly.
        Some(act(unsafe { &mut *track }))
    }
    #[inline(always)]
    fn add_track(&self, key: &Tuple, value: &Track) -> Added {
        // Before anybody can meet it.
        if let Some(mark) = MARKS_MAP.get_ptr_mut(mark_of(key)) {
            // SAFETY: whoever else marks it writes the same, or one more.
            unsafe { *mark = self.generation() };
        }
        match TRACKS_MAP.insert(key, value, NEW) {
            Ok(()) => Added::New,
            Err(EXISTS) => Added::Exists,
            Err(_) => Added::Full,
        }
    }
    #[inline(always)]
    fn remove_track(&self, key: &Tuple) {
        // What another processor removed is gone as well.
        let _ = TRACKS_MAP.remove(key);
    }
    #[inline(always)]
    fn interface(&self, index: u32) -> Option<Interface> {
        // SAFETY: as for the frontends.
        unsafe { INTERFACES_MAP.get(&index) }.copied()
    }
    #[inline(always)]
    fn is_pod(&self, address: &Address) -> bool {
        PODS_MAP.get(Key::new(HOST, *address)).is_some()
    }
    #[inline(always)]
    fn admits(&self, list: u32, source: &Address) -> bool {
        let source = Source {
            list,
            address: *source,
        };
        SOURCES_MAP
            .get(Key::new(SourceRange::LIST + HOST, source))
            .is_some()
    }
    #[inline(always)]
    fn client(&self, key: &ClientKey) -> Option<Affinity> {
        // SAFETY: as for sockets.
        unsafe { CLIENTS_MAP.get(key) }.copied()
    }
    #[inline(always)]
    fn set_client(&self, key: &ClientKey, value: &Affinity) {
        let _ = CLIENTS_MAP.insert(key, value, 0);
    }
    #[inline(always)]
    fn slot_at(&self, key: &RowKey, place: u32) -> Option<u32> {
        // SAFETY: as for the frontends.
        unsafe { ROWS_MAP.get(key) }?.slot(place)
    }
    #[inline(always)]
    fn ports(&self, of: &Datagram) -> Option<Ports> {
        // SAFETY: as for the frontends.
        unsafe { FRAGMENTS_MAP.get(of) }.copied()
    }
    #[inline(always)]
    fn set_ports(&self, of: &Datagram, ports: &Ports) {
        // A full map forgets its oldest; where that fails, too, later fragments go to the stack.
        let _ = FRAGMENTS_MAP.insert(of, ports, 0);
    }
    #[inline(always)]
    fn forget_ports(&self, of: &Datagram) {
        // Mostly there are none.
        let _ = FRAGMENTS_MAP.remove(of);
    }
    #[inline(always)]
    fn settings(&self) -> Settings {
        let written = SETTINGS_MAP
            .get(0)
            .filter(|settings| settings.last_port != 0);
        written.copied().unwrap_or(Settings::DEFAULT)
    }
}

impl Prefilter for Maps {
    #[inline(always)]
    fn generation(&self) -> u32 {
        GENERATION_MAP.get(0).copied().unwrap_or(0)
    }
    #[inline(always)]
    fn mark(&self, cell: u32) -> u32 {
        MARKS_MAP.get(cell).copied().unwrap_or(0)
    }
    #[inline(always)]
    fn aims(&self, word: u32) -> u64 {
        AIMS_MAP.get(word).copied().unwrap_or(u64::MAX)
    }
}

/// The Ethernet address of an interface whose frames are seen.
#[inline(always)]
pub fn hardware_address(interface: u32) -> Option<[u8; 6]> {
    // SAFETY: an entry is replaced as a whole, and copied here at once.
    let found = unsafe { WAYS_OUT_MAP.get(&interface) }?;
    Some(found.octets)
}

/// The end of a virtual pair, behind which somebody is.
#[inline(always)]
pub fn peer_end(key: &PeerKey) -> Option<u32> {
    // SAFETY: as above.
    unsafe { PEERS_MAP.get(key) }.copied()
}

/// Whether packets that come by an interface, and that no Service is concerned with, may be given to peers.
/// The daemon says so again and again: once it is gone, nobody looks any more who wants to see them.
#[inline(always)]
pub fn leads_straight(interface: u32) -> bool {
    let told = |index| STRAIGHT_MAP.get(index).copied().unwrap_or(0);
    told(0) >> (interface & 63) & 1 != 0 && ThisMachine.now() < told(1)
}

/// Whether an address is the node's.
#[inline(always)]
pub fn is_own(address: &Address) -> bool {
    // SAFETY: the value is not read.
    unsafe { OWN_MAP.get(address) }.is_some()
}

/// Whether packets of an interface may begin with the IP header.
#[inline(always)]
pub fn may_lack_ethernet(interface: u32) -> bool {
    SETTINGS_MAP
        .get(0)
        .is_none_or(|settings| settings.may_lack_ethernet(interface))
}
