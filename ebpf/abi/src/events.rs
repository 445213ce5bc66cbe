//! What the programs tell whoever watches them.

use crate::{Backend, Counter, FrontendKey, Tuple};

/// Something that happened, as it lies in [`crate::maps::EVENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Event {
    /// When, in nanoseconds of the monotonic clock.
    pub time: u64,
    /// The cookie of the socket's network namespace (`bpf_get_netns_cookie`); 0: it was a packet.
    pub netns: u64,
    /// A [`Counter`], or [`Event::CLOSED`].
    pub what: u32,
    /// What was aimed at.
    pub frontend: FrontendKey,
    /// Where it goes on to; zero: nowhere.
    pub backend: Backend,
    /// Who sent the packet; zero: it was a socket, which may not have an address yet.
    pub client: Backend,
}

impl Event {
    /// A socket that was connected is closed, or connects to something else.
    pub const CLOSED: u32 = 1 << 16;

    /// Of a packet.
    #[inline(always)]
    #[must_use]
    pub const fn of_packet(what: Counter, packet: &Tuple) -> Self {
        Self {
            time: 0,
            netns: 0,
            what: what as u32,
            frontend: FrontendKey {
                address: packet.destination,
                port: packet.destination_port,
                protocol: packet.protocol,
                view: FrontendKey::INSIDE,
            },
            backend: Backend::NONE,
            client: Backend {
                address: packet.source,
                port: packet.source_port,
                place: 0,
            },
        }
    }

    /// Of a socket.
    #[must_use]
    pub const fn of_socket(what: Counter, netns: u64, frontend: FrontendKey) -> Self {
        Self {
            time: 0,
            netns,
            what: what as u32,
            frontend,
            backend: Backend::NONE,
            client: Backend::NONE,
        }
    }
}
