//! Entries of the routing tables.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use nix::errno::Errno;

use super::{Error, Handle, Scope, family};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

/// The table that forwarding and local traffic use unless a rule says otherwise.
pub const TABLE_MAIN: u32 = 254;
/// The kernel's own table of the host's addresses.
pub const TABLE_LOCAL: u32 = 255;

/// `RT_SCOPE_NOWHERE`: in a deletion, "whatever the scope".
const ANY_SCOPE: u8 = 255;

/// `0.0.0.0/0`.
pub const EVERYTHING_V4: Ipv4Network = match Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0) {
    Some(network) => network,
    None => unreachable!(),
};
/// `::/0`.
pub const EVERYTHING_V6: Ipv6Network = match Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0) {
    Some(network) => network,
    None => unreachable!(),
};

/// What happens to packets of a route (`rtm_type`, `linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RouteKind {
    /// Sent on.
    #[default]
    Unicast,
    /// Delivered here.
    Local,
    /// Dropped silently.
    Blackhole,
    /// Refused with "host unreachable".
    Unreachable,
    /// Refused with "administratively prohibited".
    Prohibit,
    /// Another number, as broadcast (3) or multicast (5).
    Other(u8),
}

impl From<u8> for RouteKind {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            other => Self::Other(other),
        }
    }
}

impl From<RouteKind> for u8 {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Unicast => 1,
            RouteKind::Local => 2,
            RouteKind::Blackhole => 6,
            RouteKind::Unreachable => 7,
            RouteKind::Prohibit => 8,
            RouteKind::Other(number) => number,
        }
    }
}

/// A route, to add or as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where packets go; `0.0.0.0/0` and `::/0` are the default routes. Host bits are ignored.
    pub destination: IpNetwork,
    /// What happens to them.
    pub kind: RouteKind,
    /// The next hop; it may be an IPv6 address for an IPv4 destination (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The link's index.
    pub link: Option<u32>,
    /// The source address preferred for packets from here.
    pub source: Option<IpAddr>,
    /// Which table; [`TABLE_MAIN`] by default.
    pub table: u32,
    /// The metric: the lowest wins. None: 0 for IPv4, 1024 for IPv6.
    pub priority: Option<u32>,
    /// How far the destination is. None in an addition: as ip-route(8) decides; in a deletion: any.
    pub scope: Option<Scope>,
    /// Who made it (`rtm_protocol`); 3 ("boot", ip-route(8)'s) by default, 2 is the kernel.
    pub protocol: u8,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u32>,
    /// The TCP segment size advertised, in bytes.
    pub advmss: Option<u32>,
    /// The gateway is on the link though no address of the link says so.
    pub onlink: bool,
}

impl Route {
    /// A unicast route to a destination in the main table, without a next hop yet.
    #[must_use]
    pub fn to(destination: IpNetwork) -> Self {
        Self {
            destination,
            kind: RouteKind::Unicast,
            gateway: None,
            link: None,
            source: None,
            table: TABLE_MAIN,
            priority: None,
            scope: None,
            protocol: 3,
            mtu: None,
            advmss: None,
            onlink: false,
        }
    }

    /// A default route by a gateway, of the gateway's family.
    #[must_use]
    pub fn default_by(gateway: IpAddr) -> Self {
        let everything = match gateway {
            IpAddr::V4(_) => IpNetwork::V4(EVERYTHING_V4),
            IpAddr::V6(_) => IpNetwork::V6(EVERYTHING_V6),
        };
        Self {
            gateway: Some(gateway),
            ..Self::to(everything)
        }
    }

    fn message(&self, scope: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination.ip());
        header.destination_prefix_length = self.destination.prefix();
        header.protocol = RouteProtocol::from(self.protocol);
        header.kind = RouteType::from(u8::from(self.kind));
        header.scope = RouteScope::from(scope);
        header.flags.set(RouteFlags::Onlink, self.onlink);
        // Numbers above 255 only fit the attribute, which wins.
        header.table = u8::try_from(self.table).unwrap_or_default();
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        if self.destination.prefix() > 0 {
            attributes.push(RouteAttribute::Destination(
                self.destination.network().into(),
            ));
        }
        attributes.extend(
            self.gateway
                .map(|gateway| match (gateway, self.destination) {
                    (IpAddr::V6(gateway), IpNetwork::V4(_)) => {
                        RouteAttribute::Via(RouteVia::Inet6(gateway))
                    }
                    _ => RouteAttribute::Gateway(gateway.into()),
                }),
        );
        attributes.extend(self.link.map(RouteAttribute::Oif));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        attributes.extend(self.priority.map(RouteAttribute::Priority));
        let metrics: Vec<_> = self
            .mtu
            .map(RouteMetric::Mtu)
            .into_iter()
            .chain(self.advmss.map(RouteMetric::Advmss))
            .collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }

    /// ip-route(8)'s choice where none is given.
    fn natural_scope(&self) -> u8 {
        let scope = self.scope.unwrap_or(match (self.kind, self.gateway) {
            (RouteKind::Local, _) => Scope::Host,
            (RouteKind::Unicast, None) if self.destination.is_ipv4() => Scope::Link,
            _ => Scope::Universe,
        });
        scope.into()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link {
            write!(f, " on link number {link}")?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " in table {}", self.table)?;
        }
        Ok(())
    }
}

/// Which routes to list; what is `None` doesn't matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteFilter {
    /// Only those with this link as their way out.
    pub link: Option<u32>,
    /// Only those of this table.
    pub table: Option<u32>,
}

impl Handle {
    /// Adds a route. `EEXIST` when there is one to the destination with the same priority,
    /// `ENETUNREACH` when the gateway can't be reached, `ENODEV` when there is no such link.
    ///
    /// # Errors
    /// [`Error`].
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        self.put_route("add", route, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route in place of the one to the same destination with the same priority.
    ///
    /// # Errors
    /// As [`Handle::add_route`], without `EEXIST`.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        self.put_route("set", route, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn put_route(&mut self, verb: &str, route: &Route, flags: u16) -> Result<(), Error> {
        let message = Message::NewRoute(route.message(route.natural_scope()));
        self.socket
            .request_message(&format_args!("{verb} route {route}"), flags, &message)
    }

    /// Deletes the first route that agrees in all that is given, metrics included. `ESRCH` when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let mut message = route.message(route.scope.map_or(ANY_SCOPE, u8::from));
        message.header.protocol = RouteProtocol::Unspec;
        let what = format_args!("delete route {route}");
        self.socket
            .request_message(&what, 0, &Message::DelRoute(message))
    }

    /// The route that a packet from here to `destination` would take. `ENETUNREACH` when there is
    /// none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn route_to(&mut self, destination: IpAddr) -> Result<Route, Error> {
        let what = format_args!("look up the route to {destination}");
        let mut query = RouteMessage::default();
        query.header.address_family = family(destination);
        query.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        query
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        let answer = self
            .socket
            .get_one_message(&what, &Message::GetRoute(query))?;
        route_of(answer).ok_or_else(|| Error::malformed(&what, "an answer that is no route"))
    }

    /// The routes of both families that pass the filter; the kernel's own in
    /// [`TABLE_LOCAL`] are among them unless a table is given.
    ///
    /// # Errors
    /// [`Error`].
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        let mut found = Vec::new();
        for any in [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ] {
            let mut query = RouteMessage::default();
            query.header.address_family = family(any);
            query
                .attributes
                .extend(filter.link.map(RouteAttribute::Oif));
            query
                .attributes
                .extend(filter.table.map(RouteAttribute::Table));
            match self
                .socket
                .dump_messages(&"list routes", &Message::GetRoute(query))
            {
                Ok(answers) => found.extend(answers.into_iter().filter_map(route_of)),
                // A table exists from its first route on; a kernel may lack IPv6.
                Err(error)
                    if matches!(error.errno(), Some(Errno::ENOENT | Errno::EAFNOSUPPORT)) => {}
                Err(error) => return Err(error),
            }
        }
        // The kernel filters in strict mode; a caller's expectation is not left to it alone.
        found.retain(|route: &Route| {
            filter.link.is_none_or(|link| route.link == Some(link))
                && filter.table.is_none_or(|table| route.table == table)
        });
        Ok(found)
    }
}

fn route_of(answer: Message) -> Option<Route> {
    let Message::NewRoute(message) = answer else {
        return None;
    };
    let header = message.header;
    let everything: IpAddr = match header.address_family {
        netlink_packet_route::AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        netlink_packet_route::AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let prefix = header.destination_prefix_length;
    let mut route = Route::to(IpNetwork::new(everything, prefix).ok()?);
    route.kind = RouteKind::from(u8::from(header.kind));
    route.scope = Some(Scope::from(u8::from(header.scope)));
    route.protocol = header.protocol.into();
    route.table = u32::from(header.table);
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = IpNetwork::new(ip_of(&address)?, prefix).ok()?;
            }
            RouteAttribute::Gateway(address) => route.gateway = ip_of(&address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.gateway = Some(address.into()),
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::PrefSource(address) => route.source = ip_of(&address),
            RouteAttribute::Table(table) => route.table = table,
            RouteAttribute::Priority(priority) => route.priority = Some(priority),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(bytes) => route.mtu = Some(bytes),
                        RouteMetric::Advmss(bytes) => route.advmss = Some(bytes),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(route)
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
