//! Packets that hit, or just miss, a random cluster's frontends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frontend::Protocol;
use crate::generate::Cluster;
use crate::oracle::Packet;

impl Cluster {
    /// A random packet: its destination is mostly one of the addresses and ports in use.
    pub fn packet(&mut self) -> Packet {
        let v6 = self.random.one_in(3);
        let source_is_node = self.random.one_in(5);
        let source = self.source(v6, source_is_node);
        let to_node = self.random.one_in(4);
        let interfaces = [None, Some("br0"), Some("veth1"), Some("eth0")];
        Packet {
            source,
            interface: interfaces[self.random.below(4)]
                .filter(|_| !source_is_node)
                .map(str::to_owned),
            destination: if to_node {
                node_address(v6)
            } else {
                self.destination(v6)
            },
            protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][self.random.below(3)],
            port: if to_node {
                self.node_port()
            } else {
                [80, 53, 443, 81][self.random.below(4)]
            },
            source_is_node,
            destination_is_node_port_address: to_node && !self.random.one_in(8),
        }
    }

    fn source(&mut self, v6: bool, node: bool) -> IpAddr {
        if node {
            return node_address(v6);
        }
        let host = u8::try_from(self.random.below(7)).unwrap_or(0);
        let number = u8::try_from(self.random.below(3)).unwrap_or(0);
        match (v6, self.random.below(5)) {
            (false, 0) => Ipv4Addr::new(8, 8, 0, host).into(),
            (false, 1) => Ipv4Addr::new(198, 51, 100, host).into(),
            (false, _) => Ipv4Addr::new(10, 244, number, host).into(),
            (true, 0) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
            (true, 1) => Ipv6Addr::new(0xfd00, 0x198, 0, 0, 0, 0, 0, host.into()).into(),
            (true, _) => {
                Ipv6Addr::new(0xfd00, 0x244, number.into(), 0, 0, 0, 0, host.into()).into()
            }
        }
    }

    fn destination(&mut self, v6: bool) -> IpAddr {
        let size = self.services.len();
        let service = u8::try_from(1 + self.random.below(size + 1)).unwrap_or(1);
        let host = u8::try_from(self.random.below(4)).unwrap_or(0);
        match (v6, self.random.below(4)) {
            (false, 0) => Ipv4Addr::new(203, 0, 113, host).into(),
            (false, 1) => Ipv4Addr::new(198, 51, 100, host).into(),
            (false, _) => Ipv4Addr::new(10, 96, 0, service).into(),
            (true, 0) => Ipv6Addr::new(0xfd00, 0x203, 0, 0, 0, 0, 0, host.into()).into(),
            (true, 1) => Ipv6Addr::new(0xfd00, 0x198, 0, 0, 0, 0, 0, host.into()).into(),
            (true, _) => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, service.into()).into(),
        }
    }

    fn node_port(&mut self) -> u16 {
        30_000 + u16::try_from(self.random.below(self.services.len() * 2)).unwrap_or(0)
    }
}

fn node_address(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0x168, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 168, 0, 1).into()
    }
}
