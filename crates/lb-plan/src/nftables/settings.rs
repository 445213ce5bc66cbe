//! What the whole table depends on, and the table without any Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use lb_model::{Family, LocalDetector};

use super::class::Addressing;
use super::element::{Element, Set};
use super::operation::Operation;
use super::rule::{Chain, Match, Rule, Statement};

/// How many clients [`Set::Affinity`] remembers at most; the next ones get a random endpoint each
/// time.
pub const AFFINITY_SIZE: u32 = 65_536;

/// Counts up whenever the sets, chains or rules mean something else than before.
const LAYOUT: u32 = 3;

/// Who chooses the endpoint of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Balancer {
    /// The table itself.
    #[default]
    Rules,
    /// IPVS, wherever an endpoint is as good as another for every source. Its addresses are this
    /// node's then, which must answer on no other port of them, and from none of them.
    Ipvs {
        /// Those that are the node's anyway, and stay what they are. Not part of the signature.
        own: BTreeSet<IpAddr>,
    },
}

/// What the whole table of one family depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The family.
    pub family: Family,
    /// Number of the bit of the packet's mark (0 to 31) that says "rewrite the source"
    /// (`masqueradeBit`).
    pub masquerade_bit: u8,
    /// How a source is recognised as a pod's.
    pub detector: LocalDetector,
    /// The addresses on which node ports are served. Not part of the signature.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// The ranges from which ClusterIPs are taken, none inside another. Not part of the signature.
    pub service_cidrs: BTreeSet<IpNetwork>,
    /// Who chooses.
    pub balancer: Balancer,
}

impl Settings {
    /// The mask of the masquerade mark.
    pub const fn mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }

    /// What the table says about itself: a table with the same signature can be adopted, any other
    /// is replaced. At most 128 bytes.
    pub fn signature(&self) -> String {
        let detector = match &self.detector {
            LocalDetector::None => "none".to_owned(),
            LocalDetector::Cidr(network) => format!("cidr={network}"),
            LocalDetector::Interface(name) => format!("interface={name}"),
            LocalDetector::InterfacePrefix(prefix) => format!("prefix={prefix}"),
        };
        let balancer = match self.balancer {
            Balancer::Rules => "",
            Balancer::Ipvs { .. } => " ipvs",
        };
        format!(
            "causeway {LAYOUT} mark={:#x} pods={detector}{balancer}",
            self.mark()
        )
    }

    /// The operations from node-port addresses `old` to those wanted now.
    pub fn node_port_address_changes(&self, old: &BTreeSet<IpAddr>) -> Vec<Operation> {
        let wanted: BTreeSet<IpAddr> = self.own_node_port_addresses().collect();
        let gone = old.difference(&wanted).copied();
        let new = wanted.difference(old).copied();
        gone.map(|ip| Operation::DeleteElement(Element::NodePortAddress(ip)))
            .chain(new.map(|ip| Operation::AddElement(Element::NodePortAddress(ip))))
            .collect()
    }

    /// The operations from ranges `old` to those wanted now.
    pub fn service_cidr_changes(&self, old: &BTreeSet<IpNetwork>) -> Vec<Operation> {
        let gone = old.difference(&self.service_cidrs).copied();
        let new = self.service_cidrs.difference(old).copied();
        gone.map(|cidr| Operation::DeleteElement(Element::ServiceCidr(cidr)))
            .chain(new.map(|cidr| Operation::AddElement(Element::ServiceCidr(cidr))))
            .collect()
    }

    /// Those of this family.
    pub(super) fn own_node_port_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.node_port_addresses
            .iter()
            .copied()
            .filter(|ip| Family::of(*ip) == self.family)
    }
}

/// The table with its sets and base chains, without node-port addresses and Services.
pub fn skeleton(settings: &Settings) -> Vec<Operation> {
    let mut operations = vec![Operation::AddTable {
        signature: settings.signature(),
    }];
    operations.extend(Set::ALL.map(Operation::AddSet));
    operations.extend(Chain::OWN.map(Operation::AddChain));
    for (chain, rule) in rules(settings) {
        operations.push(Operation::AddRule { chain, rule });
    }
    operations.push(Operation::AddRule {
        chain: Chain::NatUnallocated,
        rule: Rule::new([Match::UnallocatedClusterIp], [Statement::Drop]),
    });
    operations
}

fn rules(settings: &Settings) -> Vec<(Chain, Rule)> {
    let mark = settings.mark();
    let mut rules = vec![
        (
            Chain::Learn,
            Rule::new([], [Statement::DispatchLearn(Addressing::Vip)]),
        ),
        (
            Chain::Learn,
            Rule::new(
                [Match::AimedAt(Set::NodePortAddresses)],
                [Statement::DispatchLearn(Addressing::NodePort)],
            ),
        ),
    ];
    // An endpoint may be a process of the node itself.
    for chain in [Chain::NatPostrouting, Chain::NatInput] {
        rules.push((
            chain,
            Rule::new([Match::Translated], [Statement::Jump(Chain::Learn)]),
        ));
    }
    rules.extend([
        (
            Chain::Services,
            Rule::new([], [Statement::Dispatch(Addressing::Vip)]),
        ),
        (
            Chain::Services,
            Rule::new(
                [Match::DestinationIn(Set::NodePortAddresses)],
                [Statement::Dispatch(Addressing::NodePort)],
            ),
        ),
        (
            Chain::Services,
            Rule::new([Match::DestinationIn(Set::ClusterIps)], [Statement::Reject]),
        ),
        (
            Chain::NatPrerouting,
            Rule::new([], [Statement::Jump(Chain::Services)]),
        ),
        (
            Chain::NatOutput,
            Rule::new([], [Statement::Jump(Chain::Services)]),
        ),
    ]);
    rules.extend(source_rules(settings));
    rules.extend([
        (
            Chain::NatPostrouting,
            Rule::new([Match::MarkClear(mark)], [Statement::Return]),
        ),
        (
            Chain::NatPostrouting,
            Rule::new([], [Statement::FlipMark(mark), Statement::Masquerade]),
        ),
    ]);
    rules
}

/// What has its source rewritten whatever its mark says.
fn source_rules(settings: &Settings) -> Vec<(Chain, Rule)> {
    let masquerade = |matches: &[Match]| {
        let rule = Rule::new(matches, [Statement::Masquerade]);
        (Chain::NatPostrouting, rule)
    };
    match settings.balancer {
        Balancer::Rules => vec![masquerade(&[Match::Translated, Match::Hairpin])],
        // Connection tracking does not know that IPVS translates. And a process of the node that
        // connects to an address which is the node's own does so from that very address, to which
        // other nodes would not answer.
        Balancer::Ipvs { .. } => vec![
            masquerade(&[Match::Hairpin]),
            masquerade(&[Match::SourceIn(Set::ClusterIps)]),
        ],
    }
}
