//! Services and destinations, and how netlink says them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use crate::netlink::{AttrWriter, Attrs, Error};

/// Attributes of a service (`IPVS_SVC_ATTR_*`).
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const FIREWALL_MARK: u16 = 5;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
}

/// Attributes of a destination (`IPVS_DEST_ATTR_*`).
mod destination {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const METHOD: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER_THRESHOLD: u16 = 5;
    pub(super) const LOWER_THRESHOLD: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const FAMILY: u16 = 11;
}

/// `AF_INET`
const INET: u16 = 2;
/// `AF_INET6`
const INET6: u16 = 10;

/// `IP_VS_SVC_F_PERSISTENT`
const PERSISTENT: u32 = 0x1;
/// `IP_VS_SVC_F_SCHED_SH_PORT`, and the same of `mh`.
const HASH_PORT: u32 = 0x10;
/// `IP_VS_CONN_F_MASQ`
const MASQUERADE: u32 = 0;

/// What tells a service from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its address.
    pub ip: IpAddr,
    /// Its transport protocol: `IPPROTO_TCP`, `IPPROTO_UDP` or `IPPROTO_SCTP`.
    pub protocol: u8,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for ServiceKey {
    /// As `tcp 10.0.0.1:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            132 => f.write_str("sctp"),
            other => write!(f, "protocol {other}"),
        }?;
        write!(f, " {}", SocketAddr::new(self.ip, self.port))
    }
}

impl ServiceKey {
    pub(super) fn write(&self, writer: &mut AttrWriter) {
        writer
            .u16_ne(service::FAMILY, family(self.ip))
            .u16_ne(service::PROTOCOL, self.protocol.into())
            .bytes(service::ADDRESS, &address(self.ip))
            .u16_be(service::PORT, self.port);
    }
}

/// A service to make, or as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What tells it from others.
    pub key: ServiceKey,
    /// How a destination is chosen: `rr`, `wrr`, `lc`, `wlc`, `sh`, `mh` …; the kernel loads module
    /// `ip_vs_NAME` where it can.
    pub scheduler: String,
    /// For how many seconds after its last connection ended a client (by its whole address) gets the
    /// same destination.
    pub persistence: Option<NonZeroU32>,
    /// Schedulers `sh` and `mh` go by the client's port as well as by its address.
    pub hash_port: bool,
}

impl fmt::Display for Service {
    /// As `tcp 10.0.0.1:80 (rr)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.key, self.scheduler)?;
        if self.hash_port {
            f.write_str(" with the port")?;
        }
        if let Some(seconds) = self.persistence {
            write!(f, ", persistent for {seconds} s")?;
        }
        f.write_str(")")
    }
}

impl Service {
    pub(super) fn write(&self, writer: &mut AttrWriter) {
        let mut flags = 0;
        if self.persistence.is_some() {
            flags |= PERSISTENT;
        }
        if self.hash_port {
            flags |= HASH_PORT;
        }
        // `struct ip_vs_flags`: the flags, and those of them that are meant.
        let flags = [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        // The part of a client's address that persistence goes by: a mask, or a prefix's length.
        let whole = match self.key.ip {
            IpAddr::V4(_) => u32::MAX,
            IpAddr::V6(_) => 128,
        };
        self.key.write(writer);
        writer
            .string(service::SCHEDULER, &self.scheduler)
            .bytes(service::FLAGS, &flags)
            .u32_ne(
                service::TIMEOUT,
                self.persistence.map_or(0, NonZeroU32::get),
            )
            .u32_ne(service::NETMASK, whole);
    }

    /// Reads one; `None`: it is found by a firewall mark.
    pub(super) fn read(
        what: &dyn fmt::Display,
        attributes: &Attrs<'_>,
    ) -> Result<Option<Self>, Error> {
        if attributes.clone().find(service::FIREWALL_MARK).is_some() {
            return Ok(None);
        }
        let read = Self::of_address(attributes);
        read.map(Some)
            .ok_or_else(|| Error::malformed(what, "half a service"))
    }

    fn of_address(attributes: &Attrs<'_>) -> Option<Self> {
        let find = |kind| attributes.clone().find(kind);
        let family = find(service::FAMILY)?.u16_ne()?;
        let key = ServiceKey {
            ip: ip_of(family, find(service::ADDRESS)?.payload)?,
            protocol: find(service::PROTOCOL)?.u16_ne()?.try_into().ok()?,
            port: find(service::PORT)?.u16_be()?,
        };
        let flags = find(service::FLAGS)?.u32_ne()?;
        let seconds = find(service::TIMEOUT)?.u32_ne()?;
        Some(Self {
            key,
            scheduler: find(service::SCHEDULER)?.text()?.to_owned(),
            persistence: NonZeroU32::new(seconds).filter(|_| flags & PERSISTENT != 0),
            hash_port: flags & HASH_PORT != 0,
        })
    }
}

/// A destination of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its address, of the service's family.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new connections, relative to the others' where the scheduler knows weights;
    /// 0: it gets no new ones and keeps those that it has.
    pub weight: u32,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.ip, self.port);
        write!(f, "{address} (weight {})", self.weight)
    }
}

impl Destination {
    /// What tells it from the service's others.
    pub(super) fn name(writer: &mut AttrWriter, ip: IpAddr, port: u16) {
        writer
            .bytes(destination::ADDRESS, &address(ip))
            .u16_be(destination::PORT, port)
            .u16_ne(destination::FAMILY, family(ip));
    }

    pub(super) fn write(&self, writer: &mut AttrWriter) {
        Self::name(writer, self.ip, self.port);
        writer
            .u32_ne(destination::METHOD, MASQUERADE)
            .u32_ne(destination::WEIGHT, self.weight)
            // No limits on how many connections it has.
            .u32_ne(destination::UPPER_THRESHOLD, 0)
            .u32_ne(destination::LOWER_THRESHOLD, 0);
    }
}

/// A destination as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationState {
    /// What it is.
    pub destination: Destination,
    /// How many of its connections are established, by TCP or SCTP.
    pub active: u32,
    /// How many other connections are remembered: ending ones, datagrams.
    pub inactive: u32,
}

impl DestinationState {
    pub(super) fn read(attributes: &Attrs<'_>) -> Option<Self> {
        let find = |kind| attributes.clone().find(kind);
        let family = find(destination::FAMILY)?.u16_ne()?;
        Some(Self {
            destination: Destination {
                ip: ip_of(family, find(destination::ADDRESS)?.payload)?,
                port: find(destination::PORT)?.u16_be()?,
                weight: find(destination::WEIGHT)?.u32_ne()?,
            },
            active: find(destination::ACTIVE)?.u32_ne()?,
            inactive: find(destination::INACTIVE)?.u32_ne()?,
        })
    }
}

fn family(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => INET,
        IpAddr::V6(_) => INET6,
    }
}

/// `union nf_inet_addr`: IPv4 takes the first 4 of its 16 bytes.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn ip_of(family: u16, address: &[u8]) -> Option<IpAddr> {
    match family {
        INET => Some(Ipv4Addr::from(*address.first_chunk()?).into()),
        INET6 => Some(Ipv6Addr::from(*address.first_chunk()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::{anything, attrs};

    // As Linux 6.1 lists them, less what it counted.
    const WEB: &str = "06000100020000000600020006000000140003000a60000100000000000000000000000006000400\
        0050000007000600727200000c00070003000000ffffffff08000800302a000008000900ffffffff";
    const DNS: &str = "060001000a000000060002001100000014000300fd00009600000000000000000000000106000400\
        00350000070006006d6800000c00070012000000ffffffff08000800000000000800090080000000";
    const MARKED: &str = "0600010002000000080005000700000007000600727200000c00070002000000ffffffff08000800\
        0000000008000900ffffffff";
    const ENDPOINT: &str = "140001000af40005000000000000000000000000060002001f900000080003000000000008000400\
        0300000005000d000000000006000e000000000006000f0000000000080005000000000008000600\
        0000000008000700000000000800080000000000080009000000000006000b0002000000";

    fn bytes(hex: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    fn service(hex: &str) -> Option<Service> {
        Service::read(&"list", &attrs(&bytes(hex))).unwrap()
    }

    fn web() -> Service {
        Service {
            key: ServiceKey {
                ip: [10, 96, 0, 1].into(),
                protocol: 6,
                port: 80,
            },
            scheduler: "rr".to_owned(),
            persistence: NonZeroU32::new(10_800),
            hash_port: false,
        }
    }

    fn dns() -> Service {
        Service {
            key: ServiceKey {
                ip: "fd00:96::1".parse().unwrap(),
                protocol: 17,
                port: 53,
            },
            scheduler: "mh".to_owned(),
            persistence: None,
            hash_port: true,
        }
    }

    #[test]
    fn services_are_read() {
        assert_eq!(service(WEB), Some(web()));
        assert_eq!(service(DNS), Some(dns()));
        assert_eq!(service(MARKED), None);
    }

    #[test]
    fn services_are_said_as_they_are_read() {
        for service in [web(), dns()] {
            let mut writer = AttrWriter::default();
            service.write(&mut writer);
            let written = writer.finish().unwrap();
            assert_eq!(Service::read(&"list", &attrs(&written)), Ok(Some(service)));
        }
    }

    #[test]
    fn half_a_service_is_an_error() {
        let cut = bytes(WEB);
        let read = Service::read(&"list", &attrs(&cut[..cut.len() / 2]));
        assert_eq!(read.unwrap_err().to_string(), "list: half a service");
    }

    #[test]
    fn destinations_are_read() {
        let expected = DestinationState {
            destination: Destination {
                ip: [10, 244, 0, 5].into(),
                port: 8080,
                weight: 3,
            },
            active: 0,
            inactive: 0,
        };
        assert_eq!(
            DestinationState::read(&attrs(&bytes(ENDPOINT))),
            Some(expected)
        );
    }

    #[test]
    fn words_name_the_protocol_the_address_and_what_is_chosen_by() {
        assert_eq!(
            web().to_string(),
            "tcp 10.96.0.1:80 (rr, persistent for 10800 s)"
        );
        assert_eq!(dns().to_string(), "udp [fd00:96::1]:53 (mh with the port)");
        let odd = ServiceKey {
            protocol: 132,
            ..web().key
        };
        assert_eq!(odd.to_string(), "sctp 10.96.0.1:80");
    }

    proptest! {
        #[test]
        fn random_attributes_never_panic(attributes in anything::attributes()) {
            let _ = Service::read(&"list", &attrs(&attributes));
            let _ = DestinationState::read(&attrs(&attributes));
        }
    }
}
