//! Being told that links, addresses, what bridges learned, or queues and filters changed (rtnetlink(7), the
//! groups of linux/rtnetlink.h).

use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::Error;
use crate::netlink::{Events, Protocol, Told};

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_TC`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x4 | 0x8 | 0x10 | 0x100;

/// `RTM_NEWNEIGH` and `RTM_DELNEIGH`.
const NEW_NEIGHBOUR: u16 = 28;
const DELETED_NEIGHBOUR: u16 = 29;
/// From `RTM_NEWQDISC` to `RTM_GETTFILTER`, and from `RTM_NEWCHAIN` to `RTM_GETCHAIN` (chains of filters).
const QUEUES_AND_FILTERS: RangeInclusive<u16> = 36..=46;
const CHAINS: RangeInclusive<u16> = 100..=102;
/// `AF_BRIDGE` (linux/socket.h).
const BRIDGE: u8 = 7;

/// Hears of every change of a link, an address, of what a bridge knows of who is behind its ports, and of
/// queues and filters, in the network namespace in which it was opened.
pub struct Changes {
    socket: OwnedFd,
}

/// What changed, the most of it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// Queues or filters.
    Traffic,
    /// A link, an address, what a bridge knows; it may be all of it.
    Links,
}

/// Wakes the one who waits for [`Changes`].
pub struct Waker {
    socket: OwnedFd,
    to: NetlinkAddr,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

impl Changes {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: bound(GROUPS)?,
        })
    }

    /// What ends a wait: it then looks like a change.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn waker(&self) -> Result<Waker, Error> {
        let to = getsockname(self.socket.as_raw_fd()).map_err(failed)?;
        Ok(Waker {
            socket: bound(0)?,
            to,
        })
    }

    /// Waits for a change, at most for `patience`, which must not be zero; not for so long where
    /// something is told that is none. Gives what changed; all that was told until then counts as one.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn wait(&self, patience: Duration) -> Result<Change, Error> {
        let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
        let patience = TimeVal::new(seconds, patience.subsec_micros().into());
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &patience).map_err(failed)?;
        let mut changed = Change::Nothing;
        // What is told is looked up afterwards, so it needn't be read in whole.
        let mut flags = MsgFlags::empty();
        loop {
            let mut told = [0; 64];
            match recv(self.socket.as_raw_fd(), &mut told, flags) {
                Ok(_) => changed = changed.max(change(&told)),
                // Told more than there was room for.
                Err(Errno::ENOBUFS) => changed = Change::Links,
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }
}

/// That a neighbour was met is none: a busy node is told so all the time. (A message begins with `struct
/// nlmsghdr`, linux/netlink.h; behind it, the family comes first.)
fn change(told: &[u8; 64]) -> Change {
    let [_, _, _, _, a, b, ..] = *told;
    match u16::from_ne_bytes([a, b]) {
        NEW_NEIGHBOUR | DELETED_NEIGHBOUR if told[16] != BRIDGE => Change::Nothing,
        kind if QUEUES_AND_FILTERS.contains(&kind) || CHAINS.contains(&kind) => Change::Traffic,
        _ => Change::Links,
    }
}

impl Waker {
    /// Ends a wait.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn wake(&self) -> Result<(), Error> {
        let fd = self.socket.as_raw_fd();
        let sent = sendto(fd, &[0; 4], &self.to, MsgFlags::empty());
        sent.map(drop).map_err(failed)
    }
}

/// `RTNLGRP_TC` and `RTNLGRP_IPV4_NETCONF` (linux/rtnetlink.h).
const WAY_IN: [u32; 2] = [4, 24];
/// `RTM_NEWQDISC`, `RTM_NEWTFILTER` and `RTM_NEWNETCONF`.
const ADDED: [u16; 3] = [36, 44, 80];

/// Hears of what may be done to packets that come by an interface: queues, filters, and IPv4's settings, as
/// `rp_filter`; in the calling thread's network namespace.
///
/// # Errors
/// [`Error::Socket`].
pub fn way_in_events() -> Result<Events, Error> {
    Events::open(Protocol::Route, &WAY_IN)
}

/// Whether what was told may mean that packets are filtered that were not before.
#[must_use]
pub fn adds_filters(told: Told) -> bool {
    match told {
        Told::Kind(kind) => ADDED.contains(&kind),
        Told::Lost => true,
    }
}

fn bound(groups: u32) -> Result<OwnedFd, Error> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .map_err(failed)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
    Ok(socket)
}

fn failed(errno: Errno) -> Error {
    Error::socket(&"hear of changed links", errno)
}

#[cfg(test)]
mod tests {
    use ipnetwork::IpNetwork;

    use super::*;
    use crate::netns::NetNs;
    use crate::route::{Address, Handle};

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn links_addresses_and_wakers_are_heard() {
        let netns = NetNs::anonymous().unwrap();
        let changes = netns.run(Changes::open).unwrap().unwrap();
        let mut handle = Handle::open_in(&netns).unwrap();
        assert_eq!(changes.wait(SHORT).unwrap(), Change::Nothing);
        handle.set_up(1).unwrap();
        assert_eq!(changes.wait(LONG).unwrap(), Change::Links);
        // What the kernel does by itself when a link comes up.
        while changes.wait(Duration::from_millis(100)).unwrap() != Change::Nothing {}
        handle.add_clsact(1).unwrap();
        assert_eq!(changes.wait(LONG).unwrap(), Change::Traffic);
        let address: IpNetwork = "192.0.2.1/24".parse().unwrap();
        handle.add_address(&Address::new(1, address)).unwrap();
        assert_eq!(changes.wait(LONG).unwrap(), Change::Links);
        let waker = netns.run(|| changes.waker()).unwrap().unwrap();
        let waits = std::thread::spawn(move || changes.wait(LONG));
        waker.wake().unwrap();
        assert_eq!(waits.join().unwrap().unwrap(), Change::Links);
    }
}
