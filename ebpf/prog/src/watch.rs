//! Whoever watches is told what happens; nobody watches most of the time, and then this costs one
//! look at a number.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use causeway_ebpf_abi::Event;

/// Bytes of events that nobody has read yet: some 5,900 of them.
const EVENTS: u32 = 512 * 1024;

#[map(name = "watch")]
static WATCH_MAP: Array<u64> = Array::pinned(1, 0);

#[map(name = "events")]
static EVENTS_MAP: RingBuf = RingBuf::pinned(EVENTS, 0);

#[map(name = "events_lost")]
static LOST_MAP: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);

/// Tells it, at the time of now, if somebody watches.
#[inline(always)]
pub fn tell(event: &Event) {
    let until = WATCH_MAP.get(0).copied().unwrap_or(0);
    if until == 0 {
        return;
    }
    // SAFETY: takes nothing.
    let time = unsafe { bpf_ktime_get_ns() };
    // Who watches says so again and again: one that was killed is forgotten.
    if time >= until {
        return;
    }
    let Some(mut entry) = EVENTS_MAP.reserve::<Event>(0) else {
        if let Some(lost) = LOST_MAP.get_ptr_mut(0) {
            // SAFETY: this processor's own place.
            unsafe { *lost += 1 };
        }
        return;
    };
    entry.write(Event { time, ..*event });
    entry.submit(0);
}
