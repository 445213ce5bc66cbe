//! The host ports that are in the tables, for those who look at them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_types::{Error, PortMapping, Protocol};
use nodekit::nft::{Data, Element, Value};
use serde_json::{Value as Json, json};

use super::config::{name_of, number_of};
use super::plan::{TARGETS, TARGETS_OF_ADDRESS};
use crate::tables::{Owner, Tables};

/// A host port and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    mapping: PortMapping,
    to: SocketAddr,
}

/// Every host port with its owner.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn listed(tables: &mut Tables) -> Result<Vec<(Owner, Listed)>, Error> {
    let owned = tables.owned(&[TARGETS, TARGETS_OF_ADDRESS])?;
    let listed = owned
        .into_iter()
        .filter_map(|(owner, element)| Some((owner, Listed::read(&element)?)));
    Ok(listed.collect())
}

impl Listed {
    /// `None` for an element that a port's cannot be.
    fn read(element: &Element) -> Option<Self> {
        let Some(Data::Value(target)) = &element.data else {
            return None;
        };
        let (to, end) = address(target, target.bytes().len().checked_sub(4)?)?;
        let to = SocketAddr::new(to?, port(target, end)?);
        let (host_ip, end) = address(&element.key, element.key.bytes().len().checked_sub(8)?)?;
        let [number] = element.key.field(end)?;
        let mut protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
        let mapping = PortMapping {
            host_port: port(&element.key, end + 4)?,
            container_port: to.port(),
            protocol: protocols.find(|protocol| number_of(*protocol) == number)?,
            host_ip,
        };
        Some(Self { mapping, to })
    }

    pub(crate) fn to_json(&self) -> Json {
        let PortMapping {
            host_port,
            protocol,
            host_ip,
            ..
        } = self.mapping;
        json!({
            "hostIP": host_ip,
            "hostPort": host_port,
            "protocol": protocol.to_string(),
            "address": self.to.ip(),
            "containerPort": self.to.port(),
        })
    }
}

/// As `8080/tcp->10.1.0.2:80`.
impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = name_of(&self.mapping);
        let short = name.strip_prefix("host port ").unwrap_or(&name);
        write!(f, "{short}->{}", self.to)
    }
}

/// The address of so many bytes that a value begins with, and where it ends; no bytes are none.
fn address(value: &Value, length: usize) -> Option<(Option<IpAddr>, usize)> {
    let address = match length {
        0 => None,
        4 => Some(IpAddr::from(value.field::<4>(0)?)),
        16 => Some(IpAddr::from(value.field::<16>(0)?)),
        _ => return None,
    };
    Some((address, length))
}

fn port(value: &Value, offset: usize) -> Option<u16> {
    value.field(offset).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &[&[u8]], target: &[&[u8]]) -> Option<String> {
        let target = Data::Value(Value::concat(target));
        let element = Element::to(Value::concat(key), target);
        Listed::read(&element).map(|listed| listed.to_string())
    }

    #[test]
    fn ports_of_all_and_of_one_address() {
        let (port, to) = ([31, 144], [0, 80]);
        let pod = [10, 1, 0, 2];
        let all = read(&[&[6], &port], &[&pod, &to]);
        assert_eq!(all.as_deref(), Some("8080/tcp->10.1.0.2:80"));
        let one = read(&[&[192, 0, 2, 1], &[17], &port], &[&pod, &to]);
        assert_eq!(one.as_deref(), Some("192.0.2.1:8080/udp->10.1.0.2:80"));
        let local = std::net::Ipv6Addr::LOCALHOST.octets();
        let ipv6 = read(&[&local, &[132], &port], &[&local, &to]);
        assert_eq!(ipv6.as_deref(), Some("[::1]:8080/sctp->[::1]:80"));
        for (key, target) in [
            (&[&[6][..]][..], &[&pod[..], &to[..]][..]),
            (&[&[6], &port], &[&to]),
            (&[&[99], &port], &[&pod, &to]),
            (&[], &[]),
        ] {
            assert_eq!(read(key, target), None);
        }
    }
}
