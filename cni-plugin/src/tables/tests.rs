//! Against a kernel: one transaction, owners, and what comes in between.

use cni_types::Attachment;
use nodekit::netns::NetNs;
use nodekit::nft::{BaseChain, Chain, ChainType, Datatype, Expr, Hook, Register, Set, Value};
use nodekit::nft::{Data, MapData, Verdict};
use nodekit::route::{Handle, NewBridge};

use super::*;

const PLAIN: &str = "plain";
const LED: &str = "led";

fn owner(id: &str) -> Owner {
    Owner::new("net", &Attachment::new(id, "eth0").unwrap())
}

fn key(family: Family, set: &'static str, number: u32) -> Key {
    Key::new(family, set, Value::host_u32(number))
}

fn scaffold() -> Scaffold {
    let register = Register::word(0);
    let base = BaseChain::new(ChainType::Filter, Hook::Input, 0);
    let mark = Expr::Meta {
        key: nft::MetaKey::Mark,
        to: register,
    };
    let chain = Chain {
        comment: Some(network_tag("net")),
        ..Chain::regular("net-chain")
    };
    Scaffold {
        sets: vec![
            Set::map(LED, Datatype::Mark, MapData::Verdict),
            Set::new(PLAIN, Datatype::Mark),
        ],
        chains: vec![
            (
                Chain::base("input", base),
                vec![vec![mark, Expr::vmap(LED, register)]],
            ),
            (chain, vec![vec![Expr::Verdict(Verdict::Accept)]]),
        ],
    }
}

/// Elements of every family: a number in a plain set, a claimed one that leads to a chain.
fn entries(owner: Owner, plain: u32, claimed: u32) -> Entries {
    let mut entries = Entries::new(owner);
    for family in FAMILIES {
        entries.needs(family, scaffold());
        entries.put(key(family, PLAIN, plain), None, format!("number {plain}"));
        let goto = Data::Verdict(Verdict::Goto("net-chain".into()));
        let what = format!("claim {claimed}");
        entries.claim(key(family, LED, claimed), Some(goto), what);
    }
    entries
}

fn count(tables: &mut Tables) -> usize {
    let mut count = 0;
    for family in FAMILIES {
        for set in [PLAIN, LED] {
            count += tables.nft.elements(family, TABLE, set).unwrap().len();
        }
    }
    count
}

fn on_node(test: impl FnOnce(&mut Tables) + Send) {
    let node = NetNs::anonymous().unwrap();
    node.run(|| test(&mut Tables::open().unwrap())).unwrap();
}

#[test]
fn every_family_is_in_one_transaction() {
    on_node(|tables| {
        let before = tables.nft.generation().unwrap();
        let a = entries(owner("a"), 1, 1);
        tables.add(&a).unwrap();
        tables.add(&entries(owner("b"), 2, 2)).unwrap();
        assert_eq!(tables.nft.generation().unwrap(), before + 2);
        assert_eq!(count(tables), 12);
        tables.check(&a).unwrap();
        tables.remove(a.owner(), &a.keys()).unwrap();
        assert_eq!(tables.nft.generation().unwrap(), before + 3);
        assert_eq!(count(tables), 6);
        let error = tables.check(&a).unwrap_err();
        assert_eq!(error.code, failure::CHANGED);
        assert!(error.message.starts_with("number 1 is gone"), "{error}");
        // Nothing to remove is no transaction at all.
        tables.remove(a.owner(), &a.keys()).unwrap();
        tables.remove_all(a.owner(), None).unwrap();
        assert_eq!(tables.nft.generation().unwrap(), before + 3);
    });
}

#[test]
fn a_key_that_is_named_twice_goes_once() {
    on_node(|tables| {
        let a = entries(owner("a"), 1, 1);
        tables.add(&a).unwrap();
        let twice = [a.keys(), a.keys()].concat();
        assert_eq!(tables.remove(a.owner(), &twice).unwrap().len(), 6);
        assert_eq!(count(tables), 0);
    });
}

#[test]
fn only_the_owner_removes() {
    on_node(|tables| {
        let a = entries(owner("a"), 1, 1);
        tables.add(&a).unwrap();
        let elsewhere = Owner::new("other", &Attachment::new("a", "eth0").unwrap());
        for stranger in [owner("b"), elsewhere] {
            assert!(!tables.holds_any(&stranger, &a.keys()).unwrap());
            tables.remove(&stranger, &a.keys()).unwrap();
            tables.remove_all(&stranger, None).unwrap();
        }
        assert_eq!(count(tables), 6);
        assert!(tables.holds_any(a.owner(), &a.keys()).unwrap());
        assert_eq!(tables.remove_all(a.owner(), Some(&[LED])).unwrap().len(), 3);
        assert_eq!(count(tables), 3);
        assert_eq!(tables.remove_all(a.owner(), None).unwrap().len(), 3);
        assert_eq!(count(tables), 0);
    });
}

#[test]
fn a_claim_yields_to_the_living_only() {
    on_node(|tables| {
        let link = Some("host-end".to_owned());
        let bridge = NewBridge {
            name: "host-end",
            mac: None,
            mtu: None,
            vlan_filtering: None,
            up: false,
        };
        let mut route = Handle::open().unwrap();
        route.create_bridge(&bridge).unwrap();
        tables
            .add(&entries(owner("a").with_link(link), 1, 7))
            .unwrap();
        let b = entries(owner("b"), 1, 7);
        let error = tables.add(&b).unwrap_err();
        assert_eq!(error.code, failure::CONFLICT);
        let told = "claim 7 is held by container a (eth0, network net)";
        assert_eq!(error.message, told);
        // Nothing of the refused one came in: the plain element is still the first one's.
        assert!(!tables.holds_any(b.owner(), &b.keys()).unwrap());

        let index = route.link_by_name("host-end").unwrap().index;
        route.delete_link(index).unwrap();
        tables.add(&b).unwrap();
        tables.check(&b).unwrap();
        // Its own claim is nobody else's.
        tables.add(&entries(owner("b"), 1, 7)).unwrap();
        assert_eq!(count(tables), 6);
    });
}

#[test]
fn gc_keeps_the_kept_and_other_networks() {
    on_node(|tables| {
        for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
            let number = u32::try_from(number).unwrap();
            tables.add(&entries(owner(id), number, number)).unwrap();
        }
        let attachment = Attachment::new("a", "eth0").unwrap();
        let other = Owner::new("other", &attachment);
        tables.add(&entries(other, 9, 9)).unwrap();
        let before = tables.nft.generation().unwrap();
        tables
            .keep_only("net", &BTreeSet::from([attachment.clone()]))
            .unwrap();
        assert_eq!(tables.nft.generation().unwrap(), before + 1);
        assert_eq!(count(tables), 12);
        tables.keep_only("other", &BTreeSet::new()).unwrap();
        assert_eq!(count(tables), 6);
        let chains = |tables: &mut Tables| tables.nft.chains(Family::Bridge, TABLE).unwrap().len();
        assert_eq!(chains(tables), 2);
        tables.keep_only("net", &BTreeSet::new()).unwrap();
        assert_eq!((count(tables), chains(tables)), (0, 1));
        tables.keep_only("net", &BTreeSet::new()).unwrap();
    });
}

#[test]
fn comments_fit_and_are_read_back() {
    let longest = Attachment::new(&"a".repeat(200), "interface-name5").unwrap();
    let network = "n".repeat(200);
    let owner = Owner::new(&network, &longest).with_link(Some("vethabcdef01".into()));
    let comment = owner.comment(true);
    assert!(comment.len() <= 254, "{}", comment.len());
    assert_eq!(Owner::read(&comment), Some(owner.clone()));
    assert!(owner.is_same(&Owner::read(&owner.comment(false)).unwrap()));
    assert_ne!(network_tag(&network), network_tag(&network[1..]));
    assert_eq!(network_tag("k8s-pod-network"), "k8s-pod-network");
    let usual = Attachment::new(&"a".repeat(64), "eth0").unwrap();
    let usual = Owner::new(&network, &usual).with_link(Some("vethabcdef01".into()));
    assert!(usual.comment(true).len() < 128);
    for other in ["", "a", "a eth0", "layout 1", "/ eth0 net"] {
        assert_eq!(Owner::read(other), None, "{other:?}");
    }
}
