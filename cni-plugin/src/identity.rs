//! Names and hardware addresses that follow from what an attachment is, so that whoever knows it
//! finds them again, with or without the pod's namespace.

use std::net::IpAddr;

use cni_types::{Attachment, IpConfig};
use nodekit::route::Mac;

use crate::hash;

/// The first two bytes of the host's end: locally administered, and ours.
const HOST_END: [u8; 2] = [0x06, 0xca];

/// The first two bytes of a pod's end, the same that kubenet and others use.
const POD_END: [u8; 2] = [0x0a, 0x58];

/// The host's end of an attachment's veth pair: `veth` and eight hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEnd {
    pub(crate) name: String,
    pub(crate) mac: Mac,
}

impl HostEnd {
    pub(crate) fn of(attachment: &Attachment) -> Self {
        let id = hash::fold(&[
            attachment.container_id.as_bytes(),
            attachment.ifname.as_bytes(),
        ]);
        Self::numbered(id)
    }

    fn numbered([a, b, c, d]: [u8; 4]) -> Self {
        Self {
            name: format!("veth{a:02x}{b:02x}{c:02x}{d:02x}"),
            mac: Mac([HOST_END[0], HOST_END[1], a, b, c, d]),
        }
    }

    /// Whether a link of this name and address was made here: one says what the other is.
    pub(crate) fn is_ours(name: &str, mac: Option<Mac>) -> bool {
        match mac {
            Some(Mac([first, second, a, b, c, d])) if [first, second] == HOST_END => {
                Self::numbered([a, b, c, d]).name == name
            }
            _ => false,
        }
    }
}

/// The pod's hardware address, from its first address of IPv4 or else of IPv6. When an address
/// goes to another pod, what neighbours have learned of it stays true.
pub(crate) fn pod_mac(ips: &[IpConfig]) -> Option<Mac> {
    let ipv4 = ips.iter().find(|ip| ip.address.address().is_ipv4());
    Some(mac_of(ipv4.or(ips.first())?.address.address()))
}

/// The hardware address of the pod that this address is the first one of.
pub(crate) fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => hash::fold(&[&address.octets()]),
    };
    Mac([POD_END[0], POD_END[1], a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpConfig {
        IpConfig {
            address: text.parse().unwrap(),
            gateway: None,
            interface: None,
        }
    }

    #[test]
    fn an_attachment_has_one_name_for_all_time() {
        let end = HostEnd::of(&Attachment::new("a1b2", "eth0").unwrap());
        assert_eq!(end.name.len(), 12);
        assert_eq!(end, HostEnd::of(&Attachment::new("a1b2", "eth0").unwrap()));
        assert_eq!(end.name, "veth1c7b743a");
        assert!(HostEnd::is_ours(&end.name, Some(end.mac)));
        assert!(!HostEnd::is_ours("veth00000000", Some(end.mac)));
        assert!(!HostEnd::is_ours(&end.name, None));
        for (id, ifname) in [("a1b2", "eth1"), ("a1b", "2eth0"), ("a1b2eth", "0")] {
            assert_ne!(HostEnd::of(&Attachment::new(id, ifname).unwrap()), end);
        }
    }

    #[test]
    fn a_pods_mac_follows_its_address() {
        let mac = |ips: &[IpConfig]| pod_mac(ips).unwrap().0;
        assert_eq!(mac(&[ip("10.244.0.5/24")]), [0x0a, 0x58, 10, 244, 0, 5]);
        assert_eq!(
            mac(&[ip("fd00::5/64"), ip("10.244.0.5/24")]),
            [0x0a, 0x58, 10, 244, 0, 5]
        );
        assert_ne!(mac(&[ip("fd00::5/64")]), mac(&[ip("fd00::6/64")]));
        assert_eq!(pod_mac(&[]), None);
    }
}
