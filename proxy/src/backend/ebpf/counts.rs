//! What happens at the sockets, as the programs count it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, PerCpuArray};
use causeway_ebpf_abi::{Counter, maps};

/// Read at any time, from any thread.
#[derive(Clone)]
pub struct SocketCounts(Arc<Inner>);

struct Inner {
    counters: PerCpuArray<MapData, u64>,
    frontends: AtomicU64,
    backends: AtomicU64,
    ended: AtomicU64,
    tracks: AtomicU64,
}

impl fmt::Debug for SocketCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.events()).finish()
    }
}

impl SocketCounts {
    pub(super) fn new(counters: PerCpuArray<MapData, u64>) -> Self {
        Self(Arc::new(Inner {
            counters,
            frontends: AtomicU64::new(0),
            backends: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            tracks: AtomicU64::new(0),
        }))
    }

    pub(super) fn set_entries(&self, frontends: usize, backends: usize) {
        self.0.frontends.store(frontends as u64, Ordering::Relaxed);
        self.0.backends.store(backends as u64, Ordering::Relaxed);
    }

    /// As they were when they were last swept.
    pub(super) fn set_tracks(&self, tracks: usize) {
        self.0.tracks.store(tracks as u64, Ordering::Relaxed);
    }

    /// So many sockets were ended, since their endpoint left.
    pub(super) fn add_ended(&self, sockets: u64) {
        self.0.ended.fetch_add(sockets, Ordering::Relaxed);
    }

    /// How often what happened since the maps were made, by name; without what the kernel does not
    /// tell.
    pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counted = Counter::ALL.into_iter().filter_map(|counter| {
            let by_processor = self.0.counters.get(&(counter as u32), 0).ok()?;
            Some((name(counter), by_processor.iter().sum()))
        });
        // By this daemon; the others are the programs'.
        let ended = self.0.ended.load(Ordering::Relaxed);
        counted.chain([("ended", ended)])
    }

    /// How many entries there are, by map.
    pub fn entries(&self) -> [(&'static str, u64); 3] {
        [
            (maps::FRONTENDS, self.0.frontends.load(Ordering::Relaxed)),
            (maps::BACKENDS, self.0.backends.load(Ordering::Relaxed)),
            (maps::TRACKS, self.0.tracks.load(Ordering::Relaxed)),
        ]
    }
}

const fn name(counter: Counter) -> &'static str {
    match counter {
        Counter::Connected => "connected",
        Counter::Sent => "sent",
        Counter::Refused => "refused",
        Counter::Torn => "torn",
        Counter::Forgotten => "forgotten",
        Counter::Translated => "translated",
        Counter::PacketsRefused => "packets_refused",
        Counter::PacketsDropped => "packets_dropped",
        Counter::Fragment => "fragment",
        Counter::Extension => "extension",
        Counter::NoPort => "no_port",
        Counter::NotForwarded => "not_forwarded",
        Counter::TooBig => "too_big",
        Counter::Untracked => "untracked",
        Counter::Unwritable => "unwritable",
        Counter::ErrorTranslated => "error_translated",
        Counter::ConnectedUdp => "connected_udp",
        Counter::BindRefused => "bind_refused",
    }
}
