//! A kernel in memory that takes the operations and is as strict as the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use lb_model::{Family, FrontendAddress};

use super::adopt::Found;
use super::class::Class;
use super::element::{Element, Set, Target};
use super::operation::Operation;
use super::rule::{Chain, Match, Rule, Statement};

/// Why an operation cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no table.
    NoTable,
    /// There is a table already.
    TableExists,
    /// There is no such set.
    NoSet(Set),
    /// The set is there already.
    SetExists(Set),
    /// There is no such chain.
    NoChain(Chain),
    /// The chain is there already.
    ChainExists(Chain),
    /// Something goes to the chain.
    ChainInUse(Chain),
    /// The element to be removed is not there.
    NoElement(Element),
    /// An element with that key and other data, or a range that overlaps, is there already.
    ElementExists(Element),
}

/// The table of one family, as a kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualKernel {
    family: Family,
    table: Option<Table>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    signature: String,
    sets: BTreeSet<Set>,
    pub(super) chains: BTreeMap<Chain, Vec<Rule>>,
    pub(super) frontends: BTreeMap<FrontendAddress, Class>,
    pub(super) learns: BTreeMap<FrontendAddress, NonZeroU32>,
    pub(super) endpoints: BTreeMap<(FrontendAddress, u16), Target>,
    pub(super) sources: BTreeSet<(FrontendAddress, IpNetwork)>,
    pub(super) node_port_addresses: BTreeSet<IpAddr>,
    pub(super) service_cidrs: BTreeSet<IpNetwork>,
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    pub(super) hairpins: BTreeSet<IpAddr>,
}

impl VirtualKernel {
    /// A kernel without our table.
    pub const fn new(family: Family) -> Self {
        Self {
            family,
            table: None,
        }
    }

    /// Applies `operations` in one transaction.
    ///
    /// # Errors
    /// The first operation that cannot be done; nothing has changed then.
    pub fn apply(&mut self, operations: &[Operation]) -> Result<(), Refusal> {
        let mut table = self.table.clone();
        for operation in operations {
            match (operation, &mut table) {
                (Operation::AddTable { signature }, None) => {
                    table = Some(Table {
                        signature: signature.clone(),
                        ..Table::default()
                    });
                }
                (Operation::AddTable { .. }, Some(_)) => return Err(Refusal::TableExists),
                (_, None) => return Err(Refusal::NoTable),
                (Operation::DeleteTable, Some(_)) => table = None,
                (operation, Some(table)) => table.apply(operation)?,
            }
        }
        self.table = table;
        Ok(())
    }

    /// What the table says about itself.
    pub fn signature(&self) -> Option<&str> {
        self.table.as_ref().map(|table| table.signature.as_str())
    }

    /// What a restarted proxy reads back.
    pub fn found(&self) -> Found {
        let Some(table) = &self.table else {
            return Found::default();
        };
        let comes_and_goes = |chain: &&Chain| matches!(chain, Chain::Class(_) | Chain::LearnFor(_));
        let chains = table.chains.keys().filter(comes_and_goes);
        Found {
            chains: chains.map(ToString::to_string).collect(),
            elements: table.elements().collect(),
        }
    }

    /// The table with the endpoints of every frontend in the order of their addresses, and so equal
    /// for two tables that treat every packet alike.
    #[must_use]
    pub fn regardless_of_slots(&self) -> Self {
        let mut same = self.clone();
        if let Some(table) = &mut same.table {
            let mut by_range: BTreeMap<(FrontendAddress, bool), Vec<(u16, Target)>> =
                BTreeMap::new();
            for ((address, slot), target) in &table.endpoints {
                let local = *slot >= super::LOCAL_SLOTS;
                by_range
                    .entry((*address, local))
                    .or_default()
                    .push((*slot, *target));
            }
            for ((address, _), entries) in by_range {
                let mut targets: Vec<Target> = entries.iter().map(|(_, target)| *target).collect();
                targets.sort_unstable();
                for ((slot, _), target) in entries.into_iter().zip(targets) {
                    table.endpoints.insert((address, slot), target);
                }
            }
        }
        same
    }

    pub(super) const fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }
}

impl Table {
    fn apply(&mut self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::AddTable { .. } | Operation::DeleteTable => Ok(()),
            Operation::AddSet(set) if self.sets.insert(*set) => Ok(()),
            Operation::AddSet(set) => Err(Refusal::SetExists(*set)),
            Operation::AddChain(chain) => match self.chains.insert(*chain, Vec::new()) {
                None => Ok(()),
                Some(_) => Err(Refusal::ChainExists(*chain)),
            },
            Operation::AddRule { chain, rule } => self.add_rule(*chain, rule),
            Operation::DeleteChain(chain) => self.delete_chain(*chain),
            Operation::AddElement(element) => {
                self.require_set(element.set())?;
                self.add(*element)
            }
            Operation::DeleteElement(element) => {
                self.require_set(element.set())?;
                if self.remove(element) {
                    Ok(())
                } else {
                    Err(Refusal::NoElement(*element))
                }
            }
        }
    }

    fn require_set(&self, set: Set) -> Result<(), Refusal> {
        if self.sets.contains(&set) {
            Ok(())
        } else {
            Err(Refusal::NoSet(set))
        }
    }

    fn require_chain(&self, chain: Chain) -> Result<(), Refusal> {
        if self.chains.contains_key(&chain) {
            Ok(())
        } else {
            Err(Refusal::NoChain(chain))
        }
    }

    fn add_rule(&mut self, chain: Chain, rule: &Rule) -> Result<(), Refusal> {
        for matching in &rule.matches {
            match matching {
                Match::DestinationIn(set) | Match::AimedAt(set) => self.require_set(*set)?,
                Match::SourceNotAllowed => self.require_set(Set::SourceRanges)?,
                Match::UnallocatedClusterIp => self.require_set(Set::ServiceCidrs)?,
                Match::Hairpin => self.require_set(Set::Hairpin)?,
                _ => {}
            }
        }
        for statement in &rule.statements {
            match statement {
                Statement::Jump(other) | Statement::Goto(other) => self.require_chain(*other)?,
                Statement::Dispatch(_) => {
                    self.require_set(Set::Frontends)?;
                    self.require_set(Set::NodePorts)?;
                }
                Statement::Choose(_) => {
                    self.require_set(Set::Endpoints)?;
                    self.require_set(Set::NodePortEndpoints)?;
                }
                Statement::DispatchLearn(_) => {
                    self.require_set(Set::AffinityLearn)?;
                    self.require_set(Set::AffinityLearnPorts)?;
                }
                Statement::Remember(_) | Statement::Follow => self.require_set(Set::Affinity)?,
                _ => {}
            }
        }
        match self.chains.get_mut(&chain) {
            Some(rules) => rules.push(rule.clone()),
            None => return Err(Refusal::NoChain(chain)),
        }
        Ok(())
    }

    fn delete_chain(&mut self, chain: Chain) -> Result<(), Refusal> {
        let goes_there = |statement: &Statement| matches!(statement, Statement::Jump(c) | Statement::Goto(c) if *c == chain);
        let mut rules = self
            .chains
            .iter()
            .filter(|(from, _)| **from != chain)
            .flat_map(|(_, rules)| rules);
        let by_rule = rules.any(|rule| rule.statements.iter().any(goes_there));
        let by_element = self.frontends.values().any(|c| Chain::Class(*c) == chain)
            || self.learns.values().any(|s| Chain::LearnFor(*s) == chain);
        if by_rule || by_element {
            return Err(Refusal::ChainInUse(chain));
        }
        match self.chains.remove(&chain) {
            Some(_) => Ok(()),
            None => Err(Refusal::NoChain(chain)),
        }
    }

    fn add(&mut self, element: Element) -> Result<(), Refusal> {
        let fresh = match element {
            Element::Frontend { address, class } => {
                self.require_chain(Chain::Class(class))?;
                *self.frontends.entry(address).or_insert(class) == class
            }
            Element::Learn { address, seconds } => {
                self.require_chain(Chain::LearnFor(seconds))?;
                *self.learns.entry(address).or_insert(seconds) == seconds
            }
            Element::Endpoint {
                address,
                slot,
                target,
            } => *self.endpoints.entry((address, slot)).or_insert(target) == target,
            Element::SourceRange { address, source } => {
                let overlaps = self.sources.iter().any(|(other, range)| {
                    *other == address
                        && *range != source
                        && (range.contains(source.network()) || source.contains(range.network()))
                });
                self.sources.insert((address, source));
                !overlaps
            }
            Element::ServiceCidr(cidr) => {
                let overlaps = self.service_cidrs.iter().any(|other| {
                    *other != cidr
                        && (other.contains(cidr.network()) || cidr.contains(other.network()))
                });
                self.service_cidrs.insert(cidr);
                !overlaps
            }
            Element::NodePortAddress(ip) => {
                self.node_port_addresses.insert(ip);
                true
            }
            Element::ClusterIp(ip) => {
                self.cluster_ips.insert(ip);
                true
            }
            Element::Hairpin(ip) => {
                self.hairpins.insert(ip);
                true
            }
        };
        if fresh {
            Ok(())
        } else {
            Err(Refusal::ElementExists(element))
        }
    }

    /// Removes the element with its data; false if it is not there, or with other data.
    fn remove(&mut self, element: &Element) -> bool {
        match element {
            Element::Frontend { address, class } => {
                self.frontends.remove(address).as_ref() == Some(class)
            }
            Element::Learn { address, seconds } => {
                self.learns.remove(address).as_ref() == Some(seconds)
            }
            Element::Endpoint {
                address,
                slot,
                target,
            } => self.endpoints.remove(&(*address, *slot)).as_ref() == Some(target),
            Element::SourceRange { address, source } => self.sources.remove(&(*address, *source)),
            Element::NodePortAddress(ip) => self.node_port_addresses.remove(ip),
            Element::ClusterIp(ip) => self.cluster_ips.remove(ip),
            Element::ServiceCidr(cidr) => self.service_cidrs.remove(cidr),
            Element::Hairpin(ip) => self.hairpins.remove(ip),
        }
    }

    fn elements(&self) -> impl Iterator<Item = Element> + '_ {
        let frontends = self
            .frontends
            .iter()
            .map(|(address, class)| Element::Frontend {
                address: *address,
                class: *class,
            });
        let endpoints = self
            .endpoints
            .iter()
            .map(|((address, slot), target)| Element::Endpoint {
                address: *address,
                slot: *slot,
                target: *target,
            });
        let learns = self.learns.iter().map(|(address, seconds)| Element::Learn {
            address: *address,
            seconds: *seconds,
        });
        let sources = self
            .sources
            .iter()
            .map(|(address, source)| Element::SourceRange {
                address: *address,
                source: *source,
            });
        let addresses = self.node_port_addresses.iter().copied();
        frontends
            .chain(endpoints)
            .chain(learns)
            .chain(sources)
            .chain(addresses.map(Element::NodePortAddress))
            .chain(self.cluster_ips.iter().copied().map(Element::ClusterIp))
            .chain(self.service_cidrs.iter().copied().map(Element::ServiceCidr))
            .chain(self.hairpins.iter().copied().map(Element::Hairpin))
    }
}
