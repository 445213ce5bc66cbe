//! The chains that are always there, and the way into them.

use std::fmt;

use ipnetwork::IpNetwork;
use lb_model::{Family, LocalDetector};

use super::name::{Chain, Table};
use super::rule::{Counter, Match, Rule, State, Target, host};
use super::settings::{NodePortAddresses, Settings};

/// A rule in a built-in chain that leads into one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Jump {
    /// The table.
    pub table: Table,
    /// The built-in chain.
    pub from: Chain,
    /// Only for the first packet of a connection.
    pub new_only: bool,
    /// Our chain.
    pub to: Chain,
}

impl Jump {
    /// All of kube-proxy's. Each is put before whatever is there, in this order.
    pub fn all(settings: &Settings) -> Vec<Self> {
        let jump = |table, from, new_only, to| Self {
            table,
            from,
            new_only,
            to,
        };
        let filter = |from, new_only, to| jump(Table::Filter, from, new_only, to);
        let nat = |from, to| jump(Table::Nat, from, false, to);
        let mut jumps = vec![
            filter(Chain::Input, true, Chain::ExternalServices),
            filter(Chain::Forward, true, Chain::ExternalServices),
            filter(Chain::Input, false, Chain::NodePorts),
            filter(Chain::Forward, true, Chain::Services),
            filter(Chain::Output, true, Chain::Services),
            filter(Chain::Forward, false, Chain::KubeForward),
            filter(Chain::Input, true, Chain::ProxyFirewall),
            filter(Chain::Output, true, Chain::ProxyFirewall),
            filter(Chain::Forward, true, Chain::ProxyFirewall),
            nat(Chain::Output, Chain::Services),
            nat(Chain::Prerouting, Chain::Services),
            nat(Chain::Postrouting, Chain::KubePostrouting),
        ];
        if settings.serves_localhost() {
            jumps.extend([
                filter(Chain::Input, false, Chain::Firewall),
                filter(Chain::Output, false, Chain::Firewall),
            ]);
        }
        jumps
    }

    const fn words(&self) -> &'static str {
        match self.to {
            Chain::ExternalServices => "kubernetes externally-visible service portals",
            Chain::NodePorts => "kubernetes health check service ports",
            Chain::KubeForward => "kubernetes forwarding rules",
            Chain::ProxyFirewall => "kubernetes load balancer firewall",
            Chain::KubePostrouting => "kubernetes postrouting rules",
            Chain::Services => "kubernetes service portals",
            _ => "",
        }
    }
}

/// The rule itself, in kube-proxy's words and order: so kube-proxy knows it again, and can remove it.
impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.new_only {
            write!(f, "{} ", Match::State(State::New))?;
        }
        if !self.words().is_empty() {
            write!(f, "-m comment --comment \"{}\" ", self.words())?;
        }
        write!(f, "-j {}", self.to)
    }
}

/// The rules of the chains of `table` that are always there. What Services put into one of them comes
/// before these.
pub(super) fn fixed(settings: &Settings, table: Table) -> Vec<(Chain, Rule)> {
    let mut rules = match table {
        Table::Filter => filter(settings),
        Table::Nat => nat(settings),
        Table::Mangle => Vec::new(),
    };
    let canary = Rule::new([], Target::Nothing).says("gone when somebody flushes this table");
    rules.push((Chain::Canary, canary));
    rules
}

/// The chains of `table` that are always there.
pub(super) fn chains(settings: &Settings, table: Table) -> impl Iterator<Item = Chain> {
    let firewall = table == Table::Filter && settings.serves_localhost();
    let fixed = Chain::fixed(table).iter().copied();
    fixed.chain(firewall.then_some(Chain::Firewall))
}

fn filter(settings: &Settings) -> Vec<(Chain, Rule)> {
    let mark = settings.mark();
    let mut rules = Vec::new();
    if settings.serves_localhost() {
        // With route_localnet the node would take 127.0.0.0/8 from its neighbours (CVE-2020-8558).
        let martian = [
            Match::Destination(localhost(), true),
            Match::Source(localhost(), false),
            Match::State(State::Martian),
        ];
        let rule = Rule::new(martian, Target::Drop).says("block incoming localnet connections");
        rules.push((Chain::Firewall, rule));
    }
    // kube-proxy lets the node itself run into what leads nowhere.
    let from_node = Rule::new([Match::FromLocal], Target::Jump(Chain::ExternalServices));
    rules.push((
        Chain::Services,
        from_node.says("kubernetes externally-visible service portals"),
    ));
    if !settings.tcp_be_liberal {
        // Else the endpoint's late answers reach the client untranslated, which resets the
        // connection (kubernetes#74839).
        let invalid = Some(Match::State(State::Invalid)).into_iter();
        let invalid = invalid.chain(settings.counted(Counter::InvalidDropped));
        let invalid = Rule::new(invalid, Target::Drop);
        rules.push((Chain::KubeForward, invalid));
    }
    let forward = |matching, words| Rule::new([matching], Target::Accept).says(words);
    rules.extend([
        (
            Chain::KubeForward,
            forward(Match::Marked(mark, true), "kubernetes forwarding rules"),
        ),
        (
            Chain::KubeForward,
            forward(
                Match::State(State::Established),
                "kubernetes forwarding conntrack rule",
            ),
        ),
    ]);
    rules
}

fn nat(settings: &Settings) -> Vec<(Chain, Rule)> {
    let mark = settings.mark();
    let mut rules = vec![
        (
            Chain::KubePostrouting,
            Rule::new([Match::Marked(mark, false)], Target::Return),
        ),
        // Seen again by another stack on its way, it must not be rewritten again.
        (
            Chain::KubePostrouting,
            Rule::new([], Target::FlipMark(mark)),
        ),
        (
            Chain::KubePostrouting,
            Rule::new([], Target::Masquerade).says("kubernetes service traffic requiring SNAT"),
        ),
        (Chain::MarkMasq, Rule::new([], Target::SetMark(mark))),
    ];
    let to_node_ports = |matches: Vec<Match>| {
        let rule = Rule::new(matches, Target::Jump(Chain::NodePorts));
        let words = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
        (Chain::Services, rule.says(words))
    };
    rules.extend(
        node_port_destinations(settings)
            .into_iter()
            .map(to_node_ports),
    );
    rules
}

/// What is aimed at an address that serves node ports: any one of these.
pub(super) fn node_port_destinations(settings: &Settings) -> Vec<Vec<Match>> {
    let NodePortAddresses::These(addresses) = &settings.node_port_addresses else {
        let not_here = match settings.family {
            Family::V4 if settings.localhost_node_ports => None,
            Family::V4 => Some(localhost()),
            // The kernel has no route_localnet for IPv6.
            Family::V6 => Some(host(std::net::Ipv6Addr::LOCALHOST.into())),
        };
        let elsewhere = not_here.map(|network| Match::Destination(network, false));
        return vec![[Match::ToLocal].into_iter().chain(elsewhere).collect()];
    };
    let own = addresses
        .iter()
        .filter(|ip| Family::of(**ip) == settings.family && !ip.is_loopback())
        .map(|ip| host(*ip));
    let networks = own.chain(settings.serves_localhost().then(localhost));
    networks
        .map(|network| vec![Match::Destination(network, true)])
        .collect()
}

pub(super) fn localhost() -> IpNetwork {
    ipnetwork::Ipv4Network::new_checked(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)
        .map_or_else(|| host(std::net::Ipv4Addr::LOCALHOST.into()), IpNetwork::V4)
}

/// Whether the source is a pod's, or is not; `None`: cannot be told.
pub(super) fn is_pod(settings: &Settings, is: bool) -> Option<Match> {
    match &settings.detector {
        LocalDetector::None => None,
        LocalDetector::Cidr(network) => Some(Match::Source(*network, is)),
        LocalDetector::Interface(name) => Some(Match::Interface(name.clone(), is)),
        LocalDetector::InterfacePrefix(prefix) => Some(Match::Interface(format!("{prefix}+"), is)),
    }
}
