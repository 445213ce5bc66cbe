//! What happens at the sockets and interfaces, as the programs count it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray};
use causeway_ebpf_abi::{Counter, Traffic};

use super::names::ServicePortName;
use super::pressure::{MapFill, Pressure};
use super::traffic::TrafficMaps;
use super::{Error, Options};

/// Read at any time, from any thread.
#[derive(Clone)]
pub struct Counts(Arc<Inner>);

struct Inner {
    counters: PerCpuArray<MapData, u64>,
    pressure: Pressure,
    /// None: nobody wants to see it.
    traffic: Option<TrafficMaps>,
    ended: AtomicU64,
    /// The interfaces that have the program on packets.
    hooked: AtomicU64,
    /// Frontends with a Maglev table, and without one that should have one; none: nobody wants any.
    spread: Option<[AtomicU64; 2]>,
    /// How long it took to load programs and maps, and to attach the programs, in nanoseconds.
    loading: AtomicU64,
    attaching: AtomicU64,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Where.
    pub hook: &'static str,
    /// What, or why.
    pub what: &'static str,
    /// How often, since the maps were made.
    pub count: u64,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.events())
            .entries(self.drops())
            .finish()
    }
}

impl Counts {
    pub(super) fn new(
        counters: PerCpuArray<MapData, u64>,
        options: &Options,
    ) -> Result<Self, Error> {
        let wanted = options.service_metrics;
        let traffic = wanted
            .then(|| TrafficMaps::open(&options.pins))
            .transpose()?;
        Ok(Self(Arc::new(Inner {
            counters,
            pressure: Pressure::open(&options.pins)?,
            traffic,
            ended: AtomicU64::new(0),
            hooked: AtomicU64::new(0),
            spread: options.maglev.map(|_| Default::default()),
            loading: AtomicU64::new(0),
            attaching: AtomicU64::new(0),
        })))
    }

    /// The programs and maps are loaded, which took so long.
    pub(super) fn set_loading(&self, took: Duration) {
        self.0.loading.store(nanoseconds(took), Ordering::Relaxed);
    }

    /// The programs are where they belong, which took so long.
    pub(super) fn set_attaching(&self, took: Duration) {
        self.0.attaching.store(nanoseconds(took), Ordering::Relaxed);
    }

    /// How long each step of this daemon's start took; 0: it was not taken yet.
    pub fn start(&self) -> [(&'static str, Duration); 2] {
        let steps = [("load", &self.0.loading), ("attach", &self.0.attaching)];
        steps.map(|(step, took)| (step, Duration::from_nanos(took.load(Ordering::Relaxed))))
    }

    /// So many sockets were ended, since their endpoint left.
    pub(super) fn add_ended(&self, sockets: u64) {
        self.0.ended.fetch_add(sockets, Ordering::Relaxed);
    }

    /// So many interfaces have the program on packets.
    pub(super) fn set_hooked(&self, interfaces: usize) {
        let interfaces = u64::try_from(interfaces).unwrap_or(u64::MAX);
        self.0.hooked.store(interfaces, Ordering::Relaxed);
    }

    /// How many interfaces have the program on packets.
    pub fn hooked(&self) -> u64 {
        self.0.hooked.load(Ordering::Relaxed)
    }

    /// So many frontends have a Maglev table, and so many should have one and don't. Gives how many
    /// did not before.
    pub(super) fn set_spread(&self, (with, without): (usize, usize)) -> u64 {
        let Some([tables, others]) = &self.0.spread else {
            return 0;
        };
        tables.store(with as u64, Ordering::Relaxed);
        others.swap(without as u64, Ordering::Relaxed)
    }

    /// How many frontends have a Maglev table, and how many should have one and don't; none where
    /// there are no such tables.
    pub fn spread(&self) -> Option<[u64; 2]> {
        let spread = self.0.spread.as_ref()?;
        Some(spread.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    /// What was done, or left to others; without what the kernel does not tell.
    pub fn events(&self) -> impl Iterator<Item = Counted> {
        // By this daemon; the others are the programs'.
        let ended = Counted {
            hook: SOCKET,
            what: "ended",
            count: self.0.ended.load(Ordering::Relaxed),
        };
        self.counted(false).chain([ended])
    }

    /// What was refused or dropped, by the reason.
    pub fn drops(&self) -> impl Iterator<Item = Counted> {
        self.counted(true)
    }

    fn counted(&self, dropped: bool) -> impl Iterator<Item = Counted> {
        Counter::ALL.into_iter().filter_map(move |counter| {
            let (hook, what, is_drop) = said(counter);
            if is_drop != dropped {
                return None;
            }
            let by_processor = self.0.counters.get(&(counter as u32), 0).ok()?;
            let count = by_processor.iter().sum();
            Some(Counted { hook, what, count })
        })
    }

    /// What went to each Service port, if that is wanted, and the kernel tells it.
    pub fn services(&self) -> BTreeMap<ServicePortName, Traffic> {
        let traffic = self.0.traffic.as_ref();
        let found = traffic.map(TrafficMaps::by_service);
        found.and_then(Result::ok).unwrap_or_default()
    }

    /// How full each map is that grows.
    pub fn maps(&self) -> impl Iterator<Item = MapFill> {
        self.0.pressure.read()
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

const SOCKET: &str = "socket";
const PACKET: &str = "packet";
const XDP: &str = "xdp";

/// The hook, what happened there, and whether that was the end of a call or a packet.
pub(super) const fn said(counter: Counter) -> (&'static str, &'static str, bool) {
    match counter {
        Counter::Connected => (SOCKET, "connected_tcp", false),
        Counter::ConnectedUdp => (SOCKET, "connected_udp", false),
        Counter::Sent => (SOCKET, "sent", false),
        Counter::Refused => (SOCKET, "no_endpoint", true),
        Counter::BindRefused => (SOCKET, "bind_to_node_port", true),
        Counter::Torn => (SOCKET, "torn", false),
        Counter::Forgotten => (SOCKET, "forgotten", false),
        Counter::Translated => (PACKET, "connection", false),
        Counter::Direct => (PACKET, "direct_connection", false),
        Counter::ErrorTranslated => (PACKET, "icmp_error", false),
        Counter::Unanswered => (PACKET, "icmp_limited", false),
        Counter::Fragment => (PACKET, "fragment", false),
        Counter::Extension => (PACKET, "extension", false),
        Counter::Turned => (XDP, "turned", false),
        Counter::NotForwarded => (PACKET, "no_route", false),
        Counter::PacketsRefused => (PACKET, "no_endpoint", true),
        Counter::PacketsDropped => (PACKET, "not_served", true),
        Counter::SourceRefused => (PACKET, "source", true),
        Counter::NoPort => (PACKET, "no_port", true),
        Counter::TooBig => (PACKET, "too_big", true),
        Counter::Untracked => (PACKET, "no_room", true),
        Counter::Unwritable => (PACKET, "unwritable", true),
        Counter::FragmentDropped => (PACKET, "fragment", true),
    }
}
