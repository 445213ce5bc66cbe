//! Links (network devices): look them up, change and delete them.

use std::fmt::Display;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgePortState, InetDevConf, InfoBridge,
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::{Error, Handle, Mac};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

/// A network device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name in its namespace.
    pub name: String,
    /// What somebody wrote on it (`ip link set … alias`).
    pub alias: Option<String>,
    /// The driver's name (`veth`, `bridge`, `vxlan`); none for loopback and hardware.
    pub kind: Option<String>,
    /// Its Ethernet address; none for devices without.
    pub mac: Option<Mac>,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Set up by an administrator (`IFF_UP`).
    pub up: bool,
    /// Up and able to carry traffic (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Takes every frame (`IFF_PROMISC`).
    pub promiscuous: bool,
    /// Takes every group's frames (`IFF_ALLMULTI`).
    pub all_multicast: bool,
    /// The kind of the discipline for what it sends (`noqueue`, `fq_codel`, `tbf`).
    pub qdisc: Option<String>,
    /// How many packets its queue holds, where the queue discipline goes by that.
    pub tx_queue_len: u32,
    /// The bridge (or other master) it is a port of.
    pub master: Option<u32>,
    /// The device below or, of a veth, the other end: its index in *its* namespace.
    pub peer: Option<u32>,
    /// The id, seen from here, of the namespace that `peer` is in, when it is another one.
    pub peer_netnsid: Option<i32>,
    /// What it does as a bridge's port; none when it isn't one.
    pub port: Option<BridgePort>,
    /// A port that its bridge has enabled: its state is not `BR_STATE_DISABLED`, as it is until
    /// the bridge has heard that the link carries.
    pub port_enabled: bool,
    /// A bridge's VLAN filtering; none where the kernel has none, or for what isn't a bridge.
    pub vlan_filtering: Option<bool>,
    /// Its settings of IPv6; none where the device or the kernel has no IPv6.
    pub ipv6: Option<Ipv6Settings>,
}

/// Settings of a link below `net/ipv6/conf`, told together with the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// IPv6 is off.
    pub disable_ipv6: i32,
    /// Router advertisements are followed.
    pub accept_ra: i32,
    /// Duplicate addresses are looked for.
    pub accept_dad: i32,
}

/// What a bridge port does with frames (`ip link set … type bridge_slave`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgePort {
    /// Sends frames back out of the port they came from: a pod reaching itself by a service.
    pub hairpin: bool,
    /// Does not exchange frames with other isolated ports.
    pub isolated: bool,
}

/// What to change on a link; what is `None` stays. All of it in one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// Takes every frame, or only its own.
    pub promiscuous: Option<bool>,
    /// Takes every group's frames, or only those it joined.
    pub all_multicast: Option<bool>,
    /// How many packets its queue holds.
    pub tx_queue_len: Option<u32>,
    /// The bridge to become a port of; `Some(None)` to leave it.
    pub master: Option<Option<u32>>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<Mac>,
    /// New name, in the target namespace when it moves at once.
    pub name: Option<&'a str>,
    /// A text for whoever looks at it; at most 255 bytes.
    pub alias: Option<&'a str>,
    /// Move to this namespace (it arrives down there).
    pub netns: Option<BorrowedFd<'a>>,
    /// Its IPv4 addresses are announced when it comes up or its Ethernet address is set
    /// (`net/ipv4/conf/DEVICE/arp_notify`); only to be switched on here.
    pub arp_notify: bool,
}

/// The index of a link of the calling thread's namespace; `None` when there is none of that name.
/// It doesn't wait for whoever is changing links, as every request of a [`Handle`] does
/// (`SIOCGIFINDEX`, netdevice(7)).
///
/// # Errors
/// [`Error::Socket`].
pub fn index_of(name: &str) -> Result<Option<u32>, Error> {
    match if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV) => Ok(None),
        Err(errno) => Err(Error::socket(&format_args!("find link {name}"), errno)),
    }
}

impl Handle {
    /// Every link of the namespace.
    ///
    /// # Errors
    /// [`Error`].
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut query = LinkMessage::default();
        query.attributes.push(without_statistics());
        let answers = self
            .socket
            .dump_messages(&"list links", &Message::GetLink(query))?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// The link of a name. `ENODEV` when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn link_by_name(&mut self, name: &str) -> Result<Link, Error> {
        let mut query = LinkMessage::default();
        query
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(&format_args!("look up link {name}"), query)
    }

    /// The link of an index. `ENODEV` when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, Error> {
        let mut query = LinkMessage::default();
        query.header.index = index;
        self.one_link(&format_args!("look up link number {index}"), query)
    }

    fn one_link(&mut self, what: &dyn Display, mut query: LinkMessage) -> Result<Link, Error> {
        query.attributes.push(without_statistics());
        let answer = self
            .socket
            .get_one_message(what, &Message::GetLink(query))?;
        link_of(answer).ok_or_else(|| Error::malformed(what, "an answer that is no link"))
    }

    /// Changes a link in one message. `ENODEV` when there is none of the index.
    ///
    /// # Errors
    /// [`Error`]; `EBUSY` where a change needs the link down, `EEXIST` for a name in use.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let flags = [
            (LinkFlags::Up, change.up),
            (LinkFlags::Promisc, change.promiscuous),
            (LinkFlags::Allmulti, change.all_multicast),
        ];
        for (flag, value) in flags {
            if let Some(on) = value {
                message.header.change_mask |= flag;
                message.header.flags.set(flag, on);
            }
        }
        let attributes = &mut message.attributes;
        // Index 0 is the kernel's way to say "no master".
        let master = change
            .master
            .map(|master| LinkAttribute::Controller(master.unwrap_or(0)));
        attributes.extend(master);
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.tx_queue_len.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(
            change
                .name
                .map(|name| LinkAttribute::IfName(name.to_owned())),
        );
        attributes.extend(
            change
                .alias
                .map(|text| LinkAttribute::IfAlias(text.to_owned())),
        );
        attributes.extend(
            change
                .netns
                .map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())),
        );
        if change.arp_notify {
            let mut settings = InetDevConf::default();
            settings.arp_notify = 1;
            let settings = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
            attributes.push(LinkAttribute::AfSpecUnspec(vec![settings]));
        }
        let what = format_args!("change link number {index} ({change:?})");
        self.socket
            .request_message(&what, 0, &Message::SetLink(message))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// As [`Handle::change_link`].
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        self.change_link(
            index,
            &LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        )
    }

    /// Says what a bridge's port does, and writes `alias` on it (at most 255 bytes), if any. The
    /// link must be a port already.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` when it is no port of a bridge.
    pub fn set_bridge_port(
        &mut self,
        name: &str,
        port: BridgePort,
        alias: Option<&str>,
    ) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .extend(alias.map(|text| LinkAttribute::IfAlias(text.to_owned())));
        let data = vec![
            InfoBridgePort::HairpinMode(port.hairpin),
            InfoBridgePort::Isolated(port.isolated),
        ];
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(data)),
        ]));
        let what = format_args!("set bridge port {name} to {port:?}");
        self.socket
            .request_message(&what, 0, &Message::NewLink(message))
    }

    /// Deletes a link; a veth's other end goes with it, wherever it is. `ENODEV` when there is
    /// none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let what = format_args!("delete link number {index}");
        self.socket
            .request_message(&what, 0, &Message::DelLink(message))
    }

    /// Deletes links of one namespace in the time of one: the kernel waits once until nobody uses
    /// them any more. Those that are gone already don't matter; `ENODEV` when all are.
    ///
    /// They are put in a group of their own for it (`ip link delete group`), which is numbered
    /// after the first one's index. A link that somebody else deletes in this way at the same time
    /// may still be there afterwards.
    ///
    /// # Errors
    /// [`Error`]; `EOPNOTSUPP` where one can't be deleted: then all are still there.
    pub fn delete_links_together(&mut self, links: &[u32]) -> Result<(), Error> {
        /// Above all indices: no two links give the same group, and nobody else's is so high.
        const GROUPS: u32 = 1 << 31;
        let first = match links {
            [] => return Ok(()),
            [only] => return self.delete_link(*only),
            [first, ..] => *first,
        };
        let group = GROUPS | first;
        for index in links {
            let mut message = LinkMessage::default();
            message.header.index = *index;
            message.attributes.push(LinkAttribute::Group(group));
            let what = format_args!("put link number {index} into group {group}");
            let set = Message::SetLink(message);
            match self.socket.request_message(&what, 0, &set) {
                Err(error) if error.errno() != Some(Errno::ENODEV) => return Err(error),
                _ => {}
            }
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        let what = format_args!("delete links number {links:?} as group {group}");
        self.socket
            .request_message(&what, 0, &Message::DelLink(message))
    }

    /// Deletes a link by its name, in one message. `ENODEV` when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_link_by_name(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let what = format_args!("delete link {name}");
        self.socket
            .request_message(&what, 0, &Message::DelLink(message))
    }
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn link_of(answer: Message) -> Option<Link> {
    let Message::NewLink(message) = answer else {
        return None;
    };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        kind: None,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        promiscuous: flags.contains(LinkFlags::Promisc),
        all_multicast: flags.contains(LinkFlags::Allmulti),
        qdisc: None,
        tx_queue_len: 0,
        master: None,
        peer: None,
        peer_netnsid: None,
        port: None,
        port_enabled: false,
        vlan_filtering: None,
        ipv6: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(text) => link.alias = Some(text),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Qdisc(kind) => link.qdisc = Some(kind),
            LinkAttribute::TxQueueLen(packets) => link.tx_queue_len = packets,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(id),
            LinkAttribute::LinkInfo(infos) => take_info(&mut link, infos),
            LinkAttribute::AfSpecUnspec(families) => link.ipv6 = ipv6_of(families),
            _ => {}
        }
    }
    Some(link)
}

fn take_info(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Other(kind)) => link.kind = Some(kind),
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                let mut port = BridgePort::default();
                for item in data {
                    match item {
                        InfoBridgePort::HairpinMode(on) => port.hairpin = on,
                        InfoBridgePort::Isolated(on) => port.isolated = on,
                        InfoBridgePort::State(state) => {
                            link.port_enabled = state != BridgePortState::Disabled;
                        }
                        _ => {}
                    }
                }
                link.port = Some(port);
            }
            LinkInfo::Data(InfoData::Bridge(data)) => link.vlan_filtering = filtering_of(&data),
            _ => {}
        }
    }
}

/// Kernels without VLAN filtering say that it is off; only those with it say what VLAN untagged
/// frames belong to.
fn filtering_of(data: &[InfoBridge]) -> Option<bool> {
    let known = data
        .iter()
        .any(|item| matches!(item, InfoBridge::VlanDefaultPvid(_)));
    let on = data
        .iter()
        .any(|item| matches!(item, InfoBridge::VlanFiltering(true)));
    known.then_some(on)
}

fn ipv6_of(families: Vec<AfSpecUnspec>) -> Option<Ipv6Settings> {
    let of_ipv6 = families.into_iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(items) => Some(items),
        _ => None,
    });
    of_ipv6?.into_iter().find_map(|item| match item {
        AfSpecInet6::DevConf(all) => Some(Ipv6Settings {
            disable_ipv6: all.disable_ipv6,
            accept_ra: all.accept_ra,
            accept_dad: all.accept_dad,
        }),
        _ => None,
    })
}
