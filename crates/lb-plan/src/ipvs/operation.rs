//! What is asked of the kernel.

use std::net::IpAddr;
use std::num::NonZeroU32;

use lb_model::Protocol;

use crate::nftables::Target;

/// What a connection aims at: at most one virtual service each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The destination address.
    pub ip: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

/// All about a virtual service but its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What its connections aim at.
    pub key: Key,
    /// How a destination is chosen.
    pub scheduler: String,
    /// Seconds that a client stays with its destination after its last connection.
    pub persistence: Option<NonZeroU32>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make a virtual service, which must not be there.
    AddService(Service),
    /// Change one that is there.
    SetService(Service),
    /// Remove a virtual service with its destinations. It may be gone.
    DeleteService(Key),
    /// Give a virtual service another destination.
    AddDestination {
        /// The virtual service.
        key: Key,
        /// The endpoint.
        target: Target,
    },
    /// Let a destination have new connections, or let it drain.
    SetDestination {
        /// The virtual service.
        key: Key,
        /// The endpoint.
        target: Target,
        /// It gets no new connections: weight 0, else 1.
        drains: bool,
    },
    /// Remove a destination; its connections end. It may be gone.
    DeleteDestination {
        /// The virtual service.
        key: Key,
        /// The endpoint.
        target: Target,
    },
    /// Make an address the node's. Nothing happens if it is.
    Bind(IpAddr),
    /// Take an address away. It may be gone.
    Unbind(IpAddr),
}
