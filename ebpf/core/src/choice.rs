//! Which backend a client gets.

use causeway_ebpf_abi::{Affinity, Backend, Frontend, MemberKey, SlotKey};

use crate::{Kernel, Tables};

const NANOSECONDS: u64 = 1_000_000_000;

/// A client as one of the maps remembers it.
pub(crate) trait Client {
    /// Where it belongs.
    fn known(&self) -> Option<Affinity>;
    /// It belongs there from now on.
    fn remember(&self, value: &Affinity);
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
        return any(tables, kernel, frontend);
    }
    let now = kernel.now();
    let backend = match client.known() {
        Some(known) if is_good(tables, frontend, &known, now) => known.backend,
        _ => any(tables, kernel, frontend)?,
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
fn any(tables: &impl Tables, kernel: &impl Kernel, frontend: &Frontend) -> Option<Backend> {
    // Multiply and shift: as even as the remainder, and no division that could be by zero.
    let slot = (u64::from(kernel.random()) * u64::from(frontend.count)) >> 32;
    tables.backend(&SlotKey {
        set: frontend.set,
        // Below the count, which is 32 bits.
        slot: u32::try_from(slot).unwrap_or(0),
    })
}
