//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::{Error, Handle, family};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

/// How far an address or a route is valid (`rtm_scope`, `linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere.
    Universe,
    /// In this site (IPv6, historical).
    Site,
    /// On this link.
    Link,
    /// On this host.
    Host,
    /// Another number.
    Other(u8),
}

impl From<u8> for Scope {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Universe,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }
}

impl From<Scope> for u8 {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Universe => 0,
            Scope::Site => 200,
            Scope::Link => 253,
            Scope::Host => 254,
            Scope::Other(number) => number,
        }
    }
}

/// An address of a link, to add or as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address with its prefix length: `10.244.1.5/24`.
    pub address: IpNetwork,
    /// The other end of a point-to-point link; none: the same as the address.
    pub peer: Option<IpAddr>,
    /// IPv4 broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// How far it is valid; the kernel decides for IPv6.
    pub scope: Scope,
    /// Usable at once, without duplicate address detection (IPv6, `IFA_F_NODAD`).
    pub nodad: bool,
    /// Does not bring the route to its prefix (`IFA_F_NOPREFIXROUTE`).
    pub noprefixroute: bool,
    /// Duplicate address detection has not ended; reported only.
    pub tentative: bool,
    /// Duplicate address detection found another owner; reported only.
    pub dad_failed: bool,
}

impl Address {
    /// A plain address; `nodad` is set, as addresses given by a range's owner want it.
    #[must_use]
    pub fn new(link: u32, address: IpNetwork) -> Self {
        Self {
            link,
            address,
            peer: None,
            broadcast: None,
            scope: Scope::Universe,
            nodad: true,
            noprefixroute: false,
            tentative: false,
            dad_failed: false,
        }
    }

    fn message(&self) -> AddressMessage {
        let ip = self.address.ip();
        let mut flags = AddressFlags::empty();
        // The flag means nothing to IPv4, which stores and shows it all the same.
        flags.set(AddressFlags::Nodad, self.nodad && ip.is_ipv6());
        flags.set(AddressFlags::Noprefixroute, self.noprefixroute);
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = self.address.prefix();
        message.header.scope = AddressScope::from(u8::from(self.scope));
        message.header.index = self.link;
        message.attributes.push(AddressAttribute::Local(ip));
        message
            .attributes
            .push(AddressAttribute::Address(self.peer.unwrap_or(ip)));
        message
            .attributes
            .extend(self.broadcast.map(AddressAttribute::Broadcast));
        // The header has 8 bits for flags, noprefixroute is the tenth: always the attribute.
        message.attributes.push(AddressAttribute::Flags(flags));
        message
    }
}

impl Handle {
    /// Adds an address. `EEXIST` when the link has it, `ENODEV` when there is no such link.
    ///
    /// # Errors
    /// [`Error`]; `EACCES` when IPv6 is disabled on the link.
    pub fn add_address(&mut self, address: &Address) -> Result<(), Error> {
        self.put_address("add", address, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds an address or, when the link has it, gives it these flags.
    ///
    /// # Errors
    /// As [`Handle::add_address`], without `EEXIST`.
    pub fn replace_address(&mut self, address: &Address) -> Result<(), Error> {
        self.put_address("set", address, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn put_address(&mut self, verb: &str, address: &Address, flags: u16) -> Result<(), Error> {
        let what = format_args!(
            "{verb} address {} on link number {}",
            address.address, address.link
        );
        self.socket
            .request_message(&what, flags, &Message::NewAddress(address.message()))
    }

    /// Deletes an address. `EADDRNOTAVAIL` when the link doesn't have it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_address(&mut self, link: u32, address: IpNetwork) -> Result<(), Error> {
        let what = format_args!("delete address {address} from link number {link}");
        let message = Message::DelAddress(Address::new(link, address).message());
        self.socket.request_message(&what, 0, &message)
    }

    /// The addresses of a link, or of all.
    ///
    /// # Errors
    /// [`Error`]; `ENODEV` when there is no such link.
    pub fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, Error> {
        let mut query = AddressMessage::default();
        query.header.index = link.unwrap_or(0);
        let answers = self
            .socket
            .dump_messages(&"list addresses", &Message::GetAddress(query))?;
        Ok(answers.into_iter().filter_map(address_of).collect())
    }
}

fn address_of(answer: Message) -> Option<Address> {
    let Message::NewAddress(message) = answer else {
        return None;
    };
    let (mut local, mut remote, mut broadcast) = (None, None, None);
    let mut flags = AddressFlags::empty();
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => remote = Some(ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(ip),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // IPv6 says IFA_LOCAL only where there is a peer.
    let ip = local.or(remote)?;
    let mut address = Address::new(
        message.header.index,
        IpNetwork::new(ip, message.header.prefix_len).ok()?,
    );
    address.peer = remote.filter(|remote| *remote != ip);
    address.broadcast = broadcast;
    address.scope = Scope::from(u8::from(message.header.scope));
    address.nodad = flags.contains(AddressFlags::Nodad);
    address.noprefixroute = flags.contains(AddressFlags::Noprefixroute);
    address.tentative = flags.contains(AddressFlags::Tentative);
    address.dad_failed = flags.contains(AddressFlags::Dadfailed);
    Some(address)
}
