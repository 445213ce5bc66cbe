//! Being told that links, addresses, or what bridges learned changed (rtnetlink(7), the groups of
//! linux/rtnetlink.h).

use std::fmt;
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

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x100;

/// `RTM_NEWNEIGH` and `RTM_DELNEIGH`.
const NEIGHBOURS: [u16; 2] = [28, 29];
/// `AF_BRIDGE` (linux/socket.h).
const BRIDGE: u8 = 7;

/// Hears of every change of a link, an address, and of what a bridge knows of who is behind its ports, in
/// the network namespace in which it was opened.
pub struct Changes {
    socket: OwnedFd,
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
    /// something is told that is none. Gives whether there was one; all that was told until then counts
    /// as one.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn wait(&self, patience: Duration) -> Result<bool, Error> {
        let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
        let patience = TimeVal::new(seconds, patience.subsec_micros().into());
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &patience).map_err(failed)?;
        let mut changed = false;
        // What is told is looked up afterwards, so it needn't be read in whole.
        let mut flags = MsgFlags::empty();
        loop {
            let mut told = [0; 64];
            match recv(self.socket.as_raw_fd(), &mut told, flags) {
                Ok(_) => changed |= is_change(&told),
                // Told more than there was room for.
                Err(Errno::ENOBUFS) => changed = true,
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }
}

/// Whether it is something else than that a neighbour was met, of which a busy node is told all the time. (A
/// message begins with `struct nlmsghdr`, linux/netlink.h; behind it, the family comes first.)
fn is_change(told: &[u8; 64]) -> bool {
    let [_, _, _, _, a, b, ..] = *told;
    !NEIGHBOURS.contains(&u16::from_ne_bytes([a, b])) || told[16] == BRIDGE
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
        assert!(!changes.wait(SHORT).unwrap());
        handle.set_up(1).unwrap();
        assert!(changes.wait(LONG).unwrap());
        // What the kernel does by itself when a link comes up.
        while changes.wait(Duration::from_millis(100)).unwrap() {}
        let address: IpNetwork = "192.0.2.1/24".parse().unwrap();
        handle.add_address(&Address::new(1, address)).unwrap();
        assert!(changes.wait(LONG).unwrap());
        let waker = netns.run(|| changes.waker()).unwrap().unwrap();
        let waits = std::thread::spawn(move || changes.wait(LONG));
        waker.wake().unwrap();
        assert!(waits.join().unwrap().unwrap());
    }
}
