//! A packet of a known connection that leaves by where it came: whether it is one, told before
//! anything is written, so that whoever is not sure can leave it to the stack as it came.

use causeway_ebpf_abi::{Track, Tuple};

use crate::checksum::fold;
use crate::packet::{Flow, TCP};
use crate::refusal::pseudo_header;
use crate::track::{TICK, note};
use crate::{Kernel, PacketTables, Work};

/// What a packet of a known connection becomes, and where `way` has it leave. Where that is nowhere,
/// nothing is changed: it is neither counted nor remembered that the packet came.
///
/// How a connection begins and ends is left to the stack's program, as is the first packet of each
/// second in a direction: then there is more to count, and the kernel asks whether a neighbour is
/// still there only where the stack sends to it.
#[inline(always)]
pub fn turn<T>(
    tables: &impl PacketTables,
    kernel: &impl Kernel,
    flow: &Flow,
    work: &mut Work,
    way: impl FnOnce(&Tuple) -> Option<T>,
) -> Option<T> {
    let first = flow.tuple.protocol == TCP && flow.begins();
    if first || flow.flags & (Flow::FIN | Flow::RST) != 0 {
        return None;
    }
    let found = tables.with_track(&flow.tuple, |track| {
        let now = kernel.now();
        let ends = track.flags & !Track::ANSWER != 0;
        if ends || now >> TICK != track.seen >> TICK {
            return None;
        }
        work.becomes = track.becomes;
        let way = way(&work.becomes)?;
        note(track, flow, now);
        Some(way)
    });
    found.flatten()
}

/// Whether the checksum of a TCP or UDP packet may be yet to be finished (`CHECKSUM_PARTIAL`,
/// include/linux/skbuff.h), as it is where a virtual interface hands over what this machine sends: a
/// frame does not say so. There stands the sum of the pseudo header then, as it does in one of 65,536
/// packets whose checksum is whole.
#[inline(always)]
#[must_use]
pub fn may_be_unfinished(flow: &Flow, checksum: u16) -> bool {
    let bytes = u32::from(flow.length).saturating_sub(flow.transport);
    // Both are at most 65,535.
    let bytes = (bytes & 0xffff) as u16;
    let pseudo = pseudo_header(&flow.tuple, flow.family, flow.tuple.protocol, bytes);
    let difference = fold(u64::from(checksum) + u64::from(!fold(pseudo)));
    // In one's complement there are two zeros.
    difference == 0 || difference == 0xffff
}
