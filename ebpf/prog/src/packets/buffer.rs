//! A packet as the kernel hands it over (`struct __sk_buff`, linux/bpf.h).

use core::mem::MaybeUninit;
use core::ptr::from_ref;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_head,
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
};
use causeway_ebpf_core::packet::{Family, Packet};

use super::{ETHERNET, Head};

/// `PACKET_HOST` (linux/if_packet.h): its Ethernet address is this machine's.
const TO_THIS_MACHINE: u32 = 0;
/// No header that is read where it is begins farther behind the link's header, in bytes.
const FARTHEST: u32 = 60;
/// `BPF_HDR_START_MAC` and `BPF_HDR_START_NET`: bytes count from the link's or the IP header on.
const FROM_LINK_HEADER: u32 = 0;
const FROM_IP_HEADER: u32 = 1;
/// `ETH_P_IP` and `ETH_P_IPV6` (linux/if_ether.h), in the packet's byte order.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// What grows is the sum of the pseudo header: a checksum that is yet to be finished changes, too.
pub(super) const PSEUDO_HEADER: u64 = BPF_F_PSEUDO_HDR as u64;
/// A checksum of zero means that there is none (RFC 768), and stays.
pub(super) const MANGLED_ZERO: u64 = BPF_F_MARK_MANGLED_0 as u64;

/// The kernel did not do it.
pub(super) struct Failed;

/// See the module.
pub(super) struct Buffer(pub(super) *mut __sk_buff);

impl Packet for Buffer {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        let (to, size) = (words.as_mut_ptr().cast(), size_of::<[u32; N]>() as u32);
        // SAFETY: it writes all of the words, or says that it did not.
        unsafe {
            let status =
                bpf_skb_load_bytes_relative(self.0.cast(), offset, to, size, FROM_IP_HEADER);
            (status == 0).then(|| words.assume_init())
        }
    }

    #[inline(always)]
    fn read_to<const N: usize>(&self, offset: u32, place: &mut [u8; N]) -> bool {
        let to = place.as_mut_ptr().cast();
        // SAFETY: it writes no more than these bytes.
        let status = unsafe {
            bpf_skb_load_bytes_relative(self.0.cast(), offset, to, N as u32, FROM_IP_HEADER)
        };
        status == 0
    }
}

/// The same packet, whose headers are read where they are if they are in one piece: a call of the kernel
/// for each takes longer.
pub(super) struct Near<'a> {
    pub(super) buffer: &'a Buffer,
    /// It begins with an Ethernet header.
    pub(super) ethernet: bool,
}

impl Packet for Near<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        match self.place(offset, size_of::<[u32; N]>()) {
            // SAFETY: it is between the packet's two addresses; see there for what isn't aligned.
            Some(place) => Some(unsafe { *(place as *const [u32; N]) }),
            None => self.buffer.words(offset),
        }
    }

    #[inline(always)]
    fn read_to<const N: usize>(&self, offset: u32, place: &mut [u8; N]) -> bool {
        self.buffer.read_to(offset, place)
    }
}

impl Near<'_> {
    /// Where so many bytes are.
    #[inline(always)]
    fn place(&self, offset: u32, size: usize) -> Option<usize> {
        // The verifier wants to know how far that may be.
        if !self.ethernet || offset > FARTHEST {
            return None;
        }
        // SAFETY: the verifier checks every access to the context.
        let (data, end) = unsafe {
            (
                (*self.buffer.0).data as usize,
                (*self.buffer.0).data_end as usize,
            )
        };
        let place = data + ETHERNET as usize + offset as usize;
        (place + size <= end).then_some(place)
    }
}

impl Head for Buffer {
    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<&[u32; N]> {
        // SAFETY: the verifier checks every access to the context; and that nothing is read but
        // between the two addresses that it says, which may not be aligned: a processor that can't
        // read so gets a program that reads bytes.
        unsafe {
            let (data, end) = ((*self.0).data as usize, (*self.0).data_end as usize);
            let words = data + ETHERNET as usize;
            (words + size_of::<[u32; N]>() <= end).then(|| &*(words as *const [u32; N]))
        }
    }
}

impl Buffer {
    /// Its IP version; none where it is of something else, or for somebody else: the packets of a
    /// VLAN come to its own interface once more.
    #[inline(always)]
    pub(super) fn family(&self) -> Option<Family> {
        // SAFETY: the verifier checks every access to the context.
        let (protocol, kind, vlan) = unsafe {
            (
                (*self.0).protocol,
                (*self.0).pkt_type,
                (*self.0).vlan_present,
            )
        };
        if kind != TO_THIS_MACHINE || vlan != 0 {
            return None;
        }
        match protocol {
            IPV4 => Some(Family::V4),
            IPV6 => Some(Family::V6),
            _ => None,
        }
    }

    /// The index of the interface that it came by.
    #[inline(always)]
    pub(super) fn interface(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ifindex }
    }

    /// Whether a program before this one gave it a mark, by which the stack may choose a route.
    #[inline(always)]
    pub(super) fn is_marked(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).mark != 0 }
    }

    /// Bytes from the link's header on.
    #[inline(always)]
    pub(super) fn read_all<const N: usize>(&self, offset: u32) -> Result<[u8; N], Failed> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let to = bytes.as_mut_ptr().cast();
        // SAFETY: as for `words`.
        unsafe {
            match bpf_skb_load_bytes(self.0.cast(), offset, to, N as u32) {
                0 => Ok(bytes.assume_init()),
                _ => Err(Failed),
            }
        }
    }

    /// Writes there, in bytes from the link's header on.
    #[inline(always)]
    pub(super) fn write<T>(&self, offset: u32, bytes: &T) -> Result<(), Failed> {
        let from = from_ref(bytes).cast();
        // SAFETY: as many bytes are read.
        done(unsafe { bpf_skb_store_bytes(self.0, offset, from, size_of::<T>() as u32, 0) })
    }

    /// Writes all of `value` but its first bytes.
    #[inline(always)]
    pub(super) fn write_end<T>(&self, offset: u32, value: &T, but: usize) -> Result<(), Failed> {
        let size = size_of::<T>().saturating_sub(but) as u32;
        // SAFETY: from there on, `value` has so many bytes.
        done(unsafe {
            let from = from_ref(value).byte_add(but).cast();
            bpf_skb_store_bytes(self.0, offset, from, size, 0)
        })
    }

    /// What it covers has grown: so does the checksum there.
    #[inline(always)]
    pub(super) fn replace(&self, offset: u32, difference: u16, flags: u64) -> Result<(), Failed> {
        // SAFETY: takes numbers; the size that the flags say is 0: a difference.
        done(unsafe { bpf_l4_csum_replace(self.0, offset, 0, u64::from(difference), flags) })
    }

    /// The whole packet's sum has grown, where the interface computed it.
    #[inline(always)]
    pub(super) fn grow(&self, difference: u32) {
        // SAFETY: takes numbers. It fails where there is no such sum.
        let _ = unsafe { bpf_csum_update(self.0, difference) };
    }

    /// Makes it so long, in bytes from the link's header on. What was left to be done to its
    /// segments is forgotten.
    #[inline(always)]
    pub(super) fn resize(&self, length: u32) -> Result<(), Failed> {
        // SAFETY: takes numbers.
        done(unsafe { bpf_skb_change_tail(self.0, length, 0) })
    }

    /// Whether the kernel may have lost where the link's header begins. Then the program is handed the
    /// packet from its IP header on, from where its length on the wire counts: as long or longer, where the
    /// headers of segments to come count as well. (Also where the link has no header.)
    #[inline(always)]
    pub(super) fn may_lack_header(&self) -> bool {
        // SAFETY: the verifier checks every access to the context.
        let (length, behind_header) = unsafe { ((*self.0).len, (*self.0).wire_len) };
        length <= behind_header
    }

    /// Puts an Ethernet header that the kernel has lost before the packet again. It is still where it
    /// was; the packet begins with it unless other bytes are there.
    #[inline(always)]
    pub(super) fn find_header(&self) -> Result<(), Failed> {
        const BYTES: usize = ETHERNET as usize;
        let mut kept = MaybeUninit::<[u8; BYTES]>::uninit();
        let to = kept.as_mut_ptr().cast();
        // SAFETY: it writes all of the bytes, or says that it did not.
        let kept = unsafe {
            match bpf_skb_load_bytes_relative(self.0.cast(), 0, to, ETHERNET, FROM_LINK_HEADER) {
                0 => kept.assume_init(),
                _ => return Ok(()),
            }
        };
        if self.read_all::<BYTES>(0)? == kept {
            return Ok(());
        }
        self.lead(ETHERNET)?;
        self.write(0, &kept)
    }

    /// Puts so many bytes before it, as a link's header.
    #[inline(always)]
    pub(super) fn lead(&self, bytes: u32) -> Result<(), Failed> {
        // SAFETY: takes numbers.
        done(unsafe { bpf_skb_change_head(self.0, bytes, 0) })
    }

    /// Makes room for so many bytes between the link's header and the IP header.
    #[inline(always)]
    pub(super) fn make_room(&self, bytes: u32) -> Result<(), Failed> {
        // SAFETY: takes numbers.
        done(unsafe { bpf_skb_adjust_room(self.0, bytes as i32, BPF_ADJ_ROOM_MAC, 0) })
    }

    /// Sends it back by where it came.
    #[inline(always)]
    pub(super) fn turn(&self) -> i32 {
        // SAFETY: takes numbers.
        unsafe { bpf_redirect(self.interface(), 0) as i32 }
    }
}

#[inline(always)]
fn done(status: i64) -> Result<(), Failed> {
    if status == 0 { Ok(()) } else { Err(Failed) }
}
