//! Where a packet leaves, by the kernel's routes and neighbours.

use core::ptr::from_mut;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup, bpf_redir_neigh,
};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup as lookup, bpf_redirect_neigh, bpf_redirect_peer,
};
use causeway_ebpf_abi::{Hop, Peer, PeerKey, Tuple};
use causeway_ebpf_core::packet::Family;
use causeway_ebpf_core::{Routes, Way, words};

use super::buffer::{Buffer, Failed};
use crate::maps;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

pub(super) const FOUND: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;
/// The neighbour is asked for when the packet is sent.
const FOUND_UNSEEN: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
const TOO_BIG: i64 = BPF_FIB_LKUP_RET_FRAG_NEEDED as i64;

impl Routes for Buffer {
    #[inline(always)]
    fn way(&self, ingress: u32, family: Family, tuple: &Tuple, hop: &mut Hop) -> Way {
        let mut asked = question(ingress, family, tuple);
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: takes the structure and its size.
        let status = unsafe { lookup(self.0.cast(), from_mut(&mut asked), size, 0) };
        match status {
            FOUND | FOUND_UNSEEN => {
                hop.interface = asked.ifindex;
                hop.family = u32::from(asked.family);
                // SAFETY: whatever the kernel wrote there are words.
                hop.address = unsafe { asked.__bindgen_anon_4.ipv6_dst };
                // SAFETY: a number, which is said with the first of these answers, and else zero.
                hop.mtu = u32::from(unsafe { asked.__bindgen_anon_1.mtu_result });
                if status == FOUND && !maps::may_lack_ethernet(ingress) {
                    shorten(&asked, hop);
                }
                Way::Out
            }
            TOO_BIG => {
                // SAFETY: with this answer it is a number.
                hop.mtu = u32::from(unsafe { asked.__bindgen_anon_1.mtu_result });
                Way::TooBig
            }
            _ => Way::None,
        }
    }
}

/// What the kernel is asked about a packet that came by the interface `ingress` and shall be one of
/// `tuple`.
#[inline(always)]
pub(super) fn question(ingress: u32, family: Family, tuple: &Tuple) -> bpf_fib_lookup {
    // SAFETY: integers, of which zero is a value.
    let mut asked: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    asked.l4_protocol = tuple.protocol;
    asked.sport = tuple.source_port.to_be();
    asked.dport = tuple.destination_port.to_be();
    asked.ifindex = ingress;
    let (source, destination) = (words(&tuple.source), words(&tuple.destination));
    match family {
        Family::V4 => {
            asked.family = AF_INET;
            asked.__bindgen_anon_3.ipv4_src = source[3];
            asked.__bindgen_anon_4.ipv4_dst = destination[3];
        }
        Family::V6 => {
            asked.family = AF_INET6;
            asked.__bindgen_anon_3.ipv6_src = source;
            asked.__bindgen_anon_4.ipv6_dst = destination;
        }
    }
    asked
}

/// Has a packet with an Ethernet header appear at once at who has that address, instead of going through
/// the bridge and the link to it, if that is in another network namespace.
#[inline(always)]
fn shorten(found: &bpf_fib_lookup, hop: &mut Hop) {
    let key = PeerKey {
        interface: found.ifindex,
        octets: found.dmac,
        zero: [0; 2],
    };
    if let Some(end) = maps::peer_end(&key) {
        let [a, b, c, d, e, f] = found.dmac;
        let [g, h, i, j, k, l] = found.smac;
        let frame = [[a, b, c, d], [e, f, g, h], [i, j, k, l]];
        let frame = frame.map(u32::from_ne_bytes);
        hop.set_peer(Peer { end, frame });
    }
}

impl Buffer {
    /// Sends the packet on.
    #[inline(always)]
    pub(super) fn leave(&self, hop: &Hop) -> Result<i32, Failed> {
        if let Some(peer) = hop.peer() {
            self.write(0, &peer.frame)?;
            // SAFETY: takes numbers.
            return Ok(unsafe { bpf_redirect_peer(peer.end, 0) as i32 });
        }
        // SAFETY: integers, of which zero is a value.
        let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        next.nh_family = hop.family;
        next.__bindgen_anon_1.ipv6_nh = hop.address;
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: takes the structure and its size.
        Ok(unsafe { bpf_redirect_neigh(hop.interface, from_mut(&mut next), size, 0) as i32 })
    }
}
