//! The hook in an interface's driver (`BPF_PROG_TYPE_XDP`, linux/bpf.h): packets of connections that
//! are known, and that leave by where they came, turn here. All others go on as they came, to the
//! program at the ingress, and nothing was changed that it could count or decide a second time.

use core::ptr::from_mut;

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_fib_lookup as lookup;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use causeway_ebpf_abi::{Counter, Tuple};
use causeway_ebpf_core::packet::{self, Family, Flow, Found, Part, UDP, V4_HEADER, V6_HEADER};
use causeway_ebpf_core::rewrite::{self, Addresses};
use causeway_ebpf_core::{Tables as _, may_be_unfinished, turn, words};

use super::frame::Frame;
use super::routes::{FOUND, question};
use super::{ETHERNET, Room, concerns};
use crate::maps::{self, Maps};
use crate::socket::ThisMachine;

/// The Ethernet addresses of the next node and of this one, as they begin a frame.
type Neighbour = [u8; 12];

#[xdp(frags)]
pub fn frames(context: XdpContext) -> u32 {
    let frame = &Frame(context.ctx);
    let Some(room) = maps::room() else {
        return XDP_PASS;
    };
    let Some((neighbour, checksum)) = known(frame, room) else {
        return XDP_PASS;
    };
    let Room { flow, work, .. } = room;
    let Some(()) = rewrite(frame, flow, &work.becomes, checksum, neighbour) else {
        // Never, since all that is written was read. One that was changed in part goes nowhere.
        Maps.count(Counter::Unwritable);
        return XDP_DROP;
    };
    Maps.count(Counter::Turned);
    XDP_TX
}

/// To whom the packet goes, and its checksum as it is; none where it is left to the stack.
#[inline(always)]
fn known(frame: &Frame, room: &mut Room) -> Option<(Neighbour, u16)> {
    let Room { flow, work, .. } = room;
    let family = frame.family()?;
    if !concerns(frame, family) {
        return None;
    }
    let found = packet::parse(frame, family, flow);
    // What is behind options, or in fragments, is rare, and what has come through too many nodes is
    // for the stack to tell. So is how long a packet is that does not say (BIG TCP).
    let header = match family {
        Family::V4 => V4_HEADER,
        Family::V6 => V6_HEADER,
    };
    if found != Found::Flow
        || flow.part != Part::Whole
        || flow.transport != header
        || flow.hops <= 1
        || u32::from(flow.length) <= header
    {
        return None;
    }
    let ingress = frame.interface();
    if frame.receiver()? != maps::hardware_address(ingress)? {
        return None;
    }
    let checksum = frame.half(checksum_at(flow))?;
    if may_be_unfinished(flow, checksum) {
        return None;
    }
    let back = |becomes: &Tuple| back(frame, ingress, flow, becomes);
    let neighbour = turn(&Maps, &ThisMachine, flow, work, back)?;
    Some((neighbour, checksum))
}

/// Where the checksum is in a frame whose IP header has neither options nor extensions: in UDP (RFC
/// 768) and in TCP.
#[inline(always)]
fn checksum_at(flow: &Flow) -> u32 {
    let header = match flow.family {
        Family::V4 => V4_HEADER,
        Family::V6 => V6_HEADER,
    };
    let offset = if flow.tuple.protocol == UDP { 6 } else { 16 };
    ETHERNET + header + offset
}

/// The neighbour by whom such a packet leaves where it came in, if it is known.
#[inline(always)]
fn back(frame: &Frame, ingress: u32, flow: &Flow, becomes: &Tuple) -> Option<Neighbour> {
    let mut asked = question(ingress, flow.family, becomes);
    // It must fit as well.
    asked.__bindgen_anon_1.tot_len = flow.length;
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: takes the structure and its size.
    let status = unsafe { lookup(frame.0.cast(), from_mut(&mut asked), size, 0) };
    if status != FOUND || asked.ifindex != ingress {
        return None;
    }
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (asked.dmac, asked.smac);
    Some([a, b, c, d, e, f, g, h, i, j, k, l])
}

#[inline(always)]
fn rewrite(
    frame: &Frame,
    flow: &Flow,
    becomes: &Tuple,
    checksum: u16,
    neighbour: Neighbour,
) -> Option<()> {
    let addresses = Addresses::of(flow, &becomes.source, &becomes.destination);
    let transport = match flow.family {
        Family::V4 => {
            frame.write(ETHERNET + 8, addresses.v4())?;
            ETHERNET + V4_HEADER
        }
        Family::V6 => {
            let (hops, _) = addresses.v6_hops();
            let [source, destination] = addresses.v6();
            frame.write(ETHERNET + 6, u16::from_ne_bytes(hops))?;
            frame.write(ETHERNET + 8, [words(source), words(destination)])?;
            ETHERNET + V6_HEADER
        }
    };
    let ports = rewrite::ports(becomes);
    frame.write(transport, u32::from_ne_bytes(ports))?;
    let checksum = rewrite::transport_checksum(
        flow.tuple.protocol,
        checksum,
        addresses.difference(flow.family),
        rewrite::ports_difference(&flow.tuple, becomes),
    );
    frame.write(checksum_at(flow), checksum)?;
    frame.write(0, three_words(neighbour))
}

#[inline(always)]
fn three_words(bytes: [u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}
