//! The hook at an interface's ingress (`BPF_PROG_TYPE_SCHED_CLS`, linux/bpf.h), by TCX or clsact.

mod answer;
mod buffer;
mod frame;
mod routes;
mod turn;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use causeway_ebpf_abi::{Address, Counter, Interface, Tuple};
use causeway_ebpf_core::packet::{self, Family, Flow, Found, ICMP_HEADER, Part, UDP, V4_HEADER};
use causeway_ebpf_core::prefilter::{may_concern_v4, may_concern_v6};
use causeway_ebpf_core::rewrite::{self, Addresses, Quote};
use causeway_ebpf_core::{
    Kernel as _, Limit, PacketTables as _, Routes as _, Tables as _, Verdict, Way, Work, account,
    answer_to, begin, find_way, first_fragment, follow, go_on, later_fragment, may_go_straight,
    settle, stray,
};

use crate::maps::{self, Maps};
use crate::socket::ThisMachine;
use buffer::{Buffer, Failed, MANGLED_ZERO, Near, PSEUDO_HEADER};

/// The next program has its turn, and then the stack.
const GO_ON: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

/// Length of an Ethernet header, in bytes.
const ETHERNET: u32 = 14;

/// What is known of the packet at hand. Since a program and all that it calls have a stack of 512
/// bytes together, it is here, in a place of this processor's.
#[repr(C)]
pub struct Room {
    flow: Flow,
    about: Flow,
    work: Work,
    limit: Limit,
}

#[classifier]
pub fn packets(context: TcContext) -> i32 {
    let buffer = &Buffer(context.skb.skb);
    let Some(family) = buffer.family() else {
        return GO_ON;
    };
    if buffer.may_lack_header() && find_header(buffer).is_err() {
        return done(Err(Failed));
    }
    if !may_concern(buffer, family) {
        return if maps::leads_straight(buffer.interface()) {
            straight(buffer, family)
        } else {
            GO_ON
        };
    }
    let Some(room) = maps::room() else {
        return GO_ON;
    };
    let found = read(buffer, family, &mut room.flow);
    if found == Found::Fragment && !later(&mut room.flow) {
        return left(Counter::Fragment);
    }
    match found {
        // What has come through too many nodes is for the stack to tell.
        Found::Flow | Found::Fragment if room.flow.hops > 1 => came(buffer, room),
        Found::Icmp if room.flow.hops > 1 => done(icmp_came(buffer, room)),
        Found::Extension => left(Counter::Extension),
        _ => GO_ON,
    }
}

/// A packet that nobody translates, which may be for a peer.
#[inline(never)]
fn straight(buffer: &Buffer, family: Family) -> i32 {
    let Some(room) = maps::room() else {
        return GO_ON;
    };
    let Room { flow, work, .. } = room;
    // What the prefilter can't read, as fragments, did not come here.
    if buffer.is_marked()
        || read(buffer, family, flow) != Found::Flow
        || !may_go_straight(flow, maps::is_own)
        || !leads_to_peer(buffer, flow, work)
    {
        return GO_ON;
    }
    done(give(buffer, flow, work))
}

#[inline(never)]
fn leads_to_peer(buffer: &Buffer, flow: &Flow, work: &mut Work) -> bool {
    let way = buffer.way(buffer.interface(), flow.family, &flow.tuple, &mut work.hop);
    way == Way::Out && work.hop.peer().is_some()
}

#[inline(never)]
fn give(buffer: &Buffer, flow: &Flow, work: &Work) -> Result<i32, Failed> {
    let at = ETHERNET;
    let addresses = Addresses::of(flow, &flow.tuple.source, &flow.tuple.destination);
    match flow.family {
        Family::V4 => buffer.write(at + 8, &addresses.v4())?,
        Family::V6 => write_v6(buffer, at, &addresses, 0)?,
    }
    leave(buffer, at, work)
}

/// Has a packet of a link with Ethernet headers begin with its own. Linux 6.9 to at least 6.18 lose it where
/// they copy a packet for an XDP program behind the driver (`skb_pp_cow_data`, net/core/skbuff.c: `mac_len`
/// is not copied), ours or anybody's.
#[inline(never)]
fn find_header(buffer: &Buffer) -> Result<(), Failed> {
    match place(buffer) {
        Ok(ETHERNET) => buffer.find_header(),
        _ => Ok(()),
    }
}

// By itself, the verifier is done sooner: what it knew of the ways to read a packet is forgotten after it.
#[inline(never)]
fn read(buffer: &Buffer, family: Family, flow: &mut Flow) -> Found {
    let packet = Near {
        buffer,
        ethernet: !maps::may_lack_ethernet(buffer.interface()),
    };
    packet::parse(&packet, family, flow)
}

/// Whether the packet is one for us, as far as a few steps can tell. Almost every one is not.
#[inline(always)]
fn may_concern(buffer: &Buffer, family: Family) -> bool {
    if maps::may_lack_ethernet(buffer.interface()) {
        return true;
    }
    concerns(buffer, family)
}

/// A packet of which the beginning may be in one piece.
trait Head {
    /// The first words from the IP header on, behind an Ethernet header; none where they are fewer,
    /// or elsewhere in memory.
    fn head<const N: usize>(&self) -> Option<&[u32; N]>;
}

/// What the prefilter says of it.
#[inline(always)]
fn concerns(packet: &impl Head, family: Family) -> bool {
    // One that is not in one piece so far takes the longer way.
    match family {
        Family::V4 => packet
            .head()
            .is_none_or(|words| may_concern_v4(&Maps, words)),
        Family::V6 => packet
            .head()
            .is_none_or(|words| may_concern_v6(&Maps, words)),
    }
}

#[inline(always)]
fn left(why: Counter) -> i32 {
    Maps.count(why);
    GO_ON
}

#[inline(always)]
fn came(buffer: &Buffer, room: &mut Room) -> i32 {
    let Room {
        flow, work, limit, ..
    } = room;
    let verdict = if known(flow, work) {
        if work.may_settle() {
            count(flow, work);
        }
        Verdict::Follow
    } else if flow.begins() {
        let verdict = first(buffer, flow, work);
        tell(flow, work);
        verdict
    } else {
        stray(&Maps, flow)
    };
    if flow.part == Part::First {
        remember(flow, verdict != Verdict::Pass);
    }
    let verdict = match verdict {
        Verdict::Follow if work.knows_way() => Verdict::Translate,
        Verdict::Follow => further(buffer, flow, work),
        decided => decided,
    };
    match verdict {
        Verdict::Pass | Verdict::Follow => GO_ON,
        Verdict::Drop => DROP,
        // Of a datagram, the first fragment was answered. A reset is not limited: it answers no more
        // than was asked.
        Verdict::TooBig if !flow.has_ports() || !may_answer(limit) => DROP,
        Verdict::Refuse if flow.tuple.protocol == UDP && !may_answer(limit) => DROP,
        Verdict::TooBig => done(answer::too_big(buffer, flow, work.hop.mtu)),
        Verdict::Refuse => done(answer::refuse(buffer, flow)),
        Verdict::Translate => done(send(buffer, flow, work)),
    }
}

#[inline(always)]
fn may_answer(limit: &mut Limit) -> bool {
    let may = limit.take(ThisMachine.now());
    if !may {
        Maps.count(Counter::Unanswered);
    }
    may
}

// What is not needed at the same time is in functions of its own, for the same reason. Older kernels
// count what each of them takes in steps of 32 bytes (Linux 6.1, `check_max_stack_depth`).

#[inline(never)]
fn known(flow: &Flow, work: &mut Work) -> bool {
    follow(&Maps, &ThisMachine, flow, work)
}

#[inline(never)]
fn first(buffer: &Buffer, flow: &Flow, work: &mut Work) -> Verdict {
    let ingress = buffer.interface();
    begin(&Maps, &ThisMachine, buffer, ingress, flow, work)
}

#[inline(never)]
fn remember(flow: &Flow, ours: bool) {
    first_fragment(&Maps, flow, ours);
}

#[inline(never)]
fn later(flow: &mut Flow) -> bool {
    later_fragment(&Maps, flow)
}

#[inline(never)]
fn tell(flow: &Flow, work: &Work) {
    account(&Maps, flow, work);
}

#[inline(never)]
fn count(flow: &Flow, work: &Work) {
    settle(&Maps, flow, work);
}

#[inline(never)]
fn further(buffer: &Buffer, flow: &Flow, work: &mut Work) -> Verdict {
    go_on(&Maps, buffer, buffer.interface(), flow, work)
}

#[inline(never)]
fn along(buffer: &Buffer, family: Family, work: &mut Work) -> Verdict {
    find_way(&Maps, buffer, buffer.interface(), family, work)
}

#[inline(never)]
fn send(buffer: &Buffer, flow: &Flow, work: &Work) -> Result<i32, Failed> {
    let at = place(buffer)?;
    rewrite_flow(buffer, at, flow, work.leaves_as(&flow.tuple))?;
    leave(buffer, at, work)
}

#[inline(never)]
fn icmp_came(buffer: &Buffer, room: &mut Room) -> Result<i32, Failed> {
    let Room {
        flow: error,
        about,
        work,
        ..
    } = room;
    if !packet::quoted(buffer, error, about) || !answer_to(&Maps, about, work) {
        return Ok(GO_ON);
    }
    if along(buffer, error.family, work) != Verdict::Translate {
        return Ok(DROP);
    }
    let at = place(buffer)?;
    rewrite_error(buffer, at, error, about, work.answer_leaves_as())?;
    Maps.count(Counter::ErrorTranslated);
    leave(buffer, at, work)
}

/// Sends the packet on.
#[inline(always)]
fn leave(buffer: &Buffer, at: u32, work: &Work) -> Result<i32, Failed> {
    if at == 0 {
        // The kernel takes an Ethernet header away before it finds the neighbour.
        buffer.lead(ETHERNET)?;
    }
    buffer.leave(&work.hop)
}

/// A packet that was changed in part goes nowhere.
#[inline(always)]
fn done(result: Result<i32, Failed>) -> i32 {
    match result {
        Ok(action) => action,
        Err(Failed) => {
            Maps.count(Counter::Unwritable);
            DROP
        }
    }
}

/// Where the IP header is.
#[inline(always)]
fn place(buffer: &Buffer) -> Result<u32, Failed> {
    if !maps::may_lack_ethernet(buffer.interface()) {
        return Ok(ETHERNET);
    }
    match Maps.interface(buffer.interface()) {
        Some(interface) if interface.flags & Interface::NO_ETHERNET != 0 => Ok(0),
        Some(_) => Ok(ETHERNET),
        None => Err(Failed),
    }
}

#[inline(always)]
fn rewrite_flow(buffer: &Buffer, at: u32, flow: &Flow, becomes: &Tuple) -> Result<(), Failed> {
    // Where the checksum is in a UDP (RFC 768) and in a TCP header; UDP may have none.
    let (checksum, flags) = if flow.tuple.protocol == UDP {
        (6, MANGLED_ZERO)
    } else {
        (16, 0)
    };
    let transport = at + flow.transport;
    let checksum = transport + checksum;
    let addresses = Addresses::of(flow, &becomes.source, &becomes.destination);
    let difference = addresses.difference(flow.family);
    // That of the first fragment is the whole datagram's.
    let has_ports = flow.has_ports();
    if has_ports {
        buffer.replace(checksum, difference, flags | PSEUDO_HEADER)?;
        let grown = rewrite::ports_difference(&flow.tuple, becomes);
        buffer.replace(checksum, grown, flags)?;
    }
    let ports = rewrite::ports(becomes);
    match flow.family {
        // Without options, addresses and ports stand together.
        Family::V4 if has_ports && flow.transport == V4_HEADER => {
            let end = V4End {
                header: addresses.v4(),
                ports,
            };
            return buffer.write(at + 8, &end);
        }
        Family::V4 => buffer.write(at + 8, &addresses.v4())?,
        Family::V6 => write_v6(buffer, at, &addresses, difference)?,
    }
    if has_ports {
        buffer.write(transport, &ports)?;
    }
    Ok(())
}

/// What changes in an IPv4 packet is in the end of its header, and behind it.
#[repr(C, align(4))]
struct V4End {
    header: [u32; 3],
    ports: [u8; 4],
}

/// What changes in an IPv6 header is all in its end.
#[repr(C, align(4))]
struct V6End {
    gap: [u8; 6],
    hops: [u8; 2],
    source: Address,
    destination: Address,
}

/// Writes an IPv6 header, of which the addresses make this difference.
#[inline(always)]
fn write_v6(
    buffer: &Buffer,
    at: u32,
    addresses: &Addresses<'_>,
    difference: u16,
) -> Result<(), Failed> {
    let (hops, grown) = addresses.v6_hops();
    let [source, destination] = addresses.v6();
    let end = V6End {
        gap: [0; 6],
        hops,
        source: *source,
        destination: *destination,
    };
    buffer.write_end(at + 6, &end, size_of_val(&end.gap))?;
    // The kernel takes what was replaced in the checksum for a change of the packet's sum, as it is
    // with IPv4, where the header's checksum takes the addresses back.
    buffer.grow(u32::from(difference) + u32::from(grown));
    Ok(())
}

/// What the error quotes becomes the packet that its receiver once sent.
#[inline(always)]
fn rewrite_error(
    buffer: &Buffer,
    at: u32,
    error: &Flow,
    about: &Flow,
    answer: &Tuple,
) -> Result<(), Failed> {
    let quoted = answer.reversed();
    let quote = Quote::of(about, &quoted);
    let header = at + error.transport + ICMP_HEADER;
    match about.family {
        Family::V4 => {
            let ([.., a, b, c, d], [.., e, f, g, h]) = (quoted.source, quoted.destination);
            let [high, low] = quote.checksum.to_ne_bytes();
            buffer.write(header + 10, &[high, low, a, b, c, d, e, f, g, h])?;
        }
        Family::V6 => {
            buffer.write(header + 8, &quoted.source)?;
            buffer.write(header + 24, &quoted.destination)?;
        }
    }
    buffer.write(at + about.transport, &rewrite::ports(&quoted))?;
    let checksum = at + error.transport + 2;
    buffer.replace(checksum, quote.difference, 0)?;
    let addresses = Addresses::of_error(error, about, answer);
    match about.family {
        // It has no pseudo header.
        Family::V4 => buffer.write(at + 8, &addresses.v4()),
        Family::V6 => {
            let difference = addresses.difference(about.family);
            buffer.replace(checksum, difference, PSEUDO_HEADER)?;
            write_v6(buffer, at, &addresses, difference)
        }
    }
}
