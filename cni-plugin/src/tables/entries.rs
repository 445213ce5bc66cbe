//! What is wanted in the tables, as data.

use std::net::IpAddr;

use nodekit::nft::{Batch, Chain, Data, Element, Expr, Family, Rule, Set, Table, Value};

use super::Owner;

/// Where an element stands in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) family: Family,
    pub(crate) set: &'static str,
    pub(crate) value: Value,
}

impl Key {
    pub(crate) fn new(family: Family, set: &'static str, value: Value) -> Self {
        Self { family, set, value }
    }

    /// An address in a set of its family's table.
    pub(crate) fn of_address(set: &'static str, address: IpAddr) -> Self {
        Self::new(family_of(address), set, address_key(address))
    }
}

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(super) key: Key,
    pub(super) element: Element,
    /// Whoever else has the key, alive, keeps it.
    pub(super) claimed: bool,
    /// In words, for errors.
    pub(super) what: String,
}

/// Sets and chains that elements need around them. Made again it changes nothing, at whatever
/// moment another process does the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Scaffold {
    pub(crate) sets: Vec<Set>,
    /// Each with all its rules.
    pub(crate) chains: Vec<(Chain, Vec<Vec<Expr>>)>,
}

impl Scaffold {
    /// In an order in which rules may name every set and chain.
    pub(super) fn add(&self, tag: usize, batch: &mut Batch) {
        batch.add_table(tag, &Table::default());
        for set in &self.sets {
            batch.add_set(tag, set);
        }
        for (chain, _) in &self.chains {
            batch.add_chain(tag, chain);
        }
        for (chain, rules) in &self.chains {
            batch.flush_chain(tag, &chain.name);
            for exprs in rules {
                batch.add_rule(tag, &Rule::new(&chain.name, exprs.clone()));
            }
        }
    }
}

/// Everything that one attachment wants in the tables, of every feature and family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries {
    owner: Owner,
    list: Vec<Entry>,
    scaffolds: Vec<(Family, Scaffold)>,
}

impl Entries {
    /// None yet. All will be this owner's.
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            list: Vec::new(),
            scaffolds: Vec::new(),
        }
    }

    /// Elements of that family need this; said twice it counts once.
    pub(crate) fn needs(&mut self, family: Family, scaffold: Scaffold) {
        let needed = (family, scaffold);
        if !self.scaffolds.contains(&needed) {
            self.scaffolds.push(needed);
        }
    }

    /// An element (of a map where there are `data`) that takes the place of whatever another
    /// attachment left there. `what` begins errors: "masquerading of 10.1.0.5".
    pub(crate) fn put(&mut self, key: Key, data: Option<Data>, what: impl Into<String>) {
        self.push(key, data, what.into(), false);
    }

    /// An element that only takes the place of one whose owner is gone.
    pub(crate) fn claim(&mut self, key: Key, data: Option<Data>, what: impl Into<String>) {
        self.push(key, data, what.into(), true);
    }

    fn push(&mut self, key: Key, data: Option<Data>, what: String, claimed: bool) {
        let element = Element {
            data,
            comment: Some(self.owner.comment(claimed)),
            ..Element::new(key.value.clone())
        };
        self.list.push(Entry {
            key,
            element,
            claimed,
            what,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All keys, for an undo.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.list.iter().map(|entry| entry.key.clone()).collect()
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.list.iter()
    }

    pub(super) fn scaffolds(&self) -> &[(Family, Scaffold)] {
        &self.scaffolds
    }
}

/// The family of an address's table.
pub(crate) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::Ip
    } else {
        Family::Ip6
    }
}

/// An address as a key.
pub(crate) fn address_key(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(address) => Value::new(&address.octets()),
        IpAddr::V6(address) => Value::new(&address.octets()),
    }
}
