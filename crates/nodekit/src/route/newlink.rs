//! Links that are made: veth pairs, bridges, VXLAN and dummy devices. One message each, so that no other
//! process ever sees a half-made one.

use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use super::{Error, Handle, Mac};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL};

/// Queues of each direction that an end of a veth pair has. Kernels from 5.15 on use one, too, where
/// nothing is said, but make one for each processor first, and wait for all processors when they take
/// the others away again, at both ends (`veth_init_queues`).
const QUEUES: u32 = 1;

/// One end of a veth pair to make.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Its name in its namespace; at most 15 bytes.
    pub name: &'a str,
    /// The namespace it is made in; none: the handle's.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its Ethernet address; none: a random one.
    pub mac: Option<Mac>,
    /// Maximum transmission unit in bytes; none: 1500.
    pub mtu: Option<u32>,
}

impl<'a> VethEnd<'a> {
    /// An end in the handle's namespace with everything else left to the kernel.
    #[must_use]
    pub fn named(name: &'a str) -> Self {
        Self {
            name,
            netns: None,
            mac: None,
            mtu: None,
        }
    }

    fn message(&self, up: bool) -> LinkMessage {
        let mut message = base(Some(self.name), self.mac, self.mtu, up);
        message.attributes.extend([
            LinkAttribute::NumTxQueues(QUEUES),
            LinkAttribute::NumRxQueues(QUEUES),
        ]);
        message
            .attributes
            .extend(self.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        message
    }
}

/// A veth pair to make.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    /// The end that an error of the kernel's is about first.
    pub near: VethEnd<'a>,
    /// The other end, usually inside a pod's namespace.
    pub far: VethEnd<'a>,
    /// Set the near end up at once. The far end can't be: the kernel (`veth_open`) refuses to
    /// open an end whose peer isn't tied to it yet.
    pub near_up: bool,
    /// The bridge (by index in the near end's namespace) that the near end is born a port of.
    pub near_master: Option<u32>,
}

/// A bridge to make.
#[derive(Debug, Clone, Copy)]
pub struct NewBridge<'a> {
    /// Its name; at most 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address. Given, it is pinned; else it changes with the ports.
    pub mac: Option<Mac>,
    /// Maximum transmission unit in bytes. Given, it is pinned; else it follows the ports'.
    pub mtu: Option<u32>,
    /// VLAN-aware; none leaves the kernel's default (off) without asking for it, so that
    /// kernels without VLAN filtering work.
    pub vlan_filtering: Option<bool>,
    /// Set up at once.
    pub up: bool,
}

/// A VXLAN device to make.
#[derive(Debug, Clone, Copy)]
pub struct NewVxlan<'a> {
    /// Its name; at most 15 bytes.
    pub name: &'a str,
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The source address of the outer packets.
    pub local: Option<IpAddr>,
    /// The outer packets' UDP destination port; 4789 is IANA's, the kernel's default 8472.
    pub port: u16,
    /// The device the outer packets leave by.
    pub underlay: Option<u32>,
    /// Learn remote hosts from traffic; off where every entry is written by us.
    pub learning: bool,
    /// Its Ethernet address; none: a random one.
    pub mac: Option<Mac>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u32>,
    /// Set up at once.
    pub up: bool,
}

/// An intermediate functional block to make (drivers/net/ifb.c):
/// packets redirected to it pass its queue and go on where they came from.
#[derive(Debug, Clone, Copy)]
pub struct NewIfb<'a> {
    /// Its name; at most 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address; none: a random one.
    pub mac: Option<Mac>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u32>,
    /// Set up at once.
    pub up: bool,
}

impl Handle {
    /// Makes a veth pair, each end at once in its namespace with its name, MTU and address.
    /// `EEXIST` when a name is in use; then neither end exists.
    ///
    /// # Errors
    /// [`Error`].
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), Error> {
        let what = format_args!("make veth pair {} and {}", pair.near.name, pair.far.name);
        let mut near = pair.near.message(pair.near_up);
        near.attributes
            .extend(pair.near_master.map(LinkAttribute::Controller));
        let data = InfoData::Veth(InfoVeth::Peer(pair.far.message(false)));
        self.create(&what, near, InfoKind::Veth, Some(data))
    }

    /// Makes a bridge. `EEXIST` when the name is in use.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` for VLAN filtering on a kernel without it.
    pub fn create_bridge(&mut self, bridge: &NewBridge<'_>) -> Result<(), Error> {
        let message = base(Some(bridge.name), bridge.mac, bridge.mtu, bridge.up);
        let data = bridge
            .vlan_filtering
            .map(|on| InfoData::Bridge(vec![InfoBridge::VlanFiltering(on)]));
        self.create(
            &format_args!("make bridge {}", bridge.name),
            message,
            InfoKind::Bridge,
            data,
        )
    }

    /// Makes a VXLAN device. `EEXIST` when the name, or the identifier with this port, is in use.
    ///
    /// # Errors
    /// [`Error`].
    pub fn create_vxlan(&mut self, vxlan: &NewVxlan<'_>) -> Result<(), Error> {
        let message = base(Some(vxlan.name), vxlan.mac, vxlan.mtu, vxlan.up);
        let mut data = vec![
            InfoVxlan::Id(vxlan.vni),
            InfoVxlan::Port(vxlan.port),
            InfoVxlan::Learning(vxlan.learning),
        ];
        data.extend(vxlan.underlay.map(InfoVxlan::Link));
        data.extend(vxlan.local.map(|local| match local {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        }));
        let what = format_args!("make VXLAN device {} of network {}", vxlan.name, vxlan.vni);
        self.create(&what, message, InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
    }

    /// Makes an intermediate functional block. `EEXIST` when the name is in use.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` on a kernel without `ifb`.
    pub fn create_ifb(&mut self, ifb: &NewIfb<'_>) -> Result<(), Error> {
        let message = base(Some(ifb.name), ifb.mac, ifb.mtu, ifb.up);
        let what = format_args!("make intermediate functional block {}", ifb.name);
        self.create(&what, message, InfoKind::Ifb, None)
    }

    /// Makes a dummy device (drivers/net/dummy.c), which drops what is sent by it: a place for
    /// addresses that should be this machine's. It is down, which they don't mind, and has no IPv6
    /// address of its own as long as it is. `EEXIST` when the name is in use.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` on a kernel without `dummy`.
    pub fn create_dummy(&mut self, name: &str) -> Result<(), Error> {
        let message = base(Some(name), None, None, false);
        let what = format_args!("make dummy device {name}");
        self.create(&what, message, InfoKind::Dummy, None)
    }

    fn create(
        &mut self,
        what: &dyn Display,
        mut message: LinkMessage,
        kind: InfoKind,
        data: Option<InfoData>,
    ) -> Result<(), Error> {
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.socket
            .request_message(what, flags, &Message::NewLink(message))
    }
}

fn base(name: Option<&str>, mac: Option<Mac>, mtu: Option<u32>, up: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    if up {
        message.header.flags |= LinkFlags::Up;
        message.header.change_mask |= LinkFlags::Up;
    }
    message
        .attributes
        .extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
    message
        .attributes
        .extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
}
