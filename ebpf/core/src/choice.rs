//! Which backend a client gets.

use causeway_ebpf_abi::{Affinity, Backend, Frontend, MemberKey, SlotKey, Tuple};

use crate::{Kernel, Tables};

const NANOSECONDS: u64 = 1_000_000_000;

/// A client as one of the maps remembers it.
pub(crate) trait Client {
    /// Where it belongs.
    fn known(&self) -> Option<Affinity>;
    /// It belongs there from now on.
    fn remember(&self, value: &Affinity);
    /// The slot that the frontend's table has for it.
    fn slot(&self, frontend: &Frontend) -> Option<u32>;
}

/// The client's own backend, or any.
#[inline(always)]
pub(crate) fn choose(
    tables: &impl Tables,
    kernel: &impl Kernel,
    client: &impl Client,
    frontend: &Frontend,
) -> Option<Backend> {
    if frontend.affinity_seconds == 0 {
        return any(tables, kernel, client, frontend);
    }
    let now = kernel.now();
    let backend = match client.known() {
        Some(known) if is_good(tables, frontend, &known, now) => known.backend,
        _ => any(tables, kernel, client, frontend)?.bare(),
    };
    client.remember(&Affinity {
        seen: now,
        backend,
        zero: 0,
    });
    Some(backend)
}

/// A client's backend counts as long as the time has not run out and the set has it.
#[inline(always)]
fn is_good(tables: &impl Tables, frontend: &Frontend, known: &Affinity, now: u64) -> bool {
    let lasts = u64::from(frontend.affinity_seconds) * NANOSECONDS;
    now.wrapping_sub(known.seen) < lasts && has(tables, frontend, known.backend)
}

/// Whether a set whose clients are remembered has this backend.
#[inline(always)]
pub(crate) fn has(tables: &impl Tables, frontend: &Frontend, backend: Backend) -> bool {
    tables.is_member(&MemberKey {
        set: frontend.set,
        backend,
    })
}

#[inline(always)]
fn any(
    tables: &impl Tables,
    kernel: &impl Kernel,
    client: &impl Client,
    frontend: &Frontend,
) -> Option<Backend> {
    let by_table = client.slot(frontend);
    tables.backend(&SlotKey {
        set: frontend.set,
        slot: by_table.unwrap_or_else(|| below(frontend.count, kernel.random())),
    })
}

/// One of so many numbers, each for as many `hash`es as any other.
#[inline(always)]
const fn below(count: u32, hash: u32) -> u32 {
    // Multiply and shift: as even as the remainder, and no division that could be by zero.
    ((hash as u64 * count as u64) >> 32) as u32
}

/// Where the table has its slot for the client of a packet: the same on every node, whichever of
/// their addresses the packet aims at.
#[inline(always)]
pub(crate) fn place(frontend: &Frontend, packet: &Tuple, seed: [u32; 2]) -> u32 {
    let [low, high] = seed;
    let (halves, _) = packet.source.as_chunks::<8>();
    let ports = u64::from(packet.source_port) << 16 | u64::from(packet.destination_port);
    let mut hash = u64::from(high) << 32 | u64::from(low);
    for half in halves {
        hash = mix(hash ^ u64::from_be_bytes(*half));
    }
    hash = mix(hash ^ u64::from(packet.protocol) << 32 ^ ports);
    // Its upper half.
    below(frontend.places, (hash >> 32) as u32)
}

#[inline(always)]
const fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}
