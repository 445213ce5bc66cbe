//! What is known of sockets that the programs sent to a backend, and what they heed of others.

use crate::{Address, Backend, FrontendKey};

/// A socket that `connect` sent to a backend; the key is its cookie (`bpf_get_socket_cookie`).
/// It is there from `connect` until the socket connects to something else, or closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Connected {
    /// The cookie of its network namespace (`bpf_get_netns_cookie`).
    pub netns: u64,
    /// What it believes to talk to.
    pub frontend: FrontendKey,
    /// Whom it talks to.
    pub backend: Backend,
}

impl Connected {
    /// Instead of what was known of a socket that the daemon ended, until it closes or connects anew.
    /// (Who takes an entry away has to count that, and only programs can.)
    pub const ENDED: Self = Self {
        netns: 0,
        frontend: FrontendKey {
            address: [0; 16],
            port: 0,
            protocol: 0,
            view: FrontendKey::INSIDE,
        },
        backend: Backend::NONE,
    };
}

/// Cells of [`crate::maps::SHARING`].
pub const SHARING: u32 = 65_536;

/// What the hooks on sockets heed. The daemon writes it before it attaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SocketRules {
    /// One of the node's IPv4 addresses that serve node ports, IPv4-mapped; zero: there is none,
    /// or ports are not guarded. Whether a port is served there decides for the wildcard address.
    pub v4: Address,
    /// The same for IPv6.
    pub v6: Address,
    /// [`SocketRules::UDP_CONNECT`], [`SocketRules::GUARD_PORTS`].
    pub flags: u32,
}

impl SocketRules {
    /// `connect` of UDP is translated.
    pub const UDP_CONNECT: u32 = 1;
    /// No socket of the node itself may be bound to a node port.
    pub const GUARD_PORTS: u32 = 2;
}
