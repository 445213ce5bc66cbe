//! What stands in the tables for host ports.
//!
//! ```text
//! to an address of the node:  (protocol, port) or (address, protocol, port)
//!                               → chain of the network: its conditions; dnat to the pod   2 maps
//!                             the same key → pod address and port                         2 maps
//! on the way out, translated, to a pod with ports:                                        1 set
//!   (pod address, protocol, port of the host)
//!                               → chain of the network: masquerade, or not                1 map
//! ```
//!
//! What others translate to such a pod, as a Service's data plane does, is not masqueraded here.
//!
//! All ports cost two hash lookups at a connection's first packet, however many there are.

use std::net::IpAddr;

use cni_types::{Cidr, PortMapping, Protocol};
use nodekit::nft::{
    BaseChain, BitwiseOperand, Chain, ChainType, CtKey, Data, Datatype, Expr, Family, FibResult,
    FibSource, Hook, MapData, MetaKey, NatFlags, NatKind, Register, Set, Type, Value, Verdict,
};

use super::config::{Config, Settings, first_of_each, name_of, number_of, specific};
use crate::hash;
use crate::masquerade::{is_in, subnet};
use crate::tables::{Entries, Key, Removed, Scaffold, family_of, network_tag};

/// From a port on every address of the node to the network's chain.
const PORTS: &str = "host-ports";
/// The same for one address.
const PORTS_OF_ADDRESS: &str = "host-ports-of-address";
/// From the same keys to the pod's address and port.
pub(super) const TARGETS: &str = "host-port-targets";
pub(super) const TARGETS_OF_ADDRESS: &str = "host-port-targets-of-address";
/// Addresses of pods with host ports.
const PODS: &str = "host-port-pods";
/// From a pod's address and the port that was asked for to the network's chain that masquerades.
const CONNECTIONS: &str = "host-port-connections";

/// All sets of host ports.
pub(super) const SETS: [&str; 6] = [
    PORTS,
    PORTS_OF_ADDRESS,
    TARGETS,
    TARGETS_OF_ADDRESS,
    PODS,
    CONNECTIONS,
];

/// `dstnat`, NF_IP_PRI_NAT_DST (linux/netfilter_ipv4.h).
const DSTNAT: i32 = -100;
/// Before `srcnat`, where others masquerade: the first to decide does.
const BEFORE_SRCNAT: i32 = 99;
/// NF_IP_PRI_RAW: before connections are looked up.
const RAW: i32 = -300;

/// Where keys begin.
const KEY: Register = Register::word(0);
/// Where the translated address begins, behind the longest key of 6 registers.
const TARGET: Register = Register::word(8);

/// The elements of an attachment's ports. `link` is the host's towards the pod, where the node's
/// own 127.0.0.1 shall lead to the ports too.
pub(crate) fn enter(
    entries: &mut Entries,
    network: &str,
    config: &Config,
    addresses: &[Cidr],
    link: Option<&str>,
) {
    for cidr in first_of_each(addresses) {
        let family = family_of(cidr.address());
        let mut wanted = config.of_family(family).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let chains = Chains::new(network, &config.settings, cidr);
        entries.needs(family, chains.scaffold(link));
        for mapping in wanted {
            let (set, targets) = sets_of(mapping);
            let key = port_key(mapping);
            let goto = Data::Verdict(Verdict::Goto(chains.ports.clone()));
            let what = name_of(mapping);
            entries.claim(Key::new(family, set, key.clone()), Some(goto), what.clone());
            let target = target(cidr.address(), mapping.container_port);
            entries.put(
                Key::new(family, targets, key),
                Some(Data::Value(target)),
                what.clone(),
            );
            // Two addresses of the host may have the same port lead there.
            let connection = connection_key(cidr.address(), mapping);
            if !entries.keys().contains(&connection) {
                let goto = Data::Verdict(Verdict::Goto(chains.masquerade.clone()));
                entries.put(connection, Some(goto), format!("masquerading of {what}"));
            }
        }
        let what = format!("entry of {} among pods with host ports", cidr.address());
        entries.put(Key::of_address(PODS, cidr.address()), None, what);
    }
}

/// Where the elements of ports are, whatever families the pod had addresses of.
pub(super) fn keys_of_ports(config: &[PortMapping]) -> impl Iterator<Item = Key> {
    config.iter().flat_map(|mapping| {
        let (set, targets) = sets_of(mapping);
        let families = [Family::Ip, Family::Ip6].into_iter().filter(|family| {
            let ip = mapping.host_ip;
            ip.is_none_or(|ip| ip.is_ipv4() == (*family == Family::Ip))
        });
        families.flat_map(move |family| {
            [set, targets].map(|set| Key::new(family, set, port_key(mapping)))
        })
    })
}

/// Where it stands which connections to a pod are by its ports.
pub(super) fn keys_of_connections(ports: &[PortMapping], addresses: &[IpAddr]) -> Vec<Key> {
    let mut keys = Vec::new();
    for mapping in ports {
        for address in addresses {
            let key = connection_key(*address, mapping);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// Where it stands that a pod has ports at all.
pub(super) fn keys_of_pods(addresses: &[IpAddr]) -> impl Iterator<Item = Key> {
    let key = |address: &IpAddr| Key::of_address(PODS, *address);
    addresses.iter().map(key)
}

/// The port of an element that says where one of UDP leads.
pub(super) fn udp_port(removed: &Removed) -> Option<u16> {
    let before = match (removed.set.as_str(), removed.key.bytes().len()) {
        (PORTS, _) => 0,
        (PORTS_OF_ADDRESS, 12) => 4,
        (PORTS_OF_ADDRESS, _) => 16,
        _ => return None,
    };
    let [protocol] = removed.key.field(before)?;
    let port = removed.key.field(before + 4)?;
    (protocol == number_of(Protocol::Udp)).then(|| u16::from_be_bytes(port))
}

fn sets_of(mapping: &PortMapping) -> (&'static str, &'static str) {
    match specific(mapping) {
        None => (PORTS, TARGETS),
        Some(_) => (PORTS_OF_ADDRESS, TARGETS_OF_ADDRESS),
    }
}

fn port_key(mapping: &PortMapping) -> Value {
    let protocol = [number_of(mapping.protocol)];
    let port = mapping.host_port.to_be_bytes();
    match specific(mapping) {
        None => Value::concat(&[&protocol, &port]),
        Some(ip) => address_port_key(ip, mapping),
    }
}

fn address_port_key(address: IpAddr, mapping: &PortMapping) -> Value {
    let protocol = [number_of(mapping.protocol)];
    let port = mapping.host_port.to_be_bytes();
    match address {
        IpAddr::V4(ip) => Value::concat(&[&ip.octets(), &protocol, &port]),
        IpAddr::V6(ip) => Value::concat(&[&ip.octets(), &protocol, &port]),
    }
}

fn connection_key(pod: IpAddr, mapping: &PortMapping) -> Key {
    let key = address_port_key(pod, mapping);
    Key::new(family_of(pod), CONNECTIONS, key)
}

fn target(address: IpAddr, port: u16) -> Value {
    let port = port.to_be_bytes();
    match address {
        IpAddr::V4(ip) => Value::concat(&[&ip.octets(), &port]),
        IpAddr::V6(ip) => Value::concat(&[&ip.octets(), &port]),
    }
}

/// The chains of a network's ports. Their names follow from their rules.
struct Chains<'a> {
    ports: String,
    masquerade: String,
    tag: String,
    settings: &'a Settings,
    cidr: Cidr,
}

impl<'a> Chains<'a> {
    fn new(network: &str, settings: &'a Settings, address: Cidr) -> Self {
        let cidr = subnet(address);
        let tag = network_tag(network);
        let conditions = match family_of(cidr.address()) {
            Family::Ip => &settings.conditions_v4,
            _ => &settings.conditions_v6,
        };
        let conditions = hash_of(network, &format!("{conditions:?}"));
        let Settings {
            snat,
            masquerade_all,
            mark,
            ..
        } = settings;
        let sources = format!("{snat} {masquerade_all} {mark:?} {cidr}");
        let sources = hash_of(network, &sources);
        Self {
            ports: format!("{tag}-ports-{conditions}"),
            masquerade: format!("{tag}-port-masquerade-{sources}"),
            tag,
            settings,
            cidr,
        }
    }

    fn family(&self) -> Family {
        family_of(self.cidr.address())
    }

    fn scaffold(&self, link: Option<&str>) -> Scaffold {
        let mut scaffold = frame(self.family());
        let mut chain = |name: &str, rules| {
            let chain = Chain {
                comment: Some(self.tag.clone()),
                ..Chain::regular(name)
            };
            scaffold.chains.push((chain, rules));
        };
        chain(&self.ports, self.translating());
        chain(&self.masquerade, self.masquerading());
        if let Some(link) = link.filter(|_| self.family() == Family::Ip) {
            scaffold.chains.push(guard(link));
        }
        scaffold
    }

    /// To the pod, if the conditions are fulfilled.
    fn translating(&self) -> Vec<Vec<Expr>> {
        let family = self.family();
        let conditions = match family {
            Family::Ip => &self.settings.conditions_v4,
            _ => &self.settings.conditions_v6,
        };
        let keys = [
            (address_port(family), TARGETS_OF_ADDRESS),
            (port(KEY), TARGETS),
        ];
        let rule = |(key, targets): (Vec<Expr>, &str)| {
            let mut exprs: Vec<_> = conditions.iter().flat_map(|c| c.exprs(family)).collect();
            exprs.extend(key);
            exprs.push(Expr::map(targets, KEY, TARGET));
            exprs.push(Expr::Nat {
                kind: NatKind::Destination,
                family,
                address: Some(TARGET),
                port: Some(TARGET.after(address_bytes(family))),
                flags: NatFlags::default(),
            });
            exprs
        };
        keys.into_iter().map(rule).collect()
    }

    /// Whose answers would not come back by the node: those from the pod's own subnet, from
    /// itself too, and from the node's loopback addresses, which nobody else can answer to.
    fn masquerading(&self) -> Vec<Vec<Expr>> {
        let Settings {
            snat,
            masquerade_all,
            mark,
            ..
        } = self.settings;
        if !snat {
            return Vec::new();
        }
        let family = self.family();
        let masquerade = |mut exprs: Vec<Expr>| {
            if let Some(mark) = mark {
                let key = MetaKey::Mark;
                exprs.push(Expr::Meta { key, to: KEY });
                // (mark & !bit) ^ bit
                exprs.push(Expr::mask_xor(KEY, !mark, *mark));
                exprs.push(Expr::MetaSet { key, from: KEY });
            }
            let flags = NatFlags {
                fully_random: true,
                ..NatFlags::default()
            };
            exprs.push(Expr::Masquerade { flags });
            exprs
        };
        if *masquerade_all {
            return vec![masquerade(Vec::new())];
        }
        let mut rules: Vec<_> = loopback(family)
            .into_iter()
            .chain([self.cidr])
            .map(|source| {
                let mut exprs = vec![Expr::source_address(family, KEY)];
                exprs.extend(is_in(source));
                masquerade(exprs)
            })
            .collect();
        if let Some(mark) = mark {
            let marked = vec![
                Expr::Meta {
                    key: MetaKey::Mark,
                    to: KEY,
                },
                Expr::mask_xor(KEY, *mark, 0),
                Expr::equal(KEY, Value::host_u32(*mark)),
            ];
            rules.push(masquerade(marked));
        }
        rules
    }
}

fn hash_of(network: &str, said: &str) -> String {
    let hash = hash::fold(&[network.as_bytes(), said.as_bytes()]);
    format!("{:08x}", u32::from_be_bytes(hash))
}

fn loopback(family: Family) -> Option<Cidr> {
    let text = if family == Family::Ip {
        "127.0.0.0/8"
    } else {
        "::1/128"
    };
    text.parse().ok()
}

fn address_bytes(family: Family) -> u32 {
    address_type(family).bytes()
}

fn address_type(family: Family) -> Datatype {
    if family == Family::Ip {
        Datatype::Ipv4Addr
    } else {
        Datatype::Ipv6Addr
    }
}

/// Loads protocol and port as a key.
fn port(to: Register) -> Vec<Expr> {
    vec![Expr::l4proto(to), Expr::destination_port(to.after(1))]
}

/// Loads address, protocol and port as a key.
fn address_port(family: Family) -> Vec<Expr> {
    let mut exprs = vec![Expr::destination_address(family, KEY)];
    exprs.extend(port(KEY.after(address_bytes(family))));
    exprs
}

/// What all networks share.
fn frame(family: Family) -> Scaffold {
    const LOOKUP: &str = "host-port-lookup";
    let address = address_type(family);
    let port_types = [Datatype::InetProto, Datatype::InetService];
    let with_address = [address, Datatype::InetProto, Datatype::InetService];
    let target = || MapData::Value(Type::from([address, Datatype::InetService]));
    let base = |hook, priority| BaseChain::new(ChainType::Nat, hook, priority);
    let enter = || {
        vec![
            Expr::Fib {
                source: FibSource {
                    daddr: true,
                    ..FibSource::default()
                },
                result: FibResult::AddressType,
                to: KEY,
            },
            Expr::equal(KEY, Value::host_u32(FibResult::LOCAL)),
            Expr::Verdict(Verdict::Jump(LOOKUP.to_owned())),
        ]
    };
    let with = |mut exprs: Vec<Expr>, map| {
        exprs.push(Expr::vmap(map, KEY));
        exprs
    };
    Scaffold {
        sets: vec![
            Set::map(PORTS, port_types, MapData::Verdict),
            Set::map(PORTS_OF_ADDRESS, with_address, MapData::Verdict),
            Set::map(TARGETS, port_types, target()),
            Set::map(TARGETS_OF_ADDRESS, with_address, target()),
            Set::new(PODS, address),
            Set::map(CONNECTIONS, with_address, MapData::Verdict),
        ],
        chains: vec![
            (
                Chain::regular(LOOKUP),
                vec![
                    with(address_port(family), PORTS_OF_ADDRESS),
                    with(port(KEY), PORTS),
                ],
            ),
            (
                Chain::base("host-ports-in", base(Hook::Prerouting, DSTNAT)),
                vec![enter()],
            ),
            (
                Chain::base("host-ports-local", base(Hook::Output, DSTNAT)),
                vec![enter()],
            ),
            (
                Chain::base("host-ports-out", base(Hook::Postrouting, BEFORE_SRCNAT)),
                [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                    .map(|protocol| leaving(family, protocol))
                    .into(),
            ),
        ],
    }
}

/// A translated connection on its way to a pod, if it was to one of its ports. A rule for each
/// protocol: nft reads `ct original proto-dst` back only where the protocol is said before.
fn leaving(family: Family, protocol: Protocol) -> Vec<Expr> {
    const TRANSLATED: u32 = nodekit::conntrack::Entry::DESTINATION_TRANSLATED;
    let port = KEY.after(address_bytes(family));
    vec![
        Expr::Ct {
            key: CtKey::Status,
            direction: None,
            to: KEY,
        },
        Expr::Bitwise {
            from: KEY,
            to: KEY,
            operand: BitwiseOperand {
                mask: Value::host_u32(TRANSLATED),
                xor: Value::host_u32(0),
            },
        },
        Expr::differs(KEY, Value::host_u32(0)),
        Expr::destination_address(family, KEY),
        Expr::in_set(PODS, KEY),
        Expr::l4proto(KEY),
        Expr::equal(KEY, Value::new(&[number_of(protocol)])),
        Expr::destination_address(family, KEY),
        Expr::l4proto(port),
        Expr::ct_original(CtKey::ProtoDst, port.after(1)),
        Expr::vmap(CONNECTIONS, KEY),
    ]
}

/// The node's loopback addresses become routable on the link (`route_localnet`): what comes in
/// there for them, before any translation, is nobody's right.
fn guard(link: &str) -> (Chain, Vec<Vec<Expr>>) {
    let base = BaseChain::new(ChainType::Filter, Hook::Prerouting, RAW);
    let rule = |load| {
        let mut exprs = vec![
            Expr::Meta {
                key: MetaKey::Iifname,
                to: KEY,
            },
            Expr::equal(KEY, Value::interface(link)),
            load,
        ];
        exprs.extend(loopback(Family::Ip).map(is_in).into_iter().flatten());
        exprs.push(Expr::Verdict(Verdict::Drop));
        exprs
    };
    let rules = vec![
        rule(Expr::destination_address(Family::Ip, KEY)),
        rule(Expr::source_address(Family::Ip, KEY)),
    ];
    (Chain::base(&format!("loopback-guard-{link}"), base), rules)
}
