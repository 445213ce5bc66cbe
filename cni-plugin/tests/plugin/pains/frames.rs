//! Frames as a namespace's links see them.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nodekit::netns::NetNs;
use nodekit::route::Mac;

use crate::node::PATIENCE;

/// An announcement: an ARP request for its own address (RFC 5227, section 3), or a neighbour
/// advertisement that nobody asked for (RFC 4861, section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// Everything that comes to a namespace's links from now on.
pub(crate) struct Frames(OwnedFd);

impl Frames {
    pub(crate) fn of(netns: &NetNs) -> Self {
        let open = || {
            let family = AddressFamily::Packet;
            let protocol = SockProtocol::EthAll;
            let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
            fd
        };
        Self(netns.run(open).unwrap())
    }

    /// Whether an announcement comes.
    pub(crate) fn has(&self, wanted: Announcement) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut frame = [0; 2048];
            let Ok(length) = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) else {
                continue;
            };
            if announcement(&frame[..length]) == Some(wanted) {
                return true;
            }
        }
        false
    }
}

fn announcement(frame: &[u8]) -> Option<Announcement> {
    let kind: [u8; 2] = frame.get(12..14)?.try_into().ok()?;
    let body = frame.get(14..)?;
    match kind {
        // Request; sender's and target's address.
        [0x08, 0x06] if body.get(6..8)? == [0, 1] && body.get(14..18)? == body.get(24..28)? => {
            let address: [u8; 4] = body.get(14..18)?.try_into().ok()?;
            Some(Announcement {
                address: address.into(),
                mac: Mac(body.get(8..14)?.try_into().ok()?),
            })
        }
        // ICMPv6, neighbour advertisement, not solicited, with the target's own address as option.
        [0x86, 0xdd] if *body.get(6)? == 58 && *body.get(40)? == 136 => {
            let address: [u8; 16] = body.get(48..64)?.try_into().ok()?;
            let solicited = body.get(44)? & 0x40 != 0;
            let option = body.get(64..66)? == [2, 1];
            let mac = Mac(body.get(66..72)?.try_into().ok()?);
            (option && !solicited).then_some(Announcement {
                address: address.into(),
                mac,
            })
        }
        _ => None,
    }
}
