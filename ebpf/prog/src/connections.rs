//! The maps of sockets that are connected. An entry goes with its socket, so that none alive is
//! forgotten for the sake of those that are gone.

use core::ffi::c_void;
use core::ptr::{from_ref, null_mut};

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::{btf_map, map};
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

/// Kept with a socket itself, and gone with it: a map may have something of it. Most have nothing here,
/// and that costs one look at the socket.
#[btf_map(name = "marked")]
static MARKED_MAP: SkStorage<u32> = SkStorage::new();

/// A socket as the helper takes it: of a call the `sk` in its context, of a socket's own hook that
/// context.
#[derive(Clone, Copy)]
pub struct Marks(pub *mut c_void);

impl Marks {
    #[inline(always)]
    fn get(self, flags: u32) -> bool {
        let map = from_ref(&MARKED_MAP).cast_mut().cast();
        let (socket, flags) = (self.0, u64::from(flags));
        // SAFETY: the loader puts the map here; the verifier checks what the socket is.
        !unsafe { bpf_sk_storage_get(map, socket, null_mut(), flags) }.is_null()
    }

    #[inline(always)]
    pub fn is_marked(self) -> bool {
        self.get(0)
    }

    #[inline(always)]
    pub fn mark(self) -> bool {
        self.get(BPF_SK_STORAGE_GET_F_CREATE)
    }
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
