//! Links, addresses, routes and neighbours over route netlink (rtnetlink(7)), synchronous.
//!
//! A [`Handle`] belongs to the network namespace of the thread that opened it, for good. Every
//! call is one acknowledged exchange with the kernel; the errno of a refusal is
//! [`Error::errno`](crate::netlink::Error::errno), so that callers tell `EEXIST`, `ENODEV`,
//! `ENOENT` and `ESRCH` from the rest. Every error names the operation and its object.

mod address;
mod changes;
mod classifier;
mod entry;
mod forwarding;
mod link;
mod mac;
mod neighbour;
mod newlink;
mod qdisc;
mod redirect;
mod traffic;
mod vlan;

pub use address::{Address, Scope};
pub use changes::{Change, Changes, Waker, adds_filters, way_in_events};
pub use classifier::{Classifier, Filter};
pub use entry::{
    EVERYTHING_V4, EVERYTHING_V6, Route, RouteFilter, RouteKind, TABLE_LOCAL, TABLE_MAIN,
};
pub use forwarding::Forwarding;
pub use link::{BridgePort, Ipv6Settings, Link, LinkChange, index_of};
pub use mac::{Mac, ParseMacError};
pub use neighbour::{Neighbour, NeighbourState};
pub use newlink::{NewBridge, NewIfb, NewVxlan, VethEnd, VethPair};
pub use qdisc::{Qdisc, Side, Ticks, TicksError, TokenBucket};
pub use vlan::{NewVlan, PortVlans};

use netlink_packet_route::AddressFamily;
use std::net::IpAddr;

pub use crate::netlink::Error;
use crate::netlink::{Protocol, Socket};
use crate::netns::{self, NetNs};

/// A route netlink socket of one network namespace.
#[derive(Debug)]
pub struct Handle {
    socket: Socket,
}

/// Why [`Handle::open_in`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The namespace could not be entered.
    #[error(transparent)]
    NetNs(#[from] netns::Error),
    /// The socket could not be opened.
    #[error(transparent)]
    Netlink(#[from] Error),
}

impl Handle {
    /// A handle for the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Route)?,
        })
    }

    /// A handle for another namespace, usable from any thread.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_in(netns: &NetNs) -> Result<Self, OpenError> {
        Ok(netns.run(Self::open)??)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
