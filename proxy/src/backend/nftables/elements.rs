//! Sets and elements of the plan as the kernel takes them, and back.
//!
//! The fields of a key stand one after the other, each padded to 4 bytes: an address in network
//! order, a protocol in one byte, a port in network order, a slot in the machine's order.

use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use lb_model::{Family, FrontendAddress, Protocol};
use lb_plan::nftables::{AFFINITY_SIZE, Chain, Element, Set, Target};
use nodekit::nft::{self, Data, Datatype, MapData, SetFlags, Type, Value, Verdict};

/// Bytes of a field that is no IPv6 address.
const FIELD: usize = 4;

/// The type of an address.
const fn address_type(family: Family) -> Datatype {
    match family {
        Family::V4 => Datatype::Ipv4Addr,
        Family::V6 => Datatype::Ipv6Addr,
    }
}

/// The set or map as it is made.
pub(super) fn definition(family: Family, set: Set) -> nft::Set {
    let ip = address_type(family);
    let (protocol, port) = (Datatype::InetProto, Datatype::InetService);
    // `mark` is nft's name for a number in the machine's order, as a slot is.
    let slot = Datatype::Mark;
    let target = MapData::Value(Type::from([ip, port]));
    let name = set.name();
    match set {
        Set::Frontends | Set::AffinityLearn => {
            nft::Set::map(name, [ip, protocol, port], MapData::Verdict)
        }
        Set::NodePorts | Set::AffinityLearnPorts => {
            nft::Set::map(name, [protocol, port], MapData::Verdict)
        }
        Set::NodePortAddresses | Set::ClusterIps => nft::Set::new(name, ip),
        Set::Endpoints => nft::Set::map(name, [ip, protocol, port, slot], target),
        Set::NodePortEndpoints => nft::Set::map(name, [protocol, port, slot], target),
        Set::SourceRanges => ranges(nft::Set::new(name, [ip, protocol, port, ip])),
        Set::ServiceCidrs => ranges(nft::Set::new(name, [ip, protocol])),
        Set::Affinity => nft::Set {
            flags: SetFlags {
                dynamic: true,
                timeout: true,
                ..SetFlags::default()
            },
            size: Some(AFFINITY_SIZE),
            ..nft::Set::map(name, [ip, ip, protocol, port], target)
        },
        Set::Hairpin => nft::Set::new(name, [ip, ip]),
    }
}

/// Of ranges instead of single values.
fn ranges(set: nft::Set) -> nft::Set {
    nft::Set {
        flags: SetFlags {
            interval: true,
            ..SetFlags::default()
        },
        ..set
    }
}

/// The element as it is added or removed.
pub(super) fn encode(element: &Element) -> nft::Element {
    match element {
        Element::Frontend { address, class } => {
            nft::Element::to(aim(address).value(), goto(&Chain::Class(*class)))
        }
        Element::Learn { address, seconds } => {
            nft::Element::to(aim(address).value(), goto(&Chain::LearnFor(*seconds)))
        }
        Element::Endpoint {
            address,
            slot,
            target,
        } => {
            let mut data = Key::default();
            data.ip(target.ip);
            data.field(&target.port.to_be_bytes());
            nft::Element::to(endpoint_key(address, *slot), Data::Value(data.value()))
        }
        Element::SourceRange { address, source } => {
            let (mut first, mut last) = (aim(address), aim(address));
            first.ip(source.network());
            last.ip(source.broadcast());
            nft::Element {
                key_end: Some(last.value()),
                ..nft::Element::new(first.value())
            }
        }
        Element::ServiceCidr(cidr) => {
            let (mut first, mut last) = (Key::default(), Key::default());
            first.ip(cidr.network());
            first.field(&[0]);
            last.ip(cidr.broadcast());
            last.field(&[u8::MAX]);
            nft::Element {
                key_end: Some(last.value()),
                ..nft::Element::new(first.value())
            }
        }
        Element::NodePortAddress(ip) | Element::ClusterIp(ip) => {
            let mut key = Key::default();
            key.ip(*ip);
            nft::Element::new(key.value())
        }
        Element::Hairpin(ip) => {
            let mut key = Key::default();
            key.ip(*ip);
            key.ip(*ip);
            nft::Element::new(key.value())
        }
    }
}

/// The longest key: two IPv6 addresses, protocol and port.
const LONGEST: usize = 2 * 16 + 2 * FIELD;

/// A concatenation under construction.
struct Key {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            bytes: [0; LONGEST],
            len: 0,
        }
    }
}

impl Key {
    fn field(&mut self, field: &[u8]) {
        let end = self.len + field.len();
        self.bytes[self.len..end].copy_from_slice(field);
        self.len = end.next_multiple_of(FIELD);
    }

    fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.field(&ip.octets()),
            IpAddr::V6(ip) => self.field(&ip.octets()),
        }
    }

    fn value(&self) -> Value {
        Value::new(&self.bytes[..self.len])
    }
}

/// The frontend's part of a key.
fn aim(address: &FrontendAddress) -> Key {
    let mut key = Key::default();
    if let FrontendAddress::Vip { ip, .. } = address {
        key.ip(*ip);
    }
    key.field(&[address.protocol().number()]);
    key.field(&address.port().to_be_bytes());
    key
}

/// By which an endpoint is found.
pub(super) fn endpoint_key(address: &FrontendAddress, slot: u16) -> Value {
    let mut key = aim(address);
    key.field(&u32::from(slot).to_ne_bytes());
    key.value()
}

fn goto(chain: &Chain) -> Data {
    Data::Verdict(Verdict::Goto(chain.to_string()))
}

/// An element read back. `None`: not one that this version writes.
pub(super) fn decode(family: Family, set: Set, element: &nft::Element) -> Option<Element> {
    let mut key = Reader {
        family,
        bytes: element.key.bytes(),
    };
    let found = match set {
        Set::Frontends | Set::NodePorts => Element::Frontend {
            address: key.aim(set == Set::Frontends)?,
            class: gone_to(element)?.parse().ok()?,
        },
        Set::AffinityLearn | Set::AffinityLearnPorts => Element::Learn {
            address: key.aim(set == Set::AffinityLearn)?,
            seconds: learns(gone_to(element)?)?,
        },
        Set::Endpoints | Set::NodePortEndpoints => Element::Endpoint {
            address: key.aim(set == Set::Endpoints)?,
            slot: u16::try_from(u32::from_ne_bytes(key.field()?)).ok()?,
            target: target(family, element)?,
        },
        Set::SourceRanges => Element::SourceRange {
            address: key.aim(true)?,
            source: {
                let first = key.ip()?;
                let mut end = end(family, element);
                let aimed = end.as_mut().map(|end| end.aim(true).and_then(|_| end.ip()));
                range(first, aimed.map_or(Some(first), |last| last)?)?
            },
        },
        Set::ServiceCidrs => {
            let (first, mut end) = (key.ip()?, end(family, element)?);
            let (last, protocols) = (end.ip()?, (key.field()?, end.field()?));
            (protocols == ([0], [u8::MAX])).then_some(())?;
            Element::ServiceCidr(range(first, last)?)
        }
        Set::NodePortAddresses => Element::NodePortAddress(key.ip()?),
        Set::ClusterIps => Element::ClusterIp(key.ip()?),
        Set::Hairpin => {
            let (ip, again) = (key.ip()?, key.ip()?);
            (ip == again).then_some(Element::Hairpin(ip))?
        }
        Set::Affinity => return None,
    };
    key.bytes.is_empty().then_some(found)
}

/// A remembered client: (client, destination, protocol, port) and where it stays.
pub(super) struct Remembered {
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) target: Target,
}

/// An element of [`Set::Affinity`]. `None`: not one that this version makes.
pub(super) fn decode_remembered(family: Family, element: &nft::Element) -> Option<Remembered> {
    let mut key = Reader {
        family,
        bytes: element.key.bytes(),
    };
    let _client = key.ip()?;
    Some(Remembered {
        destination: key.ip()?,
        protocol: key.protocol()?,
        port: key.port()?,
        target: target(family, element)?,
    })
}

fn gone_to(element: &nft::Element) -> Option<&str> {
    match &element.data {
        Some(Data::Verdict(Verdict::Goto(chain))) => Some(chain),
        _ => None,
    }
}

fn learns(chain: &str) -> Option<NonZeroU32> {
    match chain.parse() {
        Ok(Chain::LearnFor(seconds)) => Some(seconds),
        _ => None,
    }
}

fn target(family: Family, element: &nft::Element) -> Option<Target> {
    let Some(Data::Value(value)) = &element.data else {
        return None;
    };
    let mut data = Reader {
        family,
        bytes: value.bytes(),
    };
    Some(Target {
        ip: data.ip()?,
        port: data.port()?,
    })
}

/// The last key of a range; a lone one has none, or itself.
fn end(family: Family, element: &nft::Element) -> Option<Reader<'_>> {
    let bytes = element.key_end.as_ref()?.bytes();
    Some(Reader { family, bytes })
}

/// The network from `first` to `last`.
fn range(first: IpAddr, last: IpAddr) -> Option<IpNetwork> {
    let different = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            32 - u8::try_from((a.to_bits() ^ b.to_bits()).leading_zeros()).ok()?
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            128 - u8::try_from((a.to_bits() ^ b.to_bits()).leading_zeros()).ok()?
        }
        _ => return None,
    };
    let longest = if first.is_ipv4() { 32 } else { 128 };
    let network = IpNetwork::new(first, longest - different).ok()?;
    (network.network() == first && network.broadcast() == last).then_some(network)
}

/// A concatenation that is read field by field.
struct Reader<'a> {
    family: Family,
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn field<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, _) = self.bytes.split_first_chunk()?;
        // The kernel leaves out the padding behind a lone field.
        let end = N.next_multiple_of(FIELD).min(self.bytes.len());
        self.bytes = &self.bytes[end..];
        Some(*field)
    }

    fn ip(&mut self) -> Option<IpAddr> {
        Some(match self.family {
            Family::V4 => self.field::<4>()?.into(),
            Family::V6 => self.field::<16>()?.into(),
        })
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let [number] = self.field()?;
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }

    fn port(&mut self) -> Option<u16> {
        self.field().map(u16::from_be_bytes)
    }

    fn aim(&mut self, vip: bool) -> Option<FrontendAddress> {
        let ip = if vip { Some(self.ip()?) } else { None };
        let (protocol, port) = (self.protocol()?, self.port()?);
        Some(match ip {
            Some(ip) => FrontendAddress::Vip { ip, protocol, port },
            None => FrontendAddress::NodePort {
                family: self.family,
                protocol,
                port,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(family: Family) -> Vec<Element> {
        let (ip, pod, sources) = match family {
            Family::V4 => (
                "10.96.0.1",
                "10.244.3.4",
                ["192.0.2.0/24", "192.0.2.7/32", "0.0.0.0/0"],
            ),
            Family::V6 => (
                "fd00:96::1",
                "fd00:244::4",
                ["2001:db8::/33", "::1/128", "::/0"],
            ),
        };
        let ip: IpAddr = ip.parse().unwrap();
        let pod: IpAddr = pod.parse().unwrap();
        let mut all = vec![
            Element::NodePortAddress(ip),
            Element::ClusterIp(ip),
            Element::ServiceCidr(sources[0].parse().unwrap()),
            Element::Hairpin(pod),
        ];
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let port = 443;
            for address in [
                FrontendAddress::Vip { ip, protocol, port },
                FrontendAddress::NodePort {
                    family,
                    protocol,
                    port,
                },
            ] {
                all.push(Element::Frontend {
                    address,
                    class: "vip-3-offcluster-affinity".parse().unwrap(),
                });
                all.push(Element::Learn {
                    address,
                    seconds: NonZeroU32::MAX,
                });
                let target = Target {
                    ip: pod,
                    port: 8443,
                };
                for slot in [0, 1, 0x8000, u16::MAX] {
                    all.push(Element::Endpoint {
                        address,
                        slot,
                        target,
                    });
                }
            }
            for source in sources {
                all.push(Element::SourceRange {
                    address: FrontendAddress::Vip { ip, protocol, port },
                    source: source.parse().unwrap(),
                });
            }
        }
        all
    }

    #[test]
    fn an_element_reads_back() {
        for family in Family::ALL {
            for element in elements(family) {
                let encoded = encode(&element);
                assert_eq!(
                    decode(family, element.set(), &encoded),
                    Some(element),
                    "{encoded:?}"
                );
                let key = definition(family, element.set()).key;
                assert_eq!(encoded.key.bytes().len(), key.bytes() as usize);
            }
        }
    }

    #[test]
    fn a_range_that_is_no_network_is_refused() {
        let address = FrontendAddress::Vip {
            ip: IpAddr::from([10, 96, 0, 1]),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let whole = |source: &str| {
            encode(&Element::SourceRange {
                address,
                source: source.parse().unwrap(),
            })
        };
        let mut odd = whole("192.0.2.0/25");
        odd.key_end = whole("192.0.2.2/32").key_end;
        assert_eq!(decode(Family::V4, Set::SourceRanges, &odd), None);
    }
}
