//! A frame as a driver hands it over (`struct xdp_md`, linux/bpf.h): nothing is known of it but its
//! bytes, and where it came in. Those that are not in the first piece of it are not there.

use core::ptr::copy_nonoverlapping;

use aya_ebpf::bindings::xdp_md;
use causeway_ebpf_core::packet::{Family, Packet};

use super::{ETHERNET, Head};

/// `ETH_P_IP` and `ETH_P_IPV6` (linux/if_ether.h), in the frame's byte order. The tag of a VLAN, which
/// drivers may leave in a frame, is none of them.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
/// Nothing that is read or written begins farther behind the link's header, in bytes: the verifier
/// wants to know.
const FARTHEST: u32 = 128;

/// See the module.
pub(super) struct Frame(pub(super) *mut xdp_md);

// The verifier checks every access to the context; and that nothing is read or written but between
// the two addresses that it says. They may not be aligned: a processor that can't read so gets a
// program that reads bytes. So much for all SAFETY below.

impl Packet for Frame {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let place = self.place(ETHERNET + offset, size_of::<[u32; N]>())?;
        // SAFETY: see above.
        Some(unsafe { *(place as *const [u32; N]) })
    }

    #[inline(always)]
    fn read_to<const N: usize>(&self, offset: u32, place: &mut [u8; N]) -> bool {
        const { assert!(N.is_multiple_of(4)) };
        let Some(from) = self.place(ETHERNET + offset, N) else {
            return false;
        };
        let to = place.as_mut_ptr().cast::<u32>();
        // SAFETY: see above; addresses of a tuple are aligned.
        unsafe { copy_nonoverlapping(from as *const u32, to, N / 4) };
        true
    }
}

impl Head for Frame {
    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<&[u32; N]> {
        let place = self.place(ETHERNET, size_of::<[u32; N]>())?;
        // SAFETY: see above.
        Some(unsafe { &*(place as *const [u32; N]) })
    }
}

impl Frame {
    /// Its IP version.
    #[inline(always)]
    pub(super) fn family(&self) -> Option<Family> {
        match self.half(ETHERNET - 2)? {
            IPV4 => Some(Family::V4),
            IPV6 => Some(Family::V6),
            _ => None,
        }
    }

    /// The index of the interface that it came by.
    #[inline(always)]
    pub(super) fn interface(&self) -> u32 {
        // SAFETY: see above.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The Ethernet address that it is for.
    #[inline(always)]
    pub(super) fn receiver(&self) -> Option<[u8; 6]> {
        let place = self.place(0, 6)?;
        // SAFETY: see above.
        let halves = unsafe { *(place as *const [u16; 3]) };
        let [[a, b], [c, d], [e, f]] = halves.map(u16::to_ne_bytes);
        Some([a, b, c, d, e, f])
    }

    /// Two bytes, at an offset from the link's header on.
    #[inline(always)]
    pub(super) fn half(&self, offset: u32) -> Option<u16> {
        let place = self.place(offset, 2)?;
        // SAFETY: see above.
        Some(unsafe { *(place as *const u16) })
    }

    /// Writes there, in bytes from the link's header on; none where it can't.
    #[inline(always)]
    pub(super) fn write<T: Copy>(&self, offset: u32, value: T) -> Option<()> {
        let place = self.place(offset, size_of::<T>())?;
        // SAFETY: see above.
        unsafe { *(place as *mut T) = value };
        Some(())
    }

    #[inline(always)]
    fn place(&self, offset: u32, bytes: usize) -> Option<usize> {
        if offset > FARTHEST {
            return None;
        }
        // SAFETY: see above.
        // Read anew for each place: the compiler would keep half of such a word, which is no address to the
        // verifier.
        let (data, end) = unsafe {
            (
                (&raw const (*self.0).data).read_volatile() as usize,
                (&raw const (*self.0).data_end).read_volatile() as usize,
            )
        };
        let place = data + offset as usize;
        (place + bytes <= end).then_some(place)
    }
}
