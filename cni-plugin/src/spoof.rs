//! Frames of a pod have the pod's own Ethernet address as their source, or are dropped at the
//! bridge's port.
//!
//! One set has the ports that are watched, another each port with its address, so that a pod costs
//! two elements and a frame one rule, whatever the number of pods.

use nodekit::nft::{
    BaseChain, Chain, ChainType, Datatype, Expr, Family, Hook, MetaKey, PayloadBase, Register, Set,
    Value, Verdict,
};
use nodekit::route::Mac;

use crate::tables::{Entries, Key, Scaffold};

/// The ports whose frames are looked at.
const PORTS: &str = "spoof-ports";

/// A port with the source address that its frames may have.
const ADDRESSES: &str = "spoof-addresses";

/// The chain that every frame passes as it comes in by a port.
const CHAIN: &str = "spoof-check";

/// NF_BR_PRI_NAT_DST_BRIDGED (linux/netfilter_bridge.h): before anything is decided by addresses.
const FIRST: i32 = -300;

/// Where a frame's source address is, and its length, in bytes (`struct ethhdr`).
const SOURCE: (u32, u32) = (6, 6);

const PORT: Register = Register::word(0);

/// Has the frames that come in by a port looked at.
pub(crate) fn enter(entries: &mut Entries, port: &str, mac: Mac) {
    entries.needs(Family::Bridge, scaffold());
    let what = format!("spoof check of {port}");
    for key in keys(port, [mac]) {
        entries.put(key, None, &what);
    }
}

/// Where a port's elements are, if its pod has one of these addresses.
pub(crate) fn keys(port: &str, macs: impl IntoIterator<Item = Mac>) -> Vec<Key> {
    let port = Value::interface(port);
    let with = |mac: Mac| {
        let both = Value::concat(&[port.bytes(), &mac.0]);
        Key::new(Family::Bridge, ADDRESSES, both)
    };
    let mut keys: Vec<_> = macs.into_iter().map(with).collect();
    keys.push(Key::new(Family::Bridge, PORTS, port));
    keys
}

fn scaffold() -> Scaffold {
    let (offset, len) = SOURCE;
    let rule = vec![
        Expr::Meta {
            key: MetaKey::Iifname,
            to: PORT,
        },
        Expr::in_set(PORTS, PORT),
        Expr::Payload {
            base: PayloadBase::Link,
            offset,
            len,
            to: PORT.after(Datatype::InterfaceName.bytes()),
        },
        Expr::not_in_set(ADDRESSES, PORT),
        Expr::Verdict(Verdict::Drop),
    ];
    let base = BaseChain::new(ChainType::Filter, Hook::Prerouting, FIRST);
    let both = [Datatype::InterfaceName, Datatype::EtherAddr];
    Scaffold {
        sets: vec![
            Set::new(PORTS, Datatype::InterfaceName),
            Set::new(ADDRESSES, both),
        ],
        chains: vec![(Chain::base(CHAIN, base), vec![rule])],
    }
}
