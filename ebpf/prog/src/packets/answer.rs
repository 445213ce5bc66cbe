//! A refusal, or that a packet is too big: it is made an answer of, and goes back by where it came.

use causeway_ebpf_abi::Address;
use causeway_ebpf_core::checksum::sum;
use causeway_ebpf_core::packet::{FRAGMENT, Family, Flow, TCP, V4_HEADER, V6_HEADER};
use causeway_ebpf_core::refusal::{self, TCP_HEADER};

use super::buffer::{Buffer, Failed};
use super::{DROP, ETHERNET, place};

/// Bytes of a transport's header that an ICMP error quotes (RFC 792).
const QUOTED: u16 = 8;
const ICMP_HEADER: u16 = 8;

/// Answers a TCP connection with a reset, a datagram with an ICMP error.
#[inline(never)]
pub(super) fn refuse(buffer: &Buffer, flow: &Flow) -> Result<i32, Failed> {
    let at = place(buffer)?;
    let Some(header) = plain_header(flow) else {
        return Ok(DROP);
    };
    let transport = at + header;
    if flow.tuple.protocol == TCP {
        reset(buffer, at, transport, flow)?;
    } else if let Family::V4 = flow.family {
        unreachable::<28>(buffer, at, transport, flow)?;
    } else if flow.next == FRAGMENT {
        unreachable::<56>(buffer, at, transport, flow)?;
    } else {
        unreachable::<48>(buffer, at, transport, flow)?;
    }
    go_back(buffer, at)
}

/// The length of the IP header, where nothing comes before the transport's but a fragment's. Its
/// options would be in the way; nobody sends any.
#[inline(always)]
const fn plain_header(flow: &Flow) -> Option<u32> {
    let header = match flow.family {
        Family::V4 => V4_HEADER,
        Family::V6 => V6_HEADER,
    };
    if flow.transport == header || flow.next == FRAGMENT {
        Some(header)
    } else {
        None
    }
}

/// Tells a packet's sender how large it may be (of TCP, the options are in the way).
#[inline(never)]
pub(super) fn too_big(buffer: &Buffer, flow: &Flow, mtu: u32) -> Result<i32, Failed> {
    let at = place(buffer)?;
    let Some(header) = plain_header(flow) else {
        return Ok(DROP);
    };
    let transport = at + flow.transport;
    let (quoted, bytes) = if flow.tuple.protocol == TCP {
        (quote::<20>(buffer, transport, 16)?, TCP_HEADER)
    } else {
        (quote::<8>(buffer, transport, 6)?, QUOTED)
    };
    let mut quoted = quoted
        + match flow.family {
            Family::V4 => sum(&buffer.read_all::<20>(at)?),
            Family::V6 => sum(&buffer.read_all::<40>(at)?),
        };
    if flow.next == FRAGMENT {
        quoted += sum(&buffer.read_all::<8>(at + header)?);
    }
    let bytes = flow.transport as u16 + bytes;
    buffer.make_room(header + u32::from(ICMP_HEADER))?;
    let icmp = refusal::icmp(flow.family);
    write_header(buffer, at, flow, icmp, ICMP_HEADER + bytes)?;
    let message = refusal::too_big(&flow.tuple, flow.family, mtu, quoted, bytes);
    buffer.write(at + header, &message)?;
    go_back(buffer, at)
}

/// Has the packet end behind the first `N` bytes of its transport's header, whose checksum then is
/// right whether it is yet to be finished or not; their sum.
#[inline(always)]
fn quote<const N: usize>(buffer: &Buffer, at: u32, checksum: u32) -> Result<u64, Failed> {
    buffer.resize(at + N as u32)?;
    buffer.write(at + checksum, &[0_u8; 2])?;
    let others = sum(&buffer.read_all::<N>(at)?);
    let finished = refusal::finished_quote(others);
    buffer.write(at + checksum, &finished)?;
    Ok(others + u64::from(finished))
}

/// By where it came, to whom it came from.
#[inline(always)]
fn go_back(buffer: &Buffer, at: u32) -> Result<i32, Failed> {
    if at == ETHERNET {
        let [to @ .., a, b, c, d, e, f] = buffer.read_all::<12>(0)?;
        let [g, h, i, j, k, l] = to;
        buffer.write(0, &[a, b, c, d, e, f, g, h, i, j, k, l])?;
    }
    Ok(buffer.turn())
}

#[inline(always)]
fn reset(buffer: &Buffer, at: u32, transport: u32, flow: &Flow) -> Result<(), Failed> {
    let sequence = u32::from_be_bytes(buffer.read_all(at + flow.transport + 4)?);
    buffer.resize(transport + u32::from(TCP_HEADER))?;
    write_header(buffer, at, flow, TCP, TCP_HEADER)?;
    buffer.write(
        transport,
        &refusal::reset(&flow.tuple, flow.family, sequence),
    )
}

/// Quotes the first `N` bytes: the IP header and [`QUOTED`] more.
#[inline(always)]
fn unreachable<const N: usize>(
    buffer: &Buffer,
    at: u32,
    transport: u32,
    flow: &Flow,
) -> Result<(), Failed> {
    let quote = buffer.read_all::<N>(at)?;
    let bytes = flow.transport as u16 + QUOTED;
    let header = refusal::unreachable(&flow.tuple, flow.family, sum(&quote), bytes);
    buffer.resize(transport + u32::from(ICMP_HEADER + bytes))?;
    let icmp = refusal::icmp(flow.family);
    write_header(buffer, at, flow, icmp, ICMP_HEADER + bytes)?;
    buffer.write(transport, &header)?;
    buffer.write(transport + u32::from(ICMP_HEADER), &quote)
}

#[inline(always)]
fn write_header(
    buffer: &Buffer,
    at: u32,
    flow: &Flow,
    protocol: u8,
    bytes: u16,
) -> Result<(), Failed> {
    match flow.family {
        Family::V4 => buffer.write(at, &refusal::v4_header(&flow.tuple, protocol, bytes)),
        Family::V6 => {
            let addresses: [Address; 2] = [flow.tuple.destination, flow.tuple.source];
            buffer.write(at, &refusal::v6_header(protocol, bytes))?;
            buffer.write(at + 8, &addresses)
        }
    }
}
