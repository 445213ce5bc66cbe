//! The first packet of a connection: who gets it, and how the answers find back.

use causeway_ebpf_abi::{
    Address, Affinity, Backend, ClientKey, Counter, Event, Frontend, FrontendKey, Hop, Interface,
    Row, RowKey, Settings, Track, Traffic, Tuple, UNSERVED_DROPPED, UNSERVED_REFUSED,
};

use crate::onward::is_at;
use crate::packet::{Family, Flow};
use crate::track::{Added, PacketTables, make_room};
use crate::{Kernel, Routes, Tables, Verdict, Way, Work, choice};

/// How many ports are tried for a connection.
const TRIES: u32 = 16;

/// Decides about the first packet of a connection that came by the interface `ingress`, and what it
/// becomes.
#[inline(always)]
pub fn begin(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    routes: &impl Routes,
    ingress: u32,
    flow: &Flow,
    work: &mut Work,
) -> Verdict {
    (work.service, work.what) = (0, None);
    let Some(inside) = tables.frontend(&aim(flow, FrontendKey::INSIDE)) else {
        return unserved(tables, ingress, flow, work);
    };
    let Some(Meant {
        frontend,
        masquerade,
        from_pods,
    }) = meant(tables, ingress, flow, inside)
    else {
        return Verdict::Pass;
    };
    work.service = frontend.service;
    if let Some(verdict) = ends(tables, flow, &frontend, work) {
        return verdict;
    }
    let key = ClientKey {
        address: flow.tuple.source,
        set: frontend.set,
    };
    let client = Remembered {
        tables,
        key,
        packet: &flow.tuple,
    };
    let Some(backend) = choice::choose(tables, kernel, &client, &frontend) else {
        tables.count(Counter::Torn);
        return Verdict::Pass;
    };
    work.becomes = flow.tuple;
    work.becomes.destination = backend.address;
    work.becomes.destination_port = backend.port;
    let policy = match (masquerade, from_pods, backend.place) {
        (false, ..) | (true, false, Backend::HERE) => Policy::Keep,
        (true, false, Backend::DELEGABLE) if frontend.table != 0 && !work.returned => {
            Policy::Delegate
        }
        _ => Policy::Masquerade,
    };
    translate(tables, kernel, routes, ingress, flow, work, policy)
}

/// Under whose address a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// The client's, if answers surely come back this way.
    Keep,
    /// The node's.
    Masquerade,
    /// The client's, by way of the endpoint's node, if that is a neighbour; else the node's.
    Delegate,
}

/// That is what becomes of it.
#[inline(always)]
fn decide(tables: &impl Tables, work: &mut Work, what: Counter) {
    tables.count(what);
    work.what = Some(what);
}

/// Counts for the Service port what [`begin`] decided, and has whoever watches hear of it.
#[inline(always)]
pub fn account(tables: &impl Tables, flow: &Flow, work: &Work) {
    let Some(what) = work.what else {
        return;
    };
    let mut event = Event::of_packet(what, &flow.tuple);
    match what {
        // For the Service port it counts where it is translated.
        Counter::Direct => event.backend = work.backend(),
        Counter::Translated => {
            event.backend = work.backend();
            let first = Traffic {
                connections: 1,
                ..Traffic::packets(1, u64::from(flow.length), false)
            };
            tables.add(work.service, &event.backend, &first);
        }
        Counter::PacketsRefused | Counter::PacketsDropped | Counter::SourceRefused => {
            tables.add(work.service, &event.backend, &Traffic::REFUSAL);
        }
        _ => {}
    }
    tables.tell(&event);
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
fn unserved(tables: &impl PacketTables, ingress: u32, flow: &Flow, work: &mut Work) -> Verdict {
    let Some(what) = tables.unserved(&flow.tuple.destination) else {
        return Verdict::Pass;
    };
    if tables.interface(ingress).is_none() {
        return Verdict::Pass;
    }
    match what {
        UNSERVED_REFUSED => {
            decide(tables, work, Counter::PacketsRefused);
            Verdict::Refuse
        }
        UNSERVED_DROPPED => {
            decide(tables, work, Counter::PacketsDropped);
            Verdict::Drop
        }
        _ => Verdict::Pass,
    }
}

/// A frontend as the packet's source sees it.
struct Meant {
    frontend: Frontend,
    /// Its connections go on under the node's address.
    masquerade: bool,
    from_pods: bool,
}

/// None where packets are left to the stack.
#[inline(always)]
fn meant(tables: &impl PacketTables, ingress: u32, flow: &Flow, inside: Frontend) -> Option<Meant> {
    let interface = tables.interface(ingress)?;
    if inside.flags & Frontend::NODE_ONLY != 0 || is_martian(flow) {
        return None;
    }
    let from_pods = interface.flags & Interface::PODS != 0 || tables.is_pod(&flow.tuple.source);
    let (frontend, masquerade) = if from_pods {
        (inside, Frontend::MASQUERADE_PODS)
    } else if inside.flags & Frontend::OUTSIDE_DIFFERS != 0 {
        let outside = tables.frontend(&aim(flow, FrontendKey::OUTSIDE))?;
        (outside, Frontend::MASQUERADE_OTHERS)
    } else {
        (inside, Frontend::MASQUERADE_OTHERS)
    };
    let ours = frontend.flags & Frontend::PACKETS != 0;
    ours.then_some(Meant {
        frontend,
        masquerade: frontend.flags & masquerade != 0,
        from_pods,
    })
}

/// What becomes of a packet that a frontend does not send on.
#[inline(always)]
fn ends(
    tables: &impl PacketTables,
    flow: &Flow,
    frontend: &Frontend,
    work: &mut Work,
) -> Option<Verdict> {
    if frontend.sources != 0 && !tables.admits(frontend.sources, &flow.tuple.source) {
        decide(tables, work, Counter::SourceRefused);
        return Some(Verdict::Drop);
    }
    if frontend.flags & Frontend::DROP != 0 {
        decide(tables, work, Counter::PacketsDropped);
        return Some(Verdict::Drop);
    }
    if frontend.count == 0 {
        decide(tables, work, Counter::PacketsRefused);
        return Some(Verdict::Refuse);
    }
    None
}

/// A client, as the map of clients has it.
struct Remembered<'a, T> {
    tables: &'a T,
    key: ClientKey,
    packet: &'a Tuple,
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
    #[inline(always)]
    fn slot(&self, frontend: &Frontend) -> Option<u32> {
        if frontend.table == 0 {
            return None;
        }
        let seed = self.tables.settings().maglev_seed;
        let (row, place) = Row::of(choice::place(frontend, self.packet, seed));
        let table = frontend.table;
        self.tables.slot_at(&RowKey { table, row }, place)
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
    work: &mut Work,
    policy: Policy,
) -> Verdict {
    match routes.way(ingress, flow.family, &work.becomes, &mut work.hop) {
        Way::Out => {}
        Way::None => {
            decide(tables, work, Counter::NotForwarded);
            return Verdict::Pass;
        }
        Way::TooBig => {
            decide(tables, work, Counter::TooBig);
            return Verdict::TooBig;
        }
    }
    let egress = work.hop.interface;
    work.track = Track {
        seen: kernel.now(),
        packets: 0,
        bytes: 0,
        counted_packets: 0,
        counted_bytes: 0,
        becomes: flow.tuple.reversed(),
        flags: Track::ANSWER,
        service: work.service,
        hop: Hop::NONE,
        zero: 0,
    };
    if policy == Policy::Delegate && leads_to_node(tables, flow.family, work) {
        (work.direct, work.track.service) = (true, 0);
        return remember(tables, flow, work, Track::direct(flow.hops));
    }
    let becomes = &mut work.becomes;
    // Out where it came in, the answer might find a shorter way than through this node.
    let masquerade =
        policy != Policy::Keep || egress == ingress || becomes.source == becomes.destination;
    if masquerade {
        let Some(address) = address_at(tables, egress, flow.family) else {
            decide(tables, work, Counter::NotForwarded);
            return Verdict::Pass;
        };
        becomes.source = address;
    }
    match reserve(tables, kernel, work, masquerade) {
        Some(Added::New) => {}
        Some(_) => {
            decide(tables, work, Counter::Untracked);
            return Verdict::Drop;
        }
        None => {
            decide(tables, work, Counter::NoPort);
            return Verdict::Drop;
        }
    }
    remember(tables, flow, work, 0)
}

/// Whether the next hop is the endpoint's node, and gets what is sent to it whatever address that
/// aims at: over a link with Ethernet addresses, and not the endpoint itself.
#[inline(always)]
fn leads_to_node(tables: &impl PacketTables, family: Family, work: &Work) -> bool {
    const OTHERS: u32 = Interface::PODS | Interface::NO_ETHERNET;
    let leaves = tables.interface(work.hop.interface);
    leaves.is_some_and(|leaves| leaves.flags & OTHERS == 0)
        && work.hop.peer().is_none()
        && !is_at(&work.hop, family, &work.becomes.destination)
}

/// Remembers the way there, with these flags, once the way back is, if there is one.
#[inline(always)]
fn remember(tables: &impl PacketTables, flow: &Flow, work: &mut Work, flags: u32) -> Verdict {
    let track = &mut work.track;
    // For the Service port it is counted as the connection is.
    (track.packets, track.counted_packets) = (1, 1);
    track.bytes = u64::from(flow.length);
    track.counted_bytes = track.bytes;
    track.becomes = work.becomes;
    track.flags = flags;
    track.hop = work.hop;
    let added = tables.add_track(&flow.tuple, track);
    if added != Added::New && !work.direct {
        tables.remove_track(&work.answer);
    }
    match added {
        Added::New if work.direct => decide(tables, work, Counter::Direct),
        Added::New => decide(tables, work, Counter::Translated),
        Added::Exists => {
            // Another processor has just done the same for another packet.
            let follows = |theirs: &mut Track| {
                work.becomes = theirs.becomes;
                work.direct = theirs.is_direct();
                work.knows_way = false;
            };
            return match tables.with_track(&flow.tuple, follows) {
                Some(()) => Verdict::Follow,
                None => Verdict::Drop,
            };
        }
        Added::Full => {
            decide(tables, work, Counter::Untracked);
            return Verdict::Drop;
        }
    }
    Verdict::Translate
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
    work: &mut Work,
    masquerade: bool,
) -> Option<Added> {
    let Settings {
        first_port,
        last_port,
        ..
    } = tables.settings();
    let Work {
        becomes,
        track: back,
        answer,
        ..
    } = work;
    let mut keeps = !masquerade || (first_port..=last_port).contains(&becomes.source_port);
    let ports = u64::from(last_port.saturating_sub(first_port)) + 1;
    for _ in 0..TRIES {
        if !keeps {
            let random = (u64::from(kernel.random()) * ports) >> 32;
            // Below the number of ports.
            let random = u16::try_from(random & 0xffff).unwrap_or(0);
            becomes.source_port = first_port.wrapping_add(random);
        }
        *answer = becomes.reversed();
        match tables.add_track(answer, back) {
            // With room made there, the same one is tried again.
            Added::Exists => keeps = masquerade && make_room(tables, kernel, answer),
            added => return Some(added),
        }
    }
    None
}
