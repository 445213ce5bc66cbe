//! What is remembered of connections whose packets are translated.

use causeway_ebpf_abi::{
    Address, Affinity, ClientKey, Datagram, Interface, Ports, RowKey, Settings, Stage, Track,
    Traffic, TrafficKey, Tuple,
};

use crate::packet::{Flow, TCP};
use crate::{Kernel, Tables, Work};

const NANOSECONDS: u64 = 1_000_000_000;
/// After so long without an answer a client's SYN begins something new, in nanoseconds.
const SYN_LASTS: u64 = 60 * NANOSECONDS;
/// How long a port stays taken when its connection is over, in nanoseconds: the last packets may
/// still be under way.
const LINGERS: u64 = NANOSECONDS / 5;
/// Tracks are settled once in so many nanoseconds, as a power of two: about a second.
pub(crate) const TICK: u32 = 30;

/// The maps of packets.
pub trait PacketTables: Tables {
    /// Has `act` look at a connection's direction, and change it.
    fn with_track<T>(&self, key: &Tuple, act: impl FnOnce(&mut Track) -> T) -> Option<T>;
    /// Adds one.
    fn add_track(&self, key: &Tuple, value: &Track) -> Added;
    /// Forgets one.
    fn remove_track(&self, key: &Tuple);
    /// An interface whose packets are seen.
    fn interface(&self, index: u32) -> Option<Interface>;
    /// Whether an address is a pod's.
    fn is_pod(&self, address: &Address) -> bool;
    /// Whether a list of networks has an address.
    fn admits(&self, list: u32, source: &Address) -> bool;
    /// Where a client belongs.
    fn client(&self, key: &ClientKey) -> Option<Affinity>;
    /// A client belongs there from now on.
    fn set_client(&self, key: &ClientKey, value: &Affinity);
    /// The slot that a place in a row of a Maglev table names.
    fn slot_at(&self, key: &RowKey, place: u32) -> Option<u32>;
    /// The ports of the first fragment of a datagram.
    fn ports(&self, of: &Datagram) -> Option<Ports>;
    /// Remembers them.
    fn set_ports(&self, of: &Datagram, ports: &Ports);
    /// Forgets them.
    fn forget_ports(&self, of: &Datagram);
    /// What holds for all packets.
    fn settings(&self) -> Settings;
}

/// What became of a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is there.
    New,
    /// There was another one, which stays.
    Exists,
    /// There is no place for it.
    Full,
}

/// What a packet becomes that answers the one that an ICMP error quotes; whether that is known. A
/// packet of a connection that is translated was sent on under other addresses, and whoever could
/// not take it knows only those. What is about an answer that went directly from the endpoint's node
/// to the client goes on to that node as it came.
#[inline(always)]
pub fn answer_to(tables: &impl PacketTables, about: &Flow, work: &mut Work) -> bool {
    let Work {
        becomes,
        answer,
        direct,
        ..
    } = work;
    *answer = about.tuple.reversed();
    let known = tables.with_track(answer, |track| {
        *becomes = track.becomes;
        *direct = track.is_direct();
    });
    known.is_some()
}

/// What a packet of a known connection becomes; whether it is one. A connection that was over is
/// forgotten when the next one begins between the same two.
#[inline(always)]
pub fn follow(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    flow: &Flow,
    work: &mut Work,
) -> bool {
    let Work {
        becomes,
        answer,
        due,
        flags,
        hop,
        knows_way,
        direct,
        returned,
        ..
    } = work;
    (*direct, *returned) = (false, false);
    let before = tables.with_track(&flow.tuple, |track| {
        let now = kernel.now();
        let before = Before {
            idle: now.saturating_sub(track.seen),
            flags: track.flags,
            packets: track.packets,
        };
        *becomes = track.becomes;
        *direct = track.is_direct();
        *due = now >> TICK != track.seen >> TICK;
        *hop = track.hop;
        *knows_way = !*due && u32::from(flow.length) <= hop.mtu;
        note(track, flow, now);
        if flow.flags & (Flow::FIN | Flow::RST) != 0 {
            track.flags |= end(flow);
        }
        if *direct && flow.has_ports() && !flow.begins() {
            track.flags |= Track::ANSWERED;
        }
        *flags = track.flags;
        before
    });
    let Some(before) = before else {
        return false;
    };
    if !flow.begins() {
        return true;
    }
    *answer = becomes.reversed();
    *returned = before.is_returned(flow);
    if *returned || is_over(tables, kernel, flow, answer, &before) {
        // This one is the next connection's.
        tables.with_track(&flow.tuple, |track| {
            track.packets = track.packets.saturating_sub(1);
            track.bytes = track.bytes.saturating_sub(u64::from(flow.length));
        });
        forget(tables, &flow.tuple);
        if !*direct {
            forget(tables, answer);
        }
        *direct = false;
        return false;
    }
    true
}

/// A connection's direction before its next packet came.
struct Before {
    /// How long nothing had come, in nanoseconds.
    idle: u64,
    flags: u32,
    packets: u64,
}

impl Before {
    /// Whether a packet that may begin something is one that was sent to the endpoint's node as it
    /// came, and came back: it has gone through fewer nodes since the client sent it than this one
    /// has. Another way of the client's to us would do that, too; but hardly so soon.
    #[inline(always)]
    const fn is_returned(&self, flow: &Flow) -> bool {
        const SOON: u64 = 16;
        let direct = self.flags & Track::DIRECT != 0;
        direct && self.packets < SOON && (flow.hops as u32) < self.flags >> Track::HOPS
    }

    /// What is known of the other direction: its flags, packets, and how long nothing has come. A
    /// client whose answers don't pass here goes on as long as it gets some.
    #[inline(always)]
    fn other(&self, tables: &impl PacketTables, now: u64, key: &Tuple) -> Option<Self> {
        if self.flags & Track::DIRECT != 0 {
            return Some(Self {
                idle: self.idle,
                flags: 0,
                packets: self.packets.saturating_sub(1),
            });
        }
        tables.with_track(key, |track| Self {
            idle: now.saturating_sub(track.seen),
            flags: track.flags,
            packets: track.packets,
        })
    }
}

/// Counts for the Service port and its backend what came of a connection in both directions since the
/// last time, when it is time for that.
///
/// To do so with every packet would be four look-ups more for each of them. So it is done once a
/// second, and with each packet once a TCP connection has ended: nothing is left then when its port is
/// needed. Otherwise whoever takes a track away counts what is left.
#[inline(always)]
pub fn settle(tables: &impl PacketTables, flow: &Flow, work: &Work) {
    // What goes on as it came is counted where it is translated.
    if work.direct {
        return;
    }
    let partner = work.becomes.reversed();
    let other = tables.with_track(&partner, |track| {
        let ended = Stage::of(work.flags, track.flags) == Stage::Closed;
        (work.due || ended).then(|| take(track, &partner))
    });
    let Some(other) = other.unwrap_or(Some((TrafficKey::NONE, Traffic::NONE))) else {
        return;
    };
    let Some((to, mut more)) = tables.with_track(&flow.tuple, |track| take(track, &flow.tuple))
    else {
        return;
    };
    if other.0 == to {
        more.add(&other.1);
    } else {
        tables.add(other.0.service, &other.0.backend, &other.1);
    }
    tables.add(to.service, &to.backend, &more);
}

/// What is yet to be counted of a direction, which it is from now on.
#[inline(always)]
fn take(track: &mut Track, key: &Tuple) -> (TrafficKey, Traffic) {
    let uncounted = track.uncounted(key);
    track.counted_packets = track.packets;
    track.counted_bytes = track.bytes;
    uncounted
}

/// Takes a track away.
#[inline(always)]
fn forget(tables: &impl PacketTables, key: &Tuple) {
    if let Some((to, more)) = tables.with_track(key, |track| take(track, key)) {
        tables.add(to.service, &to.backend, &more);
    }
    tables.remove_track(key);
}

/// One packet more came this way.
#[inline(always)]
pub(crate) fn note(track: &mut Track, flow: &Flow, now: u64) {
    track.seen = now;
    track.packets += 1;
    track.bytes += u64::from(flow.length);
}

#[inline(always)]
const fn end(flow: &Flow) -> u32 {
    if flow.flags & Flow::RST != 0 {
        Track::RESET
    } else {
        Track::FINISHED
    }
}

/// Whether a connection was over when a packet came that may begin the next one from the same port.
/// Who begins a new one has done with the last one, even if the other side has not.
#[inline(always)]
fn is_over(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    flow: &Flow,
    other: &Tuple,
    before: &Before,
) -> bool {
    if flow.tuple.protocol == TCP {
        // Repeated, if it was not answered.
        let other = before.other(tables, kernel.now(), other);
        let stage = other.map(|other| Stage::of(before.flags, other.flags));
        return before.idle > SYN_LASTS || stage != Some(Stage::Open);
    }
    // Of UDP, every packet may be the first one of something new.
    let settings = tables.settings();
    let unanswered = u64::from(settings.udp_unanswered_seconds) * NANOSECONDS;
    if before.idle <= unanswered {
        return false;
    }
    let other = before.other(tables, kernel.now(), other);
    let Some(Before {
        packets: 1.., idle, ..
    }) = other
    else {
        return true;
    };
    let lasts = u64::from(settings.udp_seconds) * NANOSECONDS;
    before.idle.min(idle) > lasts
}

/// Forgets the connection with the way back `answer` if it is over, so that another one can
/// have its port: there are a few thousand of them, and busy clients need as many in a second.
/// Whether it was over.
#[inline(always)]
pub(crate) fn make_room(tables: &impl PacketTables, kernel: &impl Kernel, answer: &Tuple) -> bool {
    let now = kernel.now();
    // One whose answers don't pass here is no way back.
    let state = |track: &Track| {
        let lingers = now.saturating_sub(track.seen) < LINGERS;
        (lingers || track.is_direct(), track.flags)
    };
    let back = tables.with_track(answer, |track| (track.becomes.reversed(), state(track)));
    let Some((forward, (lingers, back))) = back else {
        return true;
    };
    let forth = tables.with_track(&forward, |track| state(track));
    // Without it, nothing of the client's is taken for this connection.
    let (still, forth) = forth.unwrap_or((false, Track::RESET));
    if lingers || still || Stage::of(back, forth) != Stage::Closed {
        return false;
    }
    tables.remove_track(&forward);
    tables.remove_track(answer);
    true
}
