//! Map entries as bytes, and what is in them as people write it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use causeway_ebpf_abi::{Address, Plain};
use nix::time::{ClockId, clock_gettime};

/// An entry's key or value, as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Entry<T: Plain>(pub(super) T);

// SAFETY: `Plain` promises integers without padding, which is what `Pod` asks for.
#[expect(unsafe_code, reason = "the one place where the two promises meet")]
unsafe impl<T: Plain> aya::Pod for Entry<T> {}

/// A value as it lies in memory.
pub(super) fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    let whole = bytes.get(..size_of::<T>())?;
    // SAFETY: as many bytes as it has, of which every pattern is a value.
    #[expect(unsafe_code, reason = "the kernel hands bytes over")]
    let value = unsafe { whole.as_ptr().cast::<T>().read_unaligned() };
    Some(value)
}

/// An address.
pub(super) fn ip(address: Address) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(address)).to_canonical()
}

/// An address and a port.
pub(super) fn socket_address(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Nanoseconds of the clock that the programs go by (`bpf_ktime_get_ns`).
pub(super) fn monotonic() -> u64 {
    // The clock is there on every Linux; without it nothing is over.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
