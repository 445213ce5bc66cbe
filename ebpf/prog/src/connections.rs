//! The maps of sockets that are connected. An entry goes with its socket, so that none alive is
//! forgotten for the sake of those that are gone.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use causeway_ebpf_abi::{Connected, SocketRules};
use causeway_ebpf_core::Sockets;

use crate::maps::Maps;

/// Sockets of one protocol unless the daemon says otherwise; memory is taken as they come.
const SOCKETS: u32 = 524_288;

const UDP: u8 = 17;

#[map(name = "connected_udp")]
static UDP_MAP: HashMap<u64, Connected> = HashMap::pinned(SOCKETS, BPF_F_NO_PREALLOC);

#[map(name = "connected_tcp")]
static TCP_MAP: HashMap<u64, Connected> = HashMap::pinned(SOCKETS, BPF_F_NO_PREALLOC);

#[map(name = "socket_rules")]
static RULES_MAP: Array<SocketRules> = Array::pinned(1, 0);

#[inline(always)]
fn of(protocol: u8) -> &'static HashMap<u64, Connected> {
    match protocol {
        UDP => &UDP_MAP,
        _ => &TCP_MAP,
    }
}

impl Sockets for Maps {
    #[inline(always)]
    fn connected(&self, protocol: u8, cookie: u64) -> Option<Connected> {
        // SAFETY: an entry is its socket's, whose calls come one after the other.
        unsafe { of(protocol).get(cookie) }.copied()
    }
    #[inline(always)]
    fn set_connected(&self, protocol: u8, cookie: u64, value: &Connected) -> bool {
        of(protocol).insert(cookie, value, 0).is_ok()
    }
    #[inline(always)]
    fn forget(&self, protocol: u8, cookie: u64) {
        let _ = of(protocol).remove(cookie);
    }
    #[inline(always)]
    fn rules(&self) -> Option<SocketRules> {
        RULES_MAP.get(0).copied()
    }
}
