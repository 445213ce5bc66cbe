//! A tracked connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::{ID, MARK, PROTO_NUM, STATUS, TIMEOUT, TUPLE_ORIG, TUPLE_PROTO, TUPLE_REPLY, ZONE};
use crate::netlink::{Attr, AttrWriter, attrs};

const TUPLE_IP: u16 = 1;
const IPV4_SRC: u16 = 1;
const IPV4_DST: u16 = 2;
const IPV6_SRC: u16 = 3;
const IPV6_DST: u16 = 4;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTO_ICMP_ID: u16 = 4;
const PROTO_ICMP_TYPE: u16 = 5;
const PROTO_ICMP_CODE: u16 = 6;
/// How much higher ICMPv6's attributes are than ICMP's.
const ICMPV6: u16 = 3;

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As its first packet said, before any translation.
    pub original: Tuple,
    /// As answers are expected: source and destination after translation, turned round.
    pub reply: Tuple,
    /// The zone it is tracked in; 0 where none is set.
    pub zone: u16,
    /// `IPS_*` bits (`nf_conntrack_common.h`).
    pub status: u32,
    /// Its mark.
    pub mark: u32,
    /// How long it stays without further packets.
    pub timeout: Duration,
    /// The kernel's number for it.
    pub id: u32,
}

impl Entry {
    /// `IPS_DST_NAT`: its destination was translated.
    pub const DESTINATION_TRANSLATED: u32 = 1 << 5;

    /// Whether its destination was translated.
    #[must_use]
    pub fn is_destination_translated(&self) -> bool {
        self.status & Self::DESTINATION_TRANSLATED != 0
    }

    /// `None` for bytes that are no entry.
    pub(super) fn read(attributes: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        let (mut zone, mut status, mut mark, mut timeout, mut id) = (0, 0, 0, 0, 0);
        for attr in attrs(attributes) {
            match attr.kind {
                TUPLE_ORIG => original = Tuple::read(&attr),
                TUPLE_REPLY => reply = Tuple::read(&attr),
                ZONE => zone = attr.u16_be()?,
                STATUS => status = attr.u32_be()?,
                MARK => mark = attr.u32_be()?,
                TIMEOUT => timeout = attr.u32_be()?,
                ID => id = attr.u32_be()?,
                _ => {}
            }
        }
        let timeout = Duration::from_secs(timeout.into());
        Some(Self {
            original: original?,
            reply: reply?,
            zone,
            status,
            mark,
            timeout,
            id,
        })
    }
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: IpAddr,
    /// Where its packets go to; of the same family.
    pub destination: IpAddr,
    /// The transport protocol (`IPPROTO_*`).
    pub protocol: u8,
    /// What else tells connections of that protocol apart.
    pub transport: Transport,
}

/// What tells connections between the same addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Ports: TCP, UDP, SCTP and others.
    Ports {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// ICMP and ICMPv6 queries.
    Icmp {
        /// The query's identifier.
        id: u16,
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
    /// Nothing.
    None,
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            protocol,
            transport,
        } = self;
        write!(f, "{source} -> {destination} protocol {protocol}")?;
        match transport {
            Transport::Ports {
                source,
                destination,
            } => write!(f, " ports {source} -> {destination}"),
            Transport::Icmp { id, kind, code } => write!(f, " type {kind} code {code} id {id}"),
            Transport::None => Ok(()),
        }
    }
}

impl Tuple {
    /// The tuple of an answer, where nothing is translated. (A query of ICMP stays what it is.)
    #[must_use]
    pub fn reversed(&self) -> Self {
        let transport = match self.transport {
            Transport::Ports {
                source,
                destination,
            } => Transport::Ports {
                source: destination,
                destination: source,
            },
            other => other,
        };
        Self {
            source: self.destination,
            destination: self.source,
            transport,
            ..*self
        }
    }

    pub(super) fn write(&self, writer: &mut AttrWriter) {
        writer.nested(TUPLE_IP, |w| {
            write_address(w, self.source, IPV4_SRC, IPV6_SRC);
            write_address(w, self.destination, IPV4_DST, IPV6_DST);
        });
        writer.nested(TUPLE_PROTO, |w| {
            w.u8(PROTO_NUM, self.protocol);
            match self.transport {
                Transport::Ports {
                    source,
                    destination,
                } => {
                    w.u16_be(PROTO_SRC_PORT, source)
                        .u16_be(PROTO_DST_PORT, destination);
                }
                Transport::Icmp { id, kind, code } => {
                    let shift = if self.source.is_ipv6() { ICMPV6 } else { 0 };
                    w.u16_be(PROTO_ICMP_ID + shift, id);
                    w.u8(PROTO_ICMP_TYPE + shift, kind)
                        .u8(PROTO_ICMP_CODE + shift, code);
                }
                Transport::None => {}
            }
        });
    }

    fn read(attr: &Attr<'_>) -> Option<Self> {
        let (mut source, mut destination) = (None, None);
        for attr in attr.nested().find(TUPLE_IP)?.nested() {
            match attr.kind {
                IPV4_SRC | IPV6_SRC => source = read_address(attr.payload),
                IPV4_DST | IPV6_DST => destination = read_address(attr.payload),
                _ => {}
            }
        }
        let proto = attr.nested().find(TUPLE_PROTO)?.nested();
        let protocol = proto.clone().find(PROTO_NUM)?.u8()?;
        let mut transport = Transport::None;
        for attr in proto {
            transport.read(&attr)?;
        }
        Some(Self {
            source: source?,
            destination: destination?,
            protocol,
            transport,
        })
    }
}

impl Transport {
    fn read(&mut self, attr: &Attr<'_>) -> Option<()> {
        let kind = if attr.kind > PROTO_ICMP_CODE {
            attr.kind - ICMPV6
        } else {
            attr.kind
        };
        match kind {
            PROTO_SRC_PORT => {
                *self = Self::Ports {
                    source: attr.u16_be()?,
                    destination: 0,
                }
            }
            PROTO_DST_PORT => {
                if let Self::Ports { destination, .. } = self {
                    *destination = attr.u16_be()?;
                }
            }
            PROTO_ICMP_ID => {
                *self = Self::Icmp {
                    id: attr.u16_be()?,
                    kind: 0,
                    code: 0,
                }
            }
            PROTO_ICMP_TYPE => {
                if let Self::Icmp { kind, .. } = self {
                    *kind = attr.u8()?;
                }
            }
            PROTO_ICMP_CODE => {
                if let Self::Icmp { code, .. } = self {
                    *code = attr.u8()?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

pub(super) fn write_address(writer: &mut AttrWriter, address: IpAddr, v4: u16, v6: u16) {
    match address {
        IpAddr::V4(address) => writer.bytes(v4, &address.octets()),
        IpAddr::V6(address) => writer.bytes(v6, &address.octets()),
    };
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes
            .first_chunk::<4>()
            .map(|octets| Ipv4Addr::from(*octets).into()),
        16 => bytes
            .first_chunk::<16>()
            .map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::anything;
    use proptest::prelude::*;

    fn round_trip(tuple: Tuple) {
        let mut writer = AttrWriter::default();
        writer
            .nested(TUPLE_ORIG, |w| tuple.write(w))
            .nested(TUPLE_REPLY, |w| tuple.write(w));
        writer.u16_be(ZONE, 9).u32_be(ID, 77);
        let entry = Entry::read(&writer.finish().unwrap()).unwrap();
        assert_eq!(
            (entry.original, entry.reply, entry.zone, entry.id),
            (tuple, tuple, 9, 77)
        );
    }

    #[test]
    fn what_is_written_is_read_in_both_families() {
        let ports = Transport::Ports {
            source: 40_000,
            destination: 53,
        };
        let v4 = Ipv4Addr::new(10, 0, 0, 1).into();
        let v6 = Ipv6Addr::LOCALHOST.into();
        round_trip(Tuple {
            source: v4,
            destination: v4,
            protocol: 17,
            transport: ports,
        });
        round_trip(Tuple {
            source: v6,
            destination: v6,
            protocol: 6,
            transport: ports,
        });
        let icmp = Transport::Icmp {
            id: 7,
            kind: 8,
            code: 1,
        };
        round_trip(Tuple {
            source: v4,
            destination: v4,
            protocol: 1,
            transport: icmp,
        });
        round_trip(Tuple {
            source: v6,
            destination: v6,
            protocol: 58,
            transport: icmp,
        });
        round_trip(Tuple {
            source: v4,
            destination: v4,
            protocol: 47,
            transport: Transport::None,
        });
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Entry::read(&bytes);
        }

        #[test]
        fn random_attributes_never_panic(attributes in anything::attributes()) {
            let _ = Entry::read(&attributes);
        }
    }
}
