//! Operations as `nft -f` reads them: for people, for golden files and for a dry run.

use std::fmt::Write;

use ipnetwork::IpNetwork;
use lb_model::{Family, FrontendAddress, LocalDetector};

use super::class::Addressing;
use super::element::{Element, Set, Target};
use super::operation::Operation;
use super::rule::{Choice, Hook, Match, Rule, Statement};
use super::settings::AFFINITY_SIZE;

/// The name of the table, in both families.
pub const TABLE: &str = "causeway";

/// `operations` as text, one command a line; neighbouring elements of one set share a command.
///
/// `nft -f` (1.0.6) takes all of it but [`Statement::DispatchLearn`] and [`Statement::Remember`]:
/// the kernel knows concatenations with `ct original proto-dst`, and nft lists them, but its grammar
/// does not read them.
pub fn render(family: Family, operations: &[Operation]) -> String {
    let words = Words { family };
    let mut text = String::new();
    let same = |a: &Operation, b: &Operation| match (a, b) {
        (Operation::AddElement(a), Operation::AddElement(b))
        | (Operation::DeleteElement(a), Operation::DeleteElement(b)) => a.set() == b.set(),
        _ => false,
    };
    for group in operations.chunk_by(same) {
        words.command(&mut text, group);
    }
    text
}

/// The words of one family.
struct Words {
    family: Family,
}

impl Words {
    fn ip(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn command(&self, text: &mut String, group: &[Operation]) {
        let table = format!("{} {TABLE}", self.ip());
        let line = match &group[0] {
            Operation::AddTable { signature } => {
                format!("add table {table} {{ comment \"{signature}\"; }}")
            }
            Operation::DeleteTable => format!("delete table {table}"),
            Operation::AddSet(set) => {
                let kind = if set.is_map() { "map" } else { "set" };
                format!(
                    "add {kind} {table} {} {{ {} }}",
                    set.name(),
                    self.declaration(*set)
                )
            }
            Operation::AddChain(chain) => match chain.hook() {
                None => format!("add chain {table} {chain}"),
                Some(hook) => {
                    let (name, priority) = match hook {
                        Hook::Prerouting => ("prerouting", -100),
                        Hook::Output => ("output", -100),
                        Hook::Postrouting => ("postrouting", 100),
                        Hook::Input => ("input", 100),
                        Hook::BeforeSources => ("postrouting", 0),
                    };
                    format!(
                        "add chain {table} {chain} {{ type nat hook {name} priority {priority}; }}"
                    )
                }
            },
            Operation::AddRule { chain, rule } => {
                format!("add rule {table} {chain} {}", self.rule(rule))
            }
            Operation::DeleteChain(chain) => {
                // Not `delete chain` alone: a chain with rules must be flushed first.
                format!("flush chain {table} {chain}\ndelete chain {table} {chain}")
            }
            Operation::AddElement(element) => {
                format!(
                    "add element {table} {} {}",
                    element.set().name(),
                    self.list(group)
                )
            }
            Operation::DeleteElement(element) => {
                format!(
                    "delete element {table} {} {}",
                    element.set().name(),
                    self.list(group)
                )
            }
        };
        text.push_str(&line);
        text.push('\n');
    }

    fn list(&self, group: &[Operation]) -> String {
        let elements: Vec<String> = group
            .iter()
            .filter_map(|operation| match operation {
                Operation::AddElement(element) | Operation::DeleteElement(element) => {
                    Some(self.element(element))
                }
                _ => None,
            })
            .collect();
        match elements.as_slice() {
            [one] => format!("{{ {one} }}"),
            many => format!("{{\n    {}\n}}", many.join(",\n    ")),
        }
    }

    fn declaration(&self, set: Set) -> String {
        let ip = self.ip();
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let key = "meta l4proto . th dport";
        // A slot is no type of its own: it is borrowed from the expression that draws it.
        let slot = "numgen random mod 65536";
        let target = format!("{ip} daddr . th dport");
        match set {
            Set::Frontends | Set::AffinityLearn => {
                format!("type {address} . inet_proto . inet_service : verdict;")
            }
            Set::NodePorts | Set::AffinityLearnPorts => {
                "type inet_proto . inet_service : verdict;".to_owned()
            }
            Set::NodePortAddresses | Set::ClusterIps => format!("type {address};"),
            Set::Endpoints => format!("typeof {ip} daddr . {key} . {slot} : {target};"),
            Set::NodePortEndpoints => format!("typeof {key} . {slot} : {target};"),
            Set::ServiceCidrs => format!("type {address} . inet_proto; flags interval;"),
            Set::SourceRanges => {
                format!("type {address} . inet_proto . inet_service . {address}; flags interval;")
            }
            Set::Affinity => format!(
                "type {address} . {address} . inet_proto . inet_service : {address} . \
                 inet_service; flags dynamic, timeout; size {AFFINITY_SIZE};"
            ),
            Set::Hairpin => format!("type {address} . {address};"),
        }
    }

    fn element(&self, element: &Element) -> String {
        match element {
            Element::Frontend { address, class } => format!("{} : goto {class}", key(address)),
            Element::Endpoint {
                address,
                slot,
                target: Target { ip, port },
            } => format!("{} . {slot} : {ip} . {port}", key(address)),
            Element::Learn { address, seconds } => {
                format!("{} : goto learn-{seconds}", key(address))
            }
            Element::SourceRange { address, source } => {
                format!("{} . {}", key(address), network(source))
            }
            Element::NodePortAddress(ip) | Element::ClusterIp(ip) => ip.to_string(),
            Element::ServiceCidr(cidr) => format!("{} . 0-255", network(cidr)),
            Element::Hairpin(ip) => format!("{ip} . {ip}"),
        }
    }

    fn rule(&self, rule: &Rule) -> String {
        let matches = rule.matches.iter().map(|m| self.matching(m));
        let statements = rule.statements.iter().map(|s| self.statement(s));
        matches.chain(statements).collect::<Vec<_>>().join(" ")
    }

    fn matching(&self, matching: &Match) -> String {
        let ip = self.ip();
        match matching {
            Match::DestinationIn(set) => format!("{ip} daddr @{}", set.name()),
            Match::UnallocatedClusterIp => {
                format!("{ip} daddr . meta l4proto @{}", Set::ServiceCidrs.name())
            }
            Match::SourceNotAllowed => format!(
                "{ip} daddr . meta l4proto . th dport . {ip} saddr != @{}",
                Set::SourceRanges.name()
            ),
            Match::SourceIsPod(detector, is) => {
                let not = if *is { "" } else { "!= " };
                match detector {
                    LocalDetector::None => String::new(),
                    LocalDetector::Cidr(network) => format!("{ip} saddr {not}{network}"),
                    LocalDetector::Interface(name) => format!("iifname {not}\"{name}\""),
                    LocalDetector::InterfacePrefix(prefix) => format!("iifname {not}\"{prefix}*\""),
                }
            }
            Match::SourceIn(set) => format!("{ip} saddr @{}", set.name()),
            Match::SourceIsNode => "fib saddr type local".to_owned(),
            Match::Translated => "ct status dnat".to_owned(),
            Match::AimedAt(set) => format!("ct original {ip} daddr @{}", set.name()),
            Match::Hairpin => format!("{ip} saddr . {ip} daddr @{}", Set::Hairpin.name()),
            Match::MarkClear(mask) => format!("meta mark & {mask:#010x} == 0"),
        }
    }

    fn statement(&self, statement: &Statement) -> String {
        let ip = self.ip();
        let client = format!("{ip} saddr . {ip} daddr . meta l4proto . th dport");
        let affinity = Set::Affinity.name();
        match statement {
            Statement::Dispatch(addressing) => {
                let map = match addressing {
                    Addressing::Vip => Set::Frontends,
                    Addressing::NodePort => Set::NodePorts,
                };
                format!("{} vmap @{}", self.aim(*addressing), map.name())
            }
            Statement::DispatchLearn(Addressing::Vip) => format!(
                "ct original {ip} daddr . meta l4proto . ct original proto-dst vmap @{}",
                Set::AffinityLearn.name()
            ),
            Statement::DispatchLearn(Addressing::NodePort) => format!(
                "meta l4proto . ct original proto-dst vmap @{}",
                Set::AffinityLearnPorts.name()
            ),
            Statement::Jump(chain) => format!("jump {chain}"),
            Statement::Goto(chain) => format!("goto {chain}"),
            Statement::Return => "return".to_owned(),
            Statement::Balance => "accept".to_owned(),
            Statement::SetMark(mask) => format!("meta mark set meta mark | {mask:#010x}"),
            Statement::FlipMark(mask) => format!("meta mark set meta mark ^ {mask:#010x}"),
            Statement::Choose(choice) => format!("dnat {ip} to {}", self.choice(choice)),
            Statement::Remember(seconds) => format!(
                "update @{affinity} {{ ct original {ip} saddr . ct original {ip} daddr . \
                 meta l4proto . ct original proto-dst timeout {seconds}s : {ip} daddr . th dport }}"
            ),
            Statement::Follow => format!("dnat {ip} to {client} map @{affinity}"),
            Statement::Masquerade => "masquerade fully-random".to_owned(),
            Statement::Reject => match self.family {
                Family::V4 => "reject with icmp port-unreachable".to_owned(),
                Family::V6 => "reject with icmpv6 port-unreachable".to_owned(),
            },
            Statement::Drop => "drop".to_owned(),
        }
    }

    /// What the client aims at.
    fn aim(&self, addressing: Addressing) -> String {
        match addressing {
            Addressing::Vip => format!("{} daddr . meta l4proto . th dport", self.ip()),
            Addressing::NodePort => "meta l4proto . th dport".to_owned(),
        }
    }

    fn choice(&self, choice: &Choice) -> String {
        let map = match choice.addressing {
            Addressing::Vip => Set::Endpoints,
            Addressing::NodePort => Set::NodePortEndpoints,
        };
        let mut text = self.aim(choice.addressing);
        // Writing to a String cannot fail.
        let _ = write!(text, " . numgen random mod {}", choice.count);
        if choice.offset != 0 {
            let _ = write!(text, " offset {}", choice.offset);
        }
        let _ = write!(text, " map @{}", map.name());
        text
    }
}

fn key(address: &FrontendAddress) -> String {
    let (protocol, port) = (address.protocol(), address.port());
    match address {
        FrontendAddress::Vip { ip, .. } => format!("{ip} . {protocol} . {port}"),
        FrontendAddress::NodePort { .. } => format!("{protocol} . {port}"),
    }
}

/// A range as an element: nft takes a lone address, but no prefix as long as the address.
fn network(network: &IpNetwork) -> String {
    let full = match network {
        IpNetwork::V4(_) => 32,
        IpNetwork::V6(_) => 128,
    };
    if network.prefix() == full {
        network.ip().to_string()
    } else {
        format!("{}/{}", network.network(), network.prefix())
    }
}
