//! Ingress policies in nf_tables.
//!
//! A bridge whose pods have a policy has a chain of its own, which looks at what pods of it send
//! through the node: towards a protected pod of another bridge, and on the same bridge towards an
//! isolated one, nothing new is let through. Elsewhere from, as by a host port, everything is: as
//! in the reference, a policy is about bridges among each other. Frames that the bridge forwards
//! by itself never come there; for them isolated pods' ports are in a set of the bridge's own
//! family, where connections are not tracked: neither way.
//!
//! A pod costs an element or two in each of its families, and no rule.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Error, Object};
use nodekit::nft::{
    BaseChain, Chain, ChainType, CtKey, Data, Datatype, Expr, Family, Hook, MapData, MetaKey,
    Register, Set, Value, Verdict,
};

use crate::tables::{Entries, Key, Scaffold, family_of};

/// Addresses of pods to which other bridges' pods get no connection.
const PROTECTED: &str = "protected-pods";
/// Those of them to which pods of the same bridge get none either.
const ISOLATED: &str = "isolated-pods";
/// Ports, in the bridge family, that get nothing from other ports and send nothing to them.
const PORTS: &str = "isolated-ports";

/// All of them.
pub(super) const SETS: [&str; 3] = [PROTECTED, ISOLATED, PORTS];

/// `filter`, NF_IP_PRI_FILTER (linux/netfilter_ipv4.h).
const FILTER: i32 = 0;
/// `filter` of bridges, NF_BR_PRI_FILTER_BRIDGED (linux/netfilter_bridge.h).
const BRIDGE_FILTER: i32 = -200;

/// Bits of `ct state` (NF_CT_STATE_BIT, linux/netfilter/nf_conntrack_common.h).
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;

const REGISTER: Register = Register::word(0);

/// The key `ingressPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Open,
    SameBridge,
    Isolated,
}

impl Policy {
    /// `None` where nothing is said.
    ///
    /// # Errors
    /// Code 6 or 7 for anything else than the three words.
    pub(crate) fn read(object: &Object<'_>) -> Result<Option<Self>, Error> {
        let key = "ingressPolicy";
        Ok(Some(match object.filled_text(key)? {
            None => return Ok(None),
            Some("open") => Self::Open,
            Some("same-bridge") => Self::SameBridge,
            Some("isolated") => Self::Isolated,
            Some(_) => return Err(object.invalid(key, "open, same-bridge or isolated")),
        }))
    }
}

/// Whom a policy protects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ingress<'a> {
    pub(crate) policy: Policy,
    /// The pod's bridge.
    pub(crate) bridge: &'a str,
    /// The bridge's port that leads to the pod.
    pub(crate) port: &'a str,
    pub(crate) addresses: &'a [IpAddr],
}

/// Enters what the policy needs; nothing for `open`.
pub(crate) fn enter(entries: &mut Entries, ingress: &Ingress<'_>) {
    let Ingress {
        policy,
        bridge,
        port,
        addresses,
    } = *ingress;
    if policy == Policy::Open {
        return;
    }
    for address in addresses {
        let family = family_of(*address);
        entries.needs(family, scaffold(family, bridge));
        let mut put = |set, what: &str| {
            let key = Key::of_address(set, *address);
            // That chain is there if the bridge's others are.
            let data = Data::Verdict(Verdict::Goto(closed_chain(bridge)));
            entries.put(key, Some(data), format!("{what} of {address}"));
        };
        put(PROTECTED, "protection");
        if policy == Policy::Isolated {
            put(ISOLATED, "isolation");
        }
    }
    if policy == Policy::Isolated {
        entries.needs(Family::Bridge, ports_scaffold());
        entries.put(port_key(port), None, format!("isolation of port {port}"));
    }
}

/// Where an attachment's elements may be; each place once.
pub(crate) fn keys<'a>(addresses: &[IpAddr], ports: impl IntoIterator<Item = &'a str>) -> Vec<Key> {
    let ports: BTreeSet<_> = ports.into_iter().collect();
    let mut keys: Vec<_> = ports.into_iter().map(port_key).collect();
    for address in addresses.iter().collect::<BTreeSet<_>>() {
        keys.extend([PROTECTED, ISOLATED].map(|set| Key::of_address(set, *address)));
    }
    keys
}

fn port_key(name: &str) -> Key {
    Key::new(Family::Bridge, PORTS, Value::interface(name))
}

fn closed_chain(bridge: &str) -> String {
    format!("into-{bridge}")
}

/// A bridge's chains: what its pods send, and what becomes of what its pods don't get. They stay
/// when the last protected pod goes, and do nothing then.
fn scaffold(family: Family, bridge: &str) -> Scaffold {
    let key = if family == Family::Ip {
        Datatype::Ipv4Addr
    } else {
        Datatype::Ipv6Addr
    };
    let load = |key| Expr::Meta { key, to: REGISTER };
    let name = || Value::interface(bridge);
    let refused = |map| {
        [
            Expr::destination_address(family, REGISTER),
            Expr::vmap(map, REGISTER),
        ]
    };
    let passes = || Expr::Verdict(Verdict::Return);
    let state = Expr::Ct {
        key: CtKey::State,
        direction: None,
        to: REGISTER,
    };
    let rules = vec![
        vec![
            load(MetaKey::Iifname),
            Expr::differs(REGISTER, name()),
            passes(),
        ],
        vec![
            state,
            Expr::mask_xor(REGISTER, ESTABLISHED | RELATED, 0),
            Expr::differs(REGISTER, Value::host_u32(0)),
            passes(),
        ],
        [
            &[load(MetaKey::Oifname), Expr::differs(REGISTER, name())][..],
            &refused(PROTECTED),
        ]
        .concat(),
        [
            &[load(MetaKey::Oifname), Expr::equal(REGISTER, name())][..],
            &refused(ISOLATED),
        ]
        .concat(),
    ];
    let base = BaseChain::new(ChainType::Filter, Hook::Forward, FILTER);
    let chain = Chain::base(&format!("from-{bridge}"), base);
    let closed = Chain::regular(&closed_chain(bridge));
    let map = |name| Set::map(name, key, MapData::Verdict);
    Scaffold {
        sets: vec![map(PROTECTED), map(ISOLATED)],
        chains: vec![
            (closed, vec![vec![Expr::Verdict(Verdict::Drop)]]),
            (chain, rules),
        ],
    }
}

fn ports_scaffold() -> Scaffold {
    let refuse = |key| {
        vec![
            Expr::Meta { key, to: REGISTER },
            Expr::in_set(PORTS, REGISTER),
            Expr::Verdict(Verdict::Drop),
        ]
    };
    let base = BaseChain::new(ChainType::Filter, Hook::Forward, BRIDGE_FILTER);
    Scaffold {
        sets: vec![Set::new(PORTS, Datatype::InterfaceName)],
        chains: vec![(
            Chain::base("between-ports", base),
            vec![refuse(MetaKey::Iifname), refuse(MetaKey::Oifname)],
        )],
    }
}

#[cfg(test)]
mod tests {
    use cni_types::Attachment;

    use super::*;
    use crate::tables::Owner;

    #[test]
    fn what_is_entered_is_among_the_keys() {
        let addresses = ["10.1.0.5", "fd01::5"].map(|text| text.parse().unwrap());
        let counts = [
            (Policy::Open, 0),
            (Policy::SameBridge, 2),
            (Policy::Isolated, 5),
        ];
        for (policy, count) in counts {
            let owner = Owner::new("net", &Attachment::new("a", "eth0").unwrap());
            let mut entries = Entries::new(owner);
            let ingress = Ingress {
                policy,
                bridge: "br0",
                port: "veth0",
                addresses: &addresses,
            };
            enter(&mut entries, &ingress);
            let known = keys(&addresses, ["eth9", "veth0"]);
            assert_eq!(entries.keys().len(), count);
            assert!(entries.keys().iter().all(|key| known.contains(key)));
        }
    }
}
