//! The hook at an interface's ingress (`BPF_PROG_TYPE_SCHED_CLS`, linux/bpf.h), by TCX or clsact.

mod answer;
mod buffer;
mod routes;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use causeway_ebpf_abi::{Counter, Interface, Tuple};
use causeway_ebpf_core::packet::{self, Family, Flow, Found, ICMP_HEADER, UDP};
use causeway_ebpf_core::rewrite::{self, Addresses, Quote};
use causeway_ebpf_core::{PacketTables as _, Tables as _, Verdict, answer_to, begin, follow, way};

use crate::maps::{self, Maps};
use crate::socket::ThisMachine;
use buffer::{Buffer, Failed, MANGLED_ZERO, PSEUDO_HEADER};

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
    becomes: Tuple,
}

#[classifier]
pub fn packets(context: TcContext) -> i32 {
    let buffer = &Buffer(context.skb.skb);
    let (Some(family), Some(room)) = (buffer.family(), maps::room()) else {
        return GO_ON;
    };
    match packet::parse(buffer, family, &mut room.flow) {
        // What has come through too many nodes is for the stack to tell.
        Found::Flow if room.flow.hops > 1 => came(buffer, room),
        Found::Icmp if room.flow.hops > 1 => done(icmp_came(buffer, room)),
        Found::Fragment => left(Counter::Fragment),
        Found::Extension => left(Counter::Extension),
        _ => GO_ON,
    }
}

#[inline(always)]
fn left(why: Counter) -> i32 {
    Maps.count(why);
    GO_ON
}

#[inline(always)]
fn came(buffer: &Buffer, room: &mut Room) -> i32 {
    let Room { flow, becomes, .. } = room;
    if follow(&Maps, &ThisMachine, flow, becomes) {
        return done(send(buffer, flow, becomes));
    }
    if !flow.begins() {
        return GO_ON;
    }
    match first(buffer, flow, becomes) {
        Verdict::Pass => GO_ON,
        Verdict::Drop => DROP,
        Verdict::Refuse => done(answer::refuse(buffer, flow)),
        Verdict::Translate => done(send(buffer, flow, becomes)),
    }
}

// What is not needed at the same time is in functions of its own, for the same reason.

#[inline(never)]
fn first(buffer: &Buffer, flow: &Flow, becomes: &mut Tuple) -> Verdict {
    begin(
        &Maps,
        &ThisMachine,
        buffer,
        buffer.interface(),
        flow,
        becomes,
    )
}

#[inline(never)]
fn send(buffer: &Buffer, flow: &Flow, becomes: &Tuple) -> Result<i32, Failed> {
    let at = place(buffer)?;
    let Some(hop) = way(&Maps, buffer, buffer.interface(), flow.family, becomes) else {
        return Ok(DROP);
    };
    rewrite_flow(buffer, at, flow, becomes)?;
    Ok(buffer.leave(&hop))
}

#[inline(never)]
fn icmp_came(buffer: &Buffer, room: &mut Room) -> Result<i32, Failed> {
    let Room {
        flow: error,
        about,
        becomes: answer,
    } = room;
    if !packet::quoted(buffer, error, about) || !answer_to(&Maps, about, answer) {
        return Ok(GO_ON);
    }
    let at = place(buffer)?;
    let Some(hop) = way(&Maps, buffer, buffer.interface(), error.family, answer) else {
        return Ok(DROP);
    };
    rewrite_error(buffer, at, error, about, answer)?;
    Maps.count(Counter::ErrorTranslated);
    Ok(buffer.leave(&hop))
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
    write_addresses(buffer, at, flow.family, &addresses, checksum, flags)?;
    let ports = rewrite::ports_difference(&flow.tuple, becomes);
    buffer.replace(checksum, ports, flags)?;
    buffer.write(transport, &rewrite::ports(becomes))
}

/// Writes a packet's own header, and what the addresses change in the checksum behind it.
#[inline(always)]
fn write_addresses(
    buffer: &Buffer,
    at: u32,
    family: Family,
    addresses: &Addresses<'_>,
    checksum: u32,
    flags: u64,
) -> Result<(), Failed> {
    match family {
        Family::V4 => {
            buffer.write(at + 8, &addresses.v4())?;
            buffer.replace(
                checksum,
                addresses.difference(family),
                flags | PSEUDO_HEADER,
            )
        }
        Family::V6 => {
            let (hops, grown) = addresses.v6_hops();
            let difference = addresses.difference(family);
            buffer.write(at + 6, &hops)?;
            let [source, destination] = addresses.v6();
            buffer.write(at + 8, source)?;
            buffer.write(at + 24, destination)?;
            buffer.replace(checksum, difference, flags | PSEUDO_HEADER)?;
            // The kernel takes the last for a change of the packet's sum, as it is with IPv4, where
            // the header's checksum takes the addresses back.
            buffer.grow(difference);
            buffer.grow(grown);
            Ok(())
        }
    }
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
        Family::V6 => write_addresses(buffer, at, about.family, &addresses, checksum, 0),
    }
}
