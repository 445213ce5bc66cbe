//! Translation of packets, and what is remembered of their connections.

use causeway_ebpf_abi::{
    Address, Affinity, ClientKey, Counter, Frontend, FrontendKey, Interface, Settings, Track,
    Tuple, UNSERVED_DROPPED, UNSERVED_REFUSED,
};

use crate::packet::{Family, Flow, TCP};
use crate::{Kernel, Tables, choice};

const NANOSECONDS: u64 = 1_000_000_000;
/// After so long without an answer a client's SYN begins something new, in nanoseconds.
const SYN_LASTS: u64 = 60 * NANOSECONDS;
/// How long a port stays taken when its connection is over, in nanoseconds: the last packets may
/// still be under way.
const LINGERS: u64 = NANOSECONDS / 5;
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

/// What becomes of the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes up the stack as it is.
    Pass,
    /// It ends here.
    Drop,
    /// It ends here, and its sender is told so.
    Refuse,
    /// It becomes another one.
    Translate,
}

/// Decides about the first packet of a connection that came by the interface `ingress`, and what it
/// becomes.
#[inline(always)]
pub fn begin(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    routes: &impl Routes,
    ingress: u32,
    flow: &Flow,
    becomes: &mut Tuple,
) -> Verdict {
    let Some(inside) = tables.frontend(&aim(flow, FrontendKey::INSIDE)) else {
        return unserved(tables, ingress, flow);
    };
    let Some((frontend, masquerade)) = meant(tables, ingress, flow, inside) else {
        return Verdict::Pass;
    };
    if let Some(verdict) = ends(tables, &frontend) {
        return verdict;
    }
    let key = ClientKey {
        address: flow.tuple.source,
        set: frontend.set,
    };
    let Some(backend) = choice::choose(tables, kernel, &Remembered { tables, key }, &frontend)
    else {
        tables.count(Counter::Torn);
        return Verdict::Pass;
    };
    *becomes = flow.tuple;
    becomes.destination = backend.address;
    becomes.destination_port = backend.port;
    translate(tables, kernel, routes, ingress, flow, becomes, masquerade)
}

/// What a packet becomes that answers the one that an ICMP error quotes; whether that is known. A
/// packet of a connection that is translated was sent on under other addresses, and whoever could
/// not take it knows only those.
#[inline(always)]
pub fn answer_to(tables: &impl PacketTables, about: &Flow, becomes: &mut Tuple) -> bool {
    let answer = about.tuple.reversed();
    let known = tables.with_track(&answer, |track| *becomes = track.becomes);
    known.is_some()
}

/// The way of a packet that was translated; where there is none, it ends here.
#[inline(always)]
pub fn way(
    tables: &impl Tables,
    routes: &impl Routes,
    ingress: u32,
    family: Family,
    tuple: &Tuple,
) -> Option<Hop> {
    match routes.way(ingress, family, tuple) {
        Way::Out(hop) => Some(hop),
        Way::None => {
            tables.count(Counter::NotForwarded);
            None
        }
        Way::TooBig => {
            tables.count(Counter::TooBig);
            None
        }
    }
}

/// What a packet of a known connection becomes; whether it is one. A connection that was over is
/// forgotten when the next one begins between the same two.
#[inline(always)]
pub fn follow(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    flow: &Flow,
    becomes: &mut Tuple,
) -> bool {
    let before = tables.with_track(&flow.tuple, |track| {
        let now = kernel.now();
        let before = (now.saturating_sub(track.seen), track.flags);
        *becomes = track.becomes;
        track.seen = now;
        track.packets += 1;
        track.bytes += u64::from(flow.length);
        if flow.flags & (Flow::FIN | Flow::RST) != 0 {
            track.flags |= end(flow);
        }
        before
    });
    let Some((idle, flags)) = before else {
        return false;
    };
    if flow.begins() && is_over(tables, kernel, flow, &becomes.reversed(), idle, flags) {
        tables.remove_track(&flow.tuple);
        tables.remove_track(&becomes.reversed());
        return false;
    }
    true
}

#[inline(always)]
const fn end(flow: &Flow) -> u32 {
    if flow.flags & Flow::RST != 0 {
        Track::RESET
    } else {
        Track::FINISHED
    }
}

/// Whether a connection was over when a packet came that may begin the next one: how long nothing
/// had come, and the flags.
#[inline(always)]
fn is_over(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    flow: &Flow,
    other: &Tuple,
    idle: u64,
    flags: u32,
) -> bool {
    const ENDED: u32 = Track::FINISHED | Track::RESET;
    if flow.tuple.protocol == TCP {
        if flags & ENDED != 0 || idle > SYN_LASTS {
            return true;
        }
        // Repeated, since it was not answered; or the other one ended the connection.
        let other = tables.with_track(other, |track| track.flags);
        return other.is_none_or(|flags| flags & ENDED != 0);
    }
    // Of UDP, every packet may be the first one of something new.
    let settings = tables.settings();
    let unanswered = u64::from(settings.udp_unanswered_seconds) * NANOSECONDS;
    if idle <= unanswered {
        return false;
    }
    let other = tables.with_track(other, |track| (track.packets, track.seen));
    let Some((1.., seen)) = other else {
        return true;
    };
    let lasts = u64::from(settings.udp_seconds) * NANOSECONDS;
    idle.min(kernel.now().saturating_sub(seen)) > lasts
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

/// The frontend as the packet's source sees it, and whether its connections go on under the node's
/// address; none where packets are left to the stack.
#[inline(always)]
fn meant(
    tables: &impl PacketTables,
    ingress: u32,
    flow: &Flow,
    inside: Frontend,
) -> Option<(Frontend, bool)> {
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
    ours.then_some((frontend, frontend.flags & masquerade != 0))
}

/// What becomes of packets to a frontend that sends none on.
#[inline(always)]
fn ends(tables: &impl PacketTables, frontend: &Frontend) -> Option<Verdict> {
    if frontend.flags & Frontend::DROP != 0 {
        tables.count(Counter::PacketsDropped);
        return Some(Verdict::Drop);
    }
    if frontend.count == 0 {
        tables.count(Counter::PacketsRefused);
        return Some(Verdict::Refuse);
    }
    None
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
    becomes: &mut Tuple,
    masquerade: bool,
) -> Verdict {
    let egress = match routes.way(ingress, flow.family, becomes) {
        Way::Out(hop) => hop.interface,
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
    let masquerade = masquerade || egress == ingress || becomes.source == becomes.destination;
    if masquerade {
        let Some(address) = address_at(tables, egress, flow.family) else {
            tables.count(Counter::NotForwarded);
            return Verdict::Pass;
        };
        becomes.source = address;
    }
    let mut track = Track {
        seen: kernel.now(),
        packets: 0,
        bytes: 0,
        becomes: flow.tuple.reversed(),
        flags: Track::ANSWER,
        zero: 0,
    };
    match reserve(tables, kernel, &track, becomes, masquerade) {
        Some(Added::New) => {}
        Some(_) => {
            tables.count(Counter::Untracked);
            return Verdict::Drop;
        }
        None => {
            tables.count(Counter::NoPort);
            return Verdict::Drop;
        }
    }
    track.packets = 1;
    track.bytes = u64::from(flow.length);
    track.becomes = *becomes;
    track.flags = 0;
    match tables.add_track(&flow.tuple, &track) {
        Added::New => {
            tables.count(Counter::Translated);
            Verdict::Translate
        }
        Added::Exists => {
            // Another processor has just done the same for another packet.
            tables.remove_track(&becomes.reversed());
            match tables.with_track(&flow.tuple, |theirs| *becomes = theirs.becomes) {
                Some(()) => Verdict::Translate,
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
/// others, and remembers the way back. Its own port, if that may be. What became of the way back;
/// none where every port that was tried is taken.
#[inline(always)]
fn reserve(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    back: &Track,
    becomes: &mut Tuple,
    masquerade: bool,
) -> Option<Added> {
    let Settings {
        first_port,
        last_port,
        ..
    } = tables.settings();
    let keeps = !masquerade || (first_port..=last_port).contains(&becomes.source_port);
    let ports = u64::from(last_port.saturating_sub(first_port)) + 1;
    for number in 0..TRIES {
        if number > 0 || !keeps {
            let random = (u64::from(kernel.random()) * ports) >> 32;
            // Below the number of ports.
            let random = u16::try_from(random & 0xffff).unwrap_or(0);
            becomes.source_port = first_port.wrapping_add(random);
        }
        let answer = becomes.reversed();
        let mut added = tables.add_track(&answer, back);
        if added == Added::Exists && masquerade && make_room(tables, kernel, &answer) {
            added = tables.add_track(&answer, back);
        }
        if added != Added::Exists {
            return Some(added);
        }
    }
    None
}

/// Forgets the connection with that way back if it is over, so that another one can have its port:
/// there are a few thousand of them, and busy clients need as many in a second. Whether it was over.
#[inline(always)]
fn make_room(tables: &impl PacketTables, kernel: &impl Kernel, answer: &Tuple) -> bool {
    let now = kernel.now();
    let state = |track: &Track| (now.saturating_sub(track.seen) < LINGERS, track.flags);
    let mut forward = *answer;
    let back = tables.with_track(answer, |track| {
        forward = track.becomes.reversed();
        state(track)
    });
    let Some((lingers, back)) = back else {
        return true;
    };
    let forth = tables.with_track(&forward, |track| state(track));
    let (still, forth) = forth.unwrap_or((false, Track::FINISHED));
    // One side can reset alone; it takes both to finish.
    let over = (back | forth) & Track::RESET != 0 || back & forth & Track::FINISHED != 0;
    if lingers || still || !over {
        return false;
    }
    tables.remove_track(&forward);
    tables.remove_track(answer);
    true
}
