//! Translation of packets, and what is remembered of their connections.

use causeway_ebpf_abi::{
    Address, Affinity, ClientKey, Counter, Frontend, FrontendKey, Interface, Settings, Track,
    Tuple, UNSERVED_DROPPED, UNSERVED_REFUSED,
};

use crate::packet::{Family, Flow, Report, TCP};
use crate::{Kernel, Tables, choice};

const NANOSECONDS: u64 = 1_000_000_000;
/// After so long without an answer a client's SYN begins something new, in nanoseconds.
const SYN_LASTS: u64 = 60 * NANOSECONDS;
/// How many ports are tried for a connection.
const TRIES: u32 = 16;

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
    /// What becomes of packets that aim there and at no frontend.
    fn unserved(&self, address: &Address) -> Option<u32>;
    /// Where a client belongs.
    fn client(&self, key: &ClientKey) -> Option<Affinity>;
    /// A client belongs there from now on.
    fn set_client(&self, key: &ClientKey, value: &Affinity);
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

/// The kernel's routes.
pub trait Routes {
    /// The way of a packet that came by this interface.
    fn way(&self, ingress: u32, family: Family, tuple: &Tuple) -> Way;
}

/// Where a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Here.
    Out(Hop),
    /// Nowhere, or it is the node's own.
    None,
    /// Nowhere, since it is larger than the link takes.
    TooBig,
}

/// The next node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface.
    pub interface: u32,
    /// The family of the address (AF_INET or AF_INET6).
    pub family: u32,
    /// Its address, as it stands in a packet.
    pub address: [u32; 4],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes up the stack as it is.
    Pass,
    /// It ends here.
    Drop,
    /// It ends here, and its sender is told so.
    Refuse,
    /// It is rewritten, and leaves.
    Forward(Tuple, Hop),
}

/// Decides about a packet of TCP or UDP that came by the interface `ingress`.
#[inline(always)]
pub fn decide(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    routes: &impl Routes,
    ingress: u32,
    flow: &Flow,
) -> Verdict {
    // The stack tells the sender.
    if flow.hops <= 1 {
        return Verdict::Pass;
    }
    if let Some(becomes) = follow(tables, kernel, flow) {
        return forward(tables, routes, ingress, flow.family, becomes);
    }
    if !flow.begins() {
        return Verdict::Pass;
    }
    let Some(inside) = tables.frontend(&aim(flow, FrontendKey::INSIDE)) else {
        return unserved(tables, ingress, flow);
    };
    match meant(tables, ingress, flow, inside) {
        Some((frontend, from)) => open(tables, kernel, routes, ingress, flow, &frontend, from),
        None => Verdict::Pass,
    }
}

/// Decides about an ICMP error: a packet of a connection that is translated was sent on under other
/// addresses, and whoever could not take it knows only those. The way back of what it quotes says
/// what that was.
#[inline(always)]
pub fn decide_report(
    tables: &impl PacketTables,
    routes: &impl Routes,
    ingress: u32,
    report: &Report,
) -> Verdict {
    if report.hops <= 1 {
        return Verdict::Pass;
    }
    let about = report.about.tuple.reversed();
    let Some(becomes) = tables.with_track(&about, |track| track.becomes) else {
        return Verdict::Pass;
    };
    let verdict = forward(tables, routes, ingress, report.about.family, becomes);
    if let Verdict::Forward(..) = verdict {
        tables.count(Counter::ErrorTranslated);
    }
    verdict
}

#[inline(always)]
fn forward(
    tables: &impl Tables,
    routes: &impl Routes,
    ingress: u32,
    family: Family,
    becomes: Tuple,
) -> Verdict {
    match routes.way(ingress, family, &becomes) {
        Way::Out(hop) => Verdict::Forward(becomes, hop),
        Way::None => {
            tables.count(Counter::NotForwarded);
            Verdict::Drop
        }
        Way::TooBig => {
            tables.count(Counter::TooBig);
            Verdict::Drop
        }
    }
}

/// What a track was when its packet came.
struct Before {
    becomes: Tuple,
    idle: u64,
    flags: u32,
}

/// What a packet of a known connection becomes. A connection that was over is forgotten when the
/// next one begins between the same two.
#[inline(always)]
fn follow(tables: &impl PacketTables, kernel: &impl Kernel, flow: &Flow) -> Option<Tuple> {
    let before = tables.with_track(&flow.tuple, |track| {
        let now = kernel.now();
        let before = Before {
            becomes: track.becomes,
            idle: now.saturating_sub(track.seen),
            flags: track.flags,
        };
        track.seen = now;
        track.packets += 1;
        track.bytes += u64::from(flow.length);
        if flow.flags & (Flow::FIN | Flow::RST) != 0 {
            track.flags |= end(flow);
        }
        before
    })?;
    if flow.begins() && is_over(tables, kernel, flow, &before) {
        tables.remove_track(&flow.tuple);
        tables.remove_track(&before.becomes.reversed());
        return None;
    }
    Some(before.becomes)
}

#[inline(always)]
const fn end(flow: &Flow) -> u32 {
    if flow.flags & Flow::RST != 0 {
        Track::RESET
    } else {
        Track::FINISHED
    }
}

#[inline(always)]
fn is_over(tables: &impl PacketTables, kernel: &impl Kernel, flow: &Flow, before: &Before) -> bool {
    const ENDED: u32 = Track::FINISHED | Track::RESET;
    if flow.tuple.protocol == TCP {
        if before.flags & ENDED != 0 || before.idle > SYN_LASTS {
            return true;
        }
        // Repeated, since it was not answered; or the other one ended the connection.
        let other = tables.with_track(&before.becomes.reversed(), |track| track.flags);
        return other.is_none_or(|flags| flags & ENDED != 0);
    }
    // Of UDP, every packet may be the first one of something new.
    let settings = tables.settings();
    let unanswered = u64::from(settings.udp_unanswered_seconds) * NANOSECONDS;
    if before.idle <= unanswered {
        return false;
    }
    let other = tables.with_track(&before.becomes.reversed(), |track| {
        (track.packets, track.seen)
    });
    let Some((1.., seen)) = other else {
        return true;
    };
    let lasts = u64::from(settings.udp_seconds) * NANOSECONDS;
    before.idle.min(kernel.now().saturating_sub(seen)) > lasts
}

#[inline(always)]
const fn aim(flow: &Flow, view: u8) -> FrontendKey {
    FrontendKey {
        address: flow.tuple.destination,
        port: flow.tuple.destination_port,
        protocol: flow.tuple.protocol,
        view,
    }
}

/// What becomes of a packet that aims at no frontend.
#[inline(always)]
fn unserved(tables: &impl PacketTables, ingress: u32, flow: &Flow) -> Verdict {
    let Some(what) = tables.unserved(&flow.tuple.destination) else {
        return Verdict::Pass;
    };
    if tables.interface(ingress).is_none() {
        return Verdict::Pass;
    }
    match what {
        UNSERVED_REFUSED => {
            tables.count(Counter::PacketsRefused);
            Verdict::Refuse
        }
        UNSERVED_DROPPED => {
            tables.count(Counter::PacketsDropped);
            Verdict::Drop
        }
        _ => Verdict::Pass,
    }
}

/// The frontend as the packet's source sees it, and the flag that says whether connections of such
/// sources are masqueraded; none where packets are left to the stack.
#[inline(always)]
fn meant(
    tables: &impl PacketTables,
    ingress: u32,
    flow: &Flow,
    inside: Frontend,
) -> Option<(Frontend, u32)> {
    let interface = tables.interface(ingress)?;
    if inside.flags & Frontend::NODE_ONLY != 0 || is_martian(flow) {
        return None;
    }
    let from_pods = interface.flags & Interface::PODS != 0;
    let (frontend, masquerade) = if from_pods || tables.is_pod(&flow.tuple.source) {
        (inside, Frontend::MASQUERADE_PODS)
    } else if inside.flags & Frontend::OUTSIDE_DIFFERS != 0 {
        let outside = tables.frontend(&aim(flow, FrontendKey::OUTSIDE))?;
        (outside, Frontend::MASQUERADE_OTHERS)
    } else {
        (inside, Frontend::MASQUERADE_OTHERS)
    };
    let ours = frontend.flags & Frontend::PACKETS != 0;
    ours.then_some((frontend, masquerade))
}

/// A new connection to a frontend.
#[inline(always)]
fn open(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    routes: &impl Routes,
    ingress: u32,
    flow: &Flow,
    frontend: &Frontend,
    masquerade: u32,
) -> Verdict {
    if frontend.flags & Frontend::DROP != 0 {
        tables.count(Counter::PacketsDropped);
        return Verdict::Drop;
    }
    if frontend.count == 0 {
        tables.count(Counter::PacketsRefused);
        return Verdict::Refuse;
    }
    let key = ClientKey {
        address: flow.tuple.source,
        set: frontend.set,
    };
    let Some(backend) = choice::choose(tables, kernel, &Remembered { tables, key }, frontend)
    else {
        tables.count(Counter::Torn);
        return Verdict::Pass;
    };
    let becomes = Tuple {
        destination: backend.address,
        destination_port: backend.port,
        ..flow.tuple
    };
    let masquerade = frontend.flags & masquerade != 0;
    translate(tables, kernel, routes, ingress, flow, becomes, masquerade)
}

/// A client, as the map of clients has it.
struct Remembered<'a, T> {
    tables: &'a T,
    key: ClientKey,
}

impl<T: PacketTables> choice::Client for Remembered<'_, T> {
    #[inline(always)]
    fn known(&self) -> Option<Affinity> {
        self.tables.client(&self.key)
    }
    #[inline(always)]
    fn remember(&self, value: &Affinity) {
        self.tables.set_client(&self.key, value);
    }
}

/// Whether a packet says that it comes from where none can come from (RFC 1122, section 3.2.1.3; RFC
/// 4291, section 2.5): the stack drops it.
#[inline(always)]
fn is_martian(flow: &Flow) -> bool {
    let [first, second, .., v4, _, _, _] = flow.tuple.source;
    match flow.family {
        Family::V4 => v4 == 0 || v4 == 127 || v4 >= 224,
        // Among them the unspecified address and loopback; multicast; link-local.
        Family::V6 => first == 0 && second == 0 || first == 0xff || first == 0xfe && second >= 0x80,
    }
}

/// Sends a connection to its backend, and remembers both directions.
#[inline(always)]
fn translate(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    routes: &impl Routes,
    ingress: u32,
    flow: &Flow,
    mut becomes: Tuple,
    masquerade: bool,
) -> Verdict {
    let hop = match routes.way(ingress, flow.family, &becomes) {
        Way::Out(hop) => hop,
        Way::None => {
            tables.count(Counter::NotForwarded);
            return Verdict::Pass;
        }
        Way::TooBig => {
            tables.count(Counter::TooBig);
            return Verdict::Drop;
        }
    };
    // Out where it came in, the answer might find a shorter way than through this node.
    let masquerade =
        masquerade || hop.interface == ingress || becomes.source == becomes.destination;
    if masquerade {
        let Some(address) = address_at(tables, hop.interface, flow.family) else {
            tables.count(Counter::NotForwarded);
            return Verdict::Pass;
        };
        becomes.source = address;
    }
    if let Err(verdict) = reserve(tables, kernel, flow, &mut becomes, masquerade) {
        return verdict;
    }
    let track = fresh(kernel, becomes, 0, flow.length);
    match tables.add_track(&flow.tuple, &track) {
        Added::New => {
            tables.count(Counter::Translated);
            Verdict::Forward(becomes, hop)
        }
        Added::Exists => {
            // Another processor has just done the same for another packet.
            tables.remove_track(&becomes.reversed());
            match tables.with_track(&flow.tuple, |track| track.becomes) {
                Some(theirs) => forward(tables, routes, ingress, flow.family, theirs),
                None => Verdict::Drop,
            }
        }
        Added::Full => {
            tables.remove_track(&becomes.reversed());
            tables.count(Counter::Untracked);
            Verdict::Drop
        }
    }
}

/// The node's address for connections that leave there.
#[inline(always)]
fn address_at(tables: &impl PacketTables, interface: u32, family: Family) -> Option<Address> {
    let interface = tables.interface(interface)?;
    let address = match family {
        Family::V4 => interface.v4,
        Family::V6 => interface.v6,
    };
    (address != [0; 16]).then_some(address)
}

/// Finds a port from which the connection goes on, so that answers are told from those of all
/// others, and remembers the way back. Its own port, if that may be.
#[inline(always)]
fn reserve(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    flow: &Flow,
    becomes: &mut Tuple,
    masquerade: bool,
) -> Result<(), Verdict> {
    let settings = tables.settings();
    let range = settings.first_port..=settings.last_port;
    let keeps = !masquerade || range.contains(&flow.tuple.source_port);
    let ports = u32::from(settings.last_port.saturating_sub(settings.first_port)) + 1;
    let track = fresh(kernel, flow.tuple.reversed(), Track::ANSWER, 0);
    for number in 0..TRIES {
        if number > 0 || !keeps {
            let random = (u64::from(kernel.random()) * u64::from(ports)) >> 32;
            // Below the number of ports.
            let random = u16::try_from(random & 0xffff).unwrap_or(0);
            becomes.source_port = settings.first_port.wrapping_add(random);
        }
        match tables.add_track(&becomes.reversed(), &track) {
            Added::New => return Ok(()),
            Added::Exists => {}
            Added::Full => {
                tables.count(Counter::Untracked);
                return Err(Verdict::Drop);
            }
        }
    }
    tables.count(Counter::NoPort);
    Err(Verdict::Drop)
}

#[inline(always)]
fn fresh(kernel: &impl Kernel, becomes: Tuple, flags: u32, bytes: u16) -> Track {
    Track {
        seen: kernel.now(),
        packets: u64::from(bytes != 0),
        bytes: u64::from(bytes),
        becomes,
        flags,
        zero: 0,
    }
}
