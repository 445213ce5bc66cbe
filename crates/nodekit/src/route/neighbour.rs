//! Neighbours: which Ethernet address an IP address has on a link (arp(7), RFC 4861).

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use nix::errno::Errno;

use super::{Error, Handle, Mac, family};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

/// What the kernel knows about a neighbour (`NUD_*`, `linux/neighbour.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Being looked for, for the first time.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Not confirmed lately; used, and checked when used.
    Stale,
    /// Used lately; about to be checked.
    Delay,
    /// Being checked.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Written by an administrator; never checked.
    Permanent,
    /// Another number.
    Other(u16),
}

impl From<u16> for NeighbourState {
    fn from(number: u16) -> Self {
        match number {
            0x01 => Self::Incomplete,
            0x02 => Self::Reachable,
            0x04 => Self::Stale,
            0x08 => Self::Delay,
            0x10 => Self::Probe,
            0x20 => Self::Failed,
            0x40 => Self::NoArp,
            0x80 => Self::Permanent,
            other => Self::Other(other),
        }
    }
}

impl From<NeighbourState> for u16 {
    fn from(state: NeighbourState) -> Self {
        match state {
            NeighbourState::Incomplete => 0x01,
            NeighbourState::Reachable => 0x02,
            NeighbourState::Stale => 0x04,
            NeighbourState::Delay => 0x08,
            NeighbourState::Probe => 0x10,
            NeighbourState::Failed => 0x20,
            NeighbourState::NoArp => 0x40,
            NeighbourState::Permanent => 0x80,
            NeighbourState::Other(number) => number,
        }
    }
}

/// A neighbour of a link, to add or as the kernel describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// The neighbour's IP address.
    pub address: IpAddr,
    /// Its Ethernet address, when it is known.
    pub mac: Option<Mac>,
    /// What is known about it.
    pub state: NeighbourState,
}

impl Neighbour {
    /// A permanent neighbour.
    #[must_use]
    pub fn permanent(link: u32, address: IpAddr, mac: Mac) -> Self {
        Self {
            link,
            address,
            mac: Some(mac),
            state: NeighbourState::Permanent,
        }
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = key(self.link, self.address);
        message.header.state = u16::from(self.state).into();
        let mac = self
            .mac
            .map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.extend(mac);
        message
    }
}

impl Handle {
    /// Adds a neighbour. `EEXIST` when the link has one of this IP address.
    ///
    /// # Errors
    /// [`Error`].
    pub fn add_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), Error> {
        self.put_neighbour("add", neighbour, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a neighbour or changes the one of the same IP address.
    ///
    /// # Errors
    /// [`Error`].
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), Error> {
        self.put_neighbour("set", neighbour, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn put_neighbour(&mut self, verb: &str, of: &Neighbour, flags: u16) -> Result<(), Error> {
        let what = format_args!("{verb} neighbour {} on link number {}", of.address, of.link);
        self.socket
            .request_message(&what, flags, &Message::NewNeighbour(of.message()))
    }

    /// Deletes a neighbour. `ENOENT` when there is none of this IP address.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), Error> {
        let what = format_args!("delete neighbour {address} on link number {link}");
        self.socket
            .request_message(&what, 0, &Message::DelNeighbour(key(link, address)))
    }

    /// The neighbours of a link, or of all, of both families.
    ///
    /// # Errors
    /// [`Error`].
    pub fn neighbours(&mut self, link: Option<u32>) -> Result<Vec<Neighbour>, Error> {
        let mut query = NeighbourMessage::default();
        query
            .attributes
            .extend(link.map(NeighbourAttribute::IfIndex));
        let answers = self
            .socket
            .dump_messages(&"list neighbours", &Message::GetNeighbour(query))?;
        Ok(answers.into_iter().filter_map(neighbour_of).collect())
    }

    /// Deletes every neighbour of a link but the permanent ones and those the kernel itself
    /// needs (`NUD_NOARP`); gives their number.
    ///
    /// # Errors
    /// The first [`Error`] met, other than a neighbour's being gone already.
    pub fn flush_neighbours(&mut self, link: u32) -> Result<usize, Error> {
        let mut flushed = 0;
        for neighbour in self.neighbours(Some(link))? {
            if matches!(
                neighbour.state,
                NeighbourState::Permanent | NeighbourState::NoArp
            ) {
                continue;
            }
            match self.delete_neighbour(link, neighbour.address) {
                Ok(()) => flushed += 1,
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(flushed)
    }
}

fn key(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
    message
}

fn neighbour_of(answer: Message) -> Option<Neighbour> {
    let Message::NewNeighbour(message) = answer else {
        return None;
    };
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(to) => {
                address = match to {
                    NeighbourAddress::Inet(ip) => Some(ip.into()),
                    NeighbourAddress::Inet6(ip) => Some(ip.into()),
                    _ => None,
                };
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
            _ => {}
        }
    }
    let state = NeighbourState::from(u16::from(message.header.state));
    Some(Neighbour {
        link: message.header.ifindex,
        address: address?,
        mac,
        state,
    })
}
