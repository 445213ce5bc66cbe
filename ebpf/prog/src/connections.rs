//! The maps of sockets that are connected. An entry goes with its socket, so that none alive is
//! forgotten for the sake of those that are gone.

use core::arch::asm;

use aya_ebpf::bindings::{BPF_EXIST, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use causeway_ebpf_abi::{Connected, SHARING as CELLS, SocketRules};
use causeway_ebpf_core::Sockets;

use crate::maps::Maps;

/// Sockets of one protocol unless the daemon says otherwise; memory is taken as they come.
const SOCKETS: u32 = 524_288;

const UDP: u8 = 17;

/// Only where there is no such entry yet (linux/bpf.h).
const NEW: u64 = BPF_NOEXIST as u64;
/// Only where there is one.
const OLD: u64 = BPF_EXIST as u64;

#[map(name = "connected_udp")]
static UDP_MAP: HashMap<u64, Connected> = HashMap::pinned(SOCKETS, BPF_F_NO_PREALLOC);

#[map(name = "connected_tcp")]
static TCP_MAP: HashMap<u64, Connected> = HashMap::pinned(SOCKETS, BPF_F_NO_PREALLOC);

#[map(name = "socket_rules")]
static RULES_MAP: Array<SocketRules> = Array::pinned(1, 0);

#[map(name = "sharing")]
static SHARING_MAP: Array<u64> = Array::pinned(CELLS, 0);

/// The cell of a socket, in which those that have an entry are counted. Cookies are given one after the
/// other, so sockets of the same time have their cells side by side.
const fn cell(cookie: u64) -> u32 {
    cookie as u32 % CELLS
}

/// So many entries more, by one instruction: other processors may do that as well. (The compiler knows
/// none for this machine.)
#[inline(always)]
fn grow(cookie: u64, by: i64) {
    if let Some(cell) = SHARING_MAP.get_ptr_mut(cell(cookie)) {
        // SAFETY: it changes these eight bytes, which are the map's.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) cell, in(reg) by) };
    }
}

/// An entry is to come: before it is there.
#[inline(always)]
fn enters(cookie: u64) {
    grow(cookie, 1);
}

/// An entry went: when it is there no more.
#[inline(always)]
fn left(cookie: u64) {
    grow(cookie, -1);
}

#[inline(always)]
fn of(protocol: u8) -> &'static HashMap<u64, Connected> {
    match protocol {
        UDP => &UDP_MAP,
        _ => &TCP_MAP,
    }
}

impl Sockets for Maps {
    #[inline(always)]
    fn may_be_connected(&self, cookie: u64) -> bool {
        SHARING_MAP
            .get(cell(cookie))
            .is_none_or(|count| *count != 0)
    }
    #[inline(always)]
    fn connected(&self, protocol: u8, cookie: u64) -> Option<Connected> {
        // SAFETY: an entry is its socket's, whose calls come one after the other.
        unsafe { of(protocol).get(cookie) }.copied()
    }
    #[inline(always)]
    fn set_connected(&self, protocol: u8, cookie: u64, value: &Connected) -> bool {
        let map = of(protocol);
        enters(cookie);
        if map.insert(cookie, value, NEW).is_ok() {
            return true;
        }
        // One that was connected before is counted already.
        if map.insert(cookie, value, OLD).is_ok() {
            left(cookie);
            return true;
        }
        // The daemon may have taken it away just now.
        let added = map.insert(cookie, value, NEW).is_ok();
        if !added {
            left(cookie);
        }
        added
    }
    #[inline(always)]
    fn forget(&self, protocol: u8, cookie: u64) {
        if of(protocol).remove(cookie).is_ok() {
            left(cookie);
        }
    }
    #[inline(always)]
    fn rules(&self) -> Option<SocketRules> {
        RULES_MAP.get(0).copied()
    }
}
