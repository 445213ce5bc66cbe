//! VLANs of bridges and of their ports (IEEE 802.1Q; `linux/if_bridge.h`), and VLAN devices.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind,
    InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;

use super::{Error, Handle};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL};

/// A name for devices that are asked for and never made.
const NOBODY: &str = "vlan-probe";

/// VLANs that a port is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortVlans {
    /// The first VLAN, 1 to 4094.
    pub first: u16,
    /// The last VLAN; the first one where it is but one.
    pub last: u16,
    /// What arrives untagged belongs to it (`BRIDGE_VLAN_INFO_PVID`).
    pub pvid: bool,
    /// What belongs to it leaves untagged.
    pub untagged: bool,
}

impl PortVlans {
    /// VLANs whose frames carry their tags.
    #[must_use]
    pub fn tagged(first: u16, last: u16) -> Self {
        Self {
            first,
            last,
            pvid: false,
            untagged: false,
        }
    }

    /// The VLAN of a port that knows of none.
    #[must_use]
    pub fn access(vlan: u16) -> Self {
        Self {
            first: vlan,
            last: vlan,
            pvid: true,
            untagged: true,
        }
    }

    fn attributes(self) -> Vec<AfSpecBridge> {
        let mut flags = BridgeVlanInfoFlags::empty();
        flags.set(BridgeVlanInfoFlags::Pvid, self.pvid);
        flags.set(BridgeVlanInfoFlags::Untagged, self.untagged);
        let info = |vid, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
        if self.first == self.last {
            return vec![info(self.first, flags)];
        }
        vec![
            info(self.first, flags | BridgeVlanInfoFlags::RangeBegin),
            info(self.last, flags | BridgeVlanInfoFlags::RangeEnd),
        ]
    }
}

/// A VLAN device to make: the frames of one VLAN of the device below.
#[derive(Debug, Clone, Copy)]
pub struct NewVlan<'a> {
    /// Its name; at most 15 bytes.
    pub name: &'a str,
    /// The index of the device below.
    pub below: u32,
    /// The VLAN, 1 to 4094.
    pub vlan: u16,
    /// Set up at once.
    pub up: bool,
}

impl Handle {
    /// Makes a VLAN device, with the Ethernet address of the device below. `EEXIST` when the name
    /// or the VLAN is in use there.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` on a kernel without VLAN devices.
    pub fn create_vlan(&mut self, new: &NewVlan<'_>) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        if new.up {
            message.header.flags |= LinkFlags::Up;
            message.header.change_mask |= LinkFlags::Up;
        }
        message.attributes = vec![
            LinkAttribute::IfName(new.name.to_owned()),
            LinkAttribute::Link(new.below),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(new.vlan)])),
            ]),
        ];
        let what = format_args!("make VLAN device {} of VLAN {}", new.name, new.vlan);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.socket
            .request_message(&what, flags, &Message::NewLink(message))
    }

    /// Whether the kernel can make VLAN devices. Makes none: it is asked for one without a VLAN,
    /// which whoever knows the kind refuses with `EINVAL`.
    ///
    /// # Errors
    /// [`Error`] for an answer that says neither.
    pub fn has_vlan_devices(&mut self) -> Result<bool, Error> {
        self.would_make(vec![LinkInfo::Kind(InfoKind::Vlan)], "VLAN devices")
    }

    /// Whether the kernel's bridges know VLANs. Makes none: it is asked for one whose
    /// own VLAN can't be, which only who knows about VLANs refuses with `EINVAL`.
    ///
    /// # Errors
    /// [`Error`] for an answer that says neither.
    pub fn has_vlan_filtering(&mut self) -> Result<bool, Error> {
        let data = vec![
            InfoBridge::VlanFiltering(true),
            InfoBridge::VlanDefaultPvid(u16::MAX),
        ];
        let info = vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(data)),
        ];
        self.would_make(info, "VLAN filtering")
    }

    /// Asks for a device that can't be: `EINVAL` shows that the kernel understood.
    fn would_make(&mut self, info: Vec<LinkInfo>, what: &str) -> Result<bool, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(NOBODY.to_owned()),
            LinkAttribute::LinkInfo(info),
        ];
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let what = format_args!("ask for {what}");
        let answer = self
            .socket
            .request_message(&what, flags, &Message::NewLink(message));
        match answer {
            Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Err(Error::malformed(
                &what,
                "a device that no kernel should make",
            )),
        }
    }

    /// Switches a bridge's VLAN filtering.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` on a kernel without it.
    pub fn set_vlan_filtering(&mut self, bridge: u32, on: bool) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = bridge;
        let data = InfoData::Bridge(vec![InfoBridge::VlanFiltering(on)]);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(data),
        ]));
        let what = format_args!("set VLAN filtering of bridge number {bridge} to {on}");
        self.socket
            .request_message(&what, 0, &Message::NewLink(message))
    }

    /// Puts a bridge's port into VLANs; a VLAN it is in already gets these flags.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` for what is no port, or on a kernel without VLAN filtering.
    pub fn add_port_vlans(&mut self, port: u32, vlans: PortVlans) -> Result<(), Error> {
        let what = format_args!("put port number {port} into {vlans:?}");
        let message = bridge_message(port, vlans.attributes());
        self.socket
            .request_message(&what, 0, &Message::SetLink(message))
    }

    /// Takes a bridge's port out of VLANs. Succeeds when it wasn't in.
    ///
    /// # Errors
    /// As [`Handle::add_port_vlans`].
    pub fn delete_port_vlans(&mut self, port: u32, vlans: PortVlans) -> Result<(), Error> {
        let what = format_args!("take port number {port} out of {vlans:?}");
        let message = bridge_message(port, vlans.attributes());
        match self
            .socket
            .request_message(&what, 0, &Message::DelLink(message))
        {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Puts the bridge itself into a VLAN, so that its own VLAN device gets the frames.
    ///
    /// # Errors
    /// As [`Handle::add_port_vlans`].
    pub fn add_bridge_vlan(&mut self, bridge: u32, vlan: u16) -> Result<(), Error> {
        let what = format_args!("put bridge number {bridge} into VLAN {vlan}");
        let mut attributes = vec![AfSpecBridge::Flags(BridgeFlag::LowerDev)];
        attributes.extend(PortVlans::tagged(vlan, vlan).attributes());
        let message = bridge_message(bridge, attributes);
        self.socket
            .request_message(&what, 0, &Message::SetLink(message))
    }

    /// The VLANs of a port, or of the bridge itself, one by one and in order.
    ///
    /// # Errors
    /// [`Error`]; empty on a kernel without VLAN filtering.
    pub fn vlans(&mut self, link: u32) -> Result<Vec<PortVlans>, Error> {
        let mut query = LinkMessage::default();
        query.header.interface_family = AddressFamily::Bridge;
        query
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan]));
        let answers = self
            .socket
            .dump_messages(&"list the VLANs of ports", &Message::GetLink(query))?;
        let mut found = Vec::new();
        for answer in answers {
            let Message::NewLink(message) = answer else {
                continue;
            };
            if message.header.index != link {
                continue;
            }
            for attribute in message.attributes {
                if let LinkAttribute::AfSpecBridge(items) = attribute {
                    found.extend(items.iter().filter_map(vlan_of));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn bridge_message(link: u32, attributes: Vec<AfSpecBridge>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = link;
    message
        .attributes
        .push(LinkAttribute::AfSpecBridge(attributes));
    message
}

fn vlan_of(item: &AfSpecBridge) -> Option<PortVlans> {
    let AfSpecBridge::VlanInfo(info) = item else {
        return None;
    };
    Some(PortVlans {
        first: info.vid,
        last: info.vid,
        pvid: info.flags.contains(BridgeVlanInfoFlags::Pvid),
        untagged: info.flags.contains(BridgeVlanInfoFlags::Untagged),
    })
}
