//! What went to whom. Each processor counts for itself, so that none waits for another.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuHashMap};
use causeway_ebpf_abi::{Backend, PortName, Traffic, TrafficKey};

/// Service ports and backends to which something went; memory is taken as they come.
const COUNTED: u32 = 262_144;
const SERVICES: u32 = 65_536;

#[map(name = "traffic")]
static TRAFFIC_MAP: PerCpuHashMap<TrafficKey, Traffic> =
    PerCpuHashMap::pinned(COUNTED, BPF_F_NO_PREALLOC);

/// Who is who. The programs don't ask; it is with their maps so that it outlives the daemon.
#[map(name = "services")]
static SERVICES_MAP: HashMap<u32, PortName> = HashMap::pinned(SERVICES, BPF_F_NO_PREALLOC);

/// What the daemon counts itself.
#[map(name = "settled")]
static SETTLED_MAP: HashMap<TrafficKey, Traffic> = HashMap::pinned(COUNTED, BPF_F_NO_PREALLOC);

/// So much more for a Service port and for its backend.
#[inline(always)]
pub fn add(service: u32, backend: &Backend, more: &Traffic) {
    if service == 0 {
        return;
    }
    let mut key = TrafficKey {
        service,
        backend: Backend::NONE,
    };
    add_at(&key, more);
    if *backend != Backend::NONE {
        key.backend = *backend;
        add_at(&key, more);
    }
}

// It stands in many places: once is enough.
#[inline(never)]
fn add_at(key: &TrafficKey, more: &Traffic) {
    if grow(key, more)
        || TRAFFIC_MAP
            .insert(key, more, u64::from(BPF_NOEXIST))
            .is_ok()
    {
        return;
    }
    // Another processor was first. (Where the map is full, it goes uncounted.)
    grow(key, more);
}

#[inline(always)]
fn grow(key: &TrafficKey, more: &Traffic) -> bool {
    let Some(traffic) = TRAFFIC_MAP.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: this processor's own place.
    unsafe { (*traffic).add(more) };
    true
}
