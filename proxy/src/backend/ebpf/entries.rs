//! Map entries as bytes, and what is in them as people write it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use causeway_ebpf_abi::{Address, Plain};

/// An entry's key or value, as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Entry<T: Plain>(pub(super) T);

// SAFETY: `Plain` promises integers without padding, which is what `Pod` asks for.
#[expect(unsafe_code, reason = "the one place where the two promises meet")]
unsafe impl<T: Plain> aya::Pod for Entry<T> {}

/// An address.
pub(super) fn ip(address: Address) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(address)).to_canonical()
}

/// An address and a port.
pub(super) fn socket_address(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
