//! One Service's rules: kube-proxy's chains out of what the model decided.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;
use lb_model::{
    Endpoint, Frontend, FrontendAddress, FrontendKind, Masquerade, Protocol, ServiceName,
    ServicePort, Treatment,
};

use super::applied::AppliedService;
use super::choice::Choice;
use super::global::{is_pod, localhost, node_port_destinations};
use super::name::{Chain, Kind, Table};
use super::rule::{Counter, Match, Rule, Target, host};
use super::settings::Settings;

/// The rules of one Service in one family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRules {
    /// Rules in chains that all Services share, where order only matters within one Service.
    pub shared: Vec<(Table, Chain, Rule)>,
    /// The chains of its ports and endpoints, in the table nat.
    pub chains: Vec<(Chain, Vec<Rule>)>,
    /// The chains that choose an endpoint, in the table nat.
    pub choices: Vec<(Chain, Choice)>,
    /// Endpoints of its ports, counted by port: of more than 1,000 on a node comments are left out.
    pub endpoints: usize,
}

impl ServiceRules {
    /// The rules of `service`, given its ports, and the port where its health is asked for.
    ///
    /// `large`: leave the words out of rules that are there for each endpoint.
    pub fn new(
        settings: &Settings,
        large: bool,
        service: &ServiceName,
        ports: &[ServicePort],
        health_check: Option<NonZeroU16>,
    ) -> Self {
        let mut rules = Self::default();
        for port in ports {
            PortRules::new(settings, large, service, port, &mut rules).write();
        }
        if let Some(port) = health_check {
            let matches = [Match::Protocol(Protocol::Tcp), Match::Port(port.get())];
            let rule = Rule::new(matches, Target::Accept);
            let rule = rule.says(&format!("{service} health check node port"));
            rules.shared.push((Table::Filter, Chain::NodePorts, rule));
        }
        rules
    }

    /// Puts endpoints into the order that costs the least after `before`.
    pub(super) fn arrange(&mut self, before: &AppliedService) {
        for (chain, choice) in &mut self.choices {
            if let Some(before) = before.choice(*chain) {
                choice.arrange(before);
            }
        }
    }
}

/// The endpoints behind `ports`, as [`ServiceRules::endpoints`] counts them.
pub fn endpoints(ports: &[ServicePort]) -> usize {
    ports.iter().map(|port| Behind::of(port).count()).sum()
}

/// Whom a port leads to.
#[derive(Default)]
struct Behind<'a> {
    /// Under traffic policy Cluster.
    cluster: &'a [Endpoint],
    /// Under traffic policy Local.
    local: &'a [Endpoint],
}

impl<'a> Behind<'a> {
    fn of(port: &'a ServicePort) -> Self {
        let mut behind = Self::default();
        for frontend in &port.frontends {
            match &frontend.treatment {
                Treatment::Forward { endpoints, .. }
                    if frontend.kind == FrontendKind::ClusterIp && port.internal_local =>
                {
                    behind.local = endpoints;
                }
                Treatment::Forward { endpoints, .. } => behind.cluster = endpoints,
                Treatment::LocalOnly { cluster, local } if !cluster.is_empty() => {
                    (behind.cluster, behind.local) = (cluster, local);
                }
                Treatment::LocalOnly { .. } | Treatment::Reject | Treatment::Drop => {}
            }
        }
        behind
    }

    /// Everybody, once.
    fn all(&self) -> Vec<&'a Endpoint> {
        let more = self.local.iter().filter(|one| !self.cluster.contains(one));
        self.cluster.iter().chain(more).collect()
    }

    fn count(&self) -> usize {
        self.cluster.len().max(self.local.len())
    }
}

/// The rules of one port, under way.
struct PortRules<'a> {
    settings: &'a Settings,
    large: bool,
    port: &'a ServicePort,
    /// `namespace/name:port`.
    name: String,
    behind: Behind<'a>,
    rules: &'a mut ServiceRules,
}

impl<'a> PortRules<'a> {
    fn new(
        settings: &'a Settings,
        large: bool,
        service: &ServiceName,
        port: &'a ServicePort,
        rules: &'a mut ServiceRules,
    ) -> Self {
        let name = if port.name.is_empty() {
            service.to_string()
        } else {
            format!("{service}:{}", port.name)
        };
        Self {
            settings,
            large,
            port,
            name,
            behind: Behind::of(port),
            rules,
        }
    }

    fn write(mut self) {
        for frontend in &self.port.frontends {
            match frontend.kind {
                FrontendKind::ClusterIp => self.cluster_ip(frontend),
                _ => self.external(frontend),
            }
        }
        self.external_chain();
        self.ranges_chain();
        self.choice(Kind::Cluster, self.behind.cluster);
        self.choice(Kind::Local, self.behind.local);
        for endpoint in self.behind.all() {
            self.endpoint(endpoint);
        }
        self.rules.endpoints += self.behind.count();
    }

    fn chain(&self, kind: Kind) -> Chain {
        Chain::of_port(kind, &self.name, self.port.protocol)
    }

    fn endpoint_chain(&self, endpoint: &Endpoint) -> Chain {
        let at = SocketAddr::new(endpoint.ip, endpoint.port).to_string();
        Chain::of_endpoint(&self.name, self.port.protocol, &at)
    }

    fn shared(&mut self, table: Table, chain: Chain, rule: Rule) {
        self.rules.shared.push((table, chain, rule));
    }

    /// What the chain that the ClusterIP leads to is.
    const fn internal(&self) -> Kind {
        if self.port.internal_local {
            Kind::Local
        } else {
            Kind::Cluster
        }
    }

    fn cluster_ip(&mut self, frontend: &Frontend) {
        let (table, target, words) = match &frontend.treatment {
            Treatment::Forward { .. } => {
                let chain = self.chain(self.internal());
                (Table::Nat, Target::Jump(chain), "cluster IP")
            }
            Treatment::Reject => (Table::Filter, Target::Reject, "has no endpoints"),
            Treatment::Drop | Treatment::LocalOnly { .. } => {
                (Table::Filter, Target::Drop, "has no local endpoints")
            }
        };
        let rule = Rule::new(aim(&frontend.address), target);
        let rule = rule.says(&format!("{} {words}", self.name));
        self.shared(table, Chain::Services, rule);
    }

    fn external(&mut self, frontend: &Frontend) {
        let name = &self.name;
        let nowhere = match &frontend.treatment {
            Treatment::Forward { .. } => None,
            Treatment::LocalOnly { cluster, local } if !cluster.is_empty() => local
                .is_empty()
                .then(|| (Target::Drop, format!("{name} has no local endpoints"))),
            Treatment::LocalOnly { .. } | Treatment::Reject => {
                Some((Target::Reject, format!("{name} has no endpoints")))
            }
            Treatment::Drop => Some((Target::Drop, format!("{name} has no local endpoints"))),
        };
        if self.leads_somewhere(frontend) {
            self.dispatch(frontend);
        }
        if let Some((target, words)) = nowhere {
            self.lead_nowhere(frontend, &target, &words);
        }
    }

    fn leads_somewhere(&self, frontend: &Frontend) -> bool {
        match &frontend.treatment {
            Treatment::Forward { .. } => true,
            Treatment::LocalOnly { cluster, .. } => !cluster.is_empty(),
            Treatment::Reject | Treatment::Drop => false,
        }
    }

    /// From what all Services share into the port's own chains.
    fn dispatch(&mut self, frontend: &Frontend) {
        let name = &self.name;
        let (chain, words) = match frontend.kind {
            FrontendKind::NodePort => (Chain::NodePorts, name.clone()),
            FrontendKind::LoadBalancer => (Chain::Services, format!("{name} loadbalancer IP")),
            _ => (Chain::Services, format!("{name} external IP")),
        };
        let restricted = frontend.allowed_sources.is_some();
        let to = self.chain(if restricted {
            Kind::Ranges
        } else {
            Kind::External
        });
        let rule = |matches: Vec<Match>| Rule::new(matches, Target::Jump(to)).says(&words);
        let counted = self.counted_at_localhost(frontend).map(rule);
        let aimed = rule(aim(&frontend.address));
        if restricted {
            let words = format!("{name} traffic not accepted by {to}");
            let drop = Rule::new(aim(&frontend.address), Target::Drop).says(&words);
            self.shared(Table::Filter, Chain::ProxyFirewall, drop);
        }
        for rule in counted.into_iter().chain([aimed]) {
            self.shared(Table::Nat, chain, rule);
        }
    }

    /// Who comes to a node port by a loopback address and is counted.
    fn counted_at_localhost(&self, frontend: &Frontend) -> Option<Vec<Match>> {
        if frontend.kind != FrontendKind::NodePort || !self.settings.serves_localhost() {
            return None;
        }
        let counted = self.settings.counted(Counter::LocalhostAccepted)?;
        let address = &frontend.address;
        Some(vec![
            Match::Protocol(address.protocol()),
            Match::Destination(localhost(), true),
            Match::Port(address.port()),
            counted,
        ])
    }

    /// What did not find its way into the port's chains, or not out of them.
    fn lead_nowhere(&mut self, frontend: &Frontend, target: &Target, words: &str) {
        let destinations = match frontend.address {
            FrontendAddress::NodePort { .. } => node_port_destinations(self.settings),
            FrontendAddress::Vip { .. } => vec![Vec::new()],
        };
        for destination in destinations {
            let add = |rules: &mut ServiceRules, source: Option<Match>, target: Target| {
                let matches = destination.iter().cloned().chain(aim(&frontend.address));
                let rule = Rule::new(matches.chain(source), target).says(words);
                rules
                    .shared
                    .push((Table::Filter, Chain::ExternalServices, rule));
            };
            let Some(ranges) = &frontend.allowed_sources else {
                add(self.rules, None, target.clone());
                continue;
            };
            // Who may not enter need not know that nobody is in.
            for range in ranges {
                add(
                    self.rules,
                    Some(Match::Source(*range, true)),
                    target.clone(),
                );
            }
            add(self.rules, None, Target::Drop);
        }
    }

    /// Masquerade and traffic policy of external addresses and node ports.
    fn external_chain(&mut self) {
        let mut frontends = self.port.frontends.iter();
        let external =
            frontends.find(|one| one.kind != FrontendKind::ClusterIp && self.leads_somewhere(one));
        let Some(external) = external else {
            return;
        };
        let to =
            |kind: Kind, matches: Option<Match>| Rule::new(matches, Target::Jump(self.chain(kind)));
        let mark = |matches: Option<Match>| Rule::new(matches, Target::Jump(Chain::MarkMasq));
        let says = |rule: Rule, words: &str| {
            rule.says(&format!(
                "{words} traffic for {} external destinations",
                self.name
            ))
        };
        let mut rules = Vec::new();
        match &external.treatment {
            Treatment::Forward { masquerade, .. } => {
                let marks = match masquerade {
                    Masquerade::Never => None,
                    Masquerade::OffCluster => is_pod(self.settings, false).map(Some),
                    Masquerade::Always => Some(None),
                };
                rules.extend(marks.map(|matching| says(mark(matching), "masquerade")));
                rules.push(to(Kind::Cluster, None));
            }
            _ => {
                // As if it had gone up to the balancer and come back.
                let pods = is_pod(self.settings, true);
                rules.extend(pods.map(|pods| says(to(Kind::Cluster, Some(pods)), "pod")));
                // Its source may be the balancer's address, if that is the node's, too.
                let node = || Some(Match::FromLocal);
                rules.push(says(mark(node()), "masquerade LOCAL"));
                rules.push(says(to(Kind::Cluster, node()), "route LOCAL"));
                if !self.behind.local.is_empty() {
                    rules.push(to(Kind::Local, None));
                }
            }
        }
        let chain = self.chain(Kind::External);
        self.rules.chains.push((chain, rules));
    }

    fn ranges_chain(&mut self) {
        let mut frontends = self.port.frontends.iter();
        let restricted =
            frontends.find(|one| one.allowed_sources.is_some() && self.leads_somewhere(one));
        let Some(ranges) = restricted.and_then(|one| one.allowed_sources.as_deref()) else {
            return;
        };
        let external = self.chain(Kind::External);
        let allow = |range: &IpNetwork| {
            let rule = Rule::new([Match::Source(*range, true)], Target::Jump(external));
            rule.says(&format!("{} loadbalancer IP", self.name))
        };
        let mut rules: Vec<Rule> = ranges.iter().map(allow).collect();
        rules.push(Rule::new([], Target::Nothing).says(&format!(
            "other traffic to {} will be dropped by KUBE-PROXY-FIREWALL",
            self.name
        )));
        let chain = self.chain(Kind::Ranges);
        self.rules.chains.push((chain, rules));
    }

    /// The chain that chooses one of `endpoints`.
    fn choice(&mut self, kind: Kind, endpoints: &[Endpoint]) {
        if endpoints.is_empty() {
            return;
        }
        let internal = kind == self.internal();
        let choice = Choice {
            port: self.name.clone(),
            protocol: self.port.protocol,
            affinity: self.affinity(),
            worded: !self.large,
            masquerade: internal.then(|| self.internal_masquerade()).flatten(),
            endpoints: endpoints
                .iter()
                .map(|one| SocketAddr::new(one.ip, one.port))
                .collect(),
        };
        self.rules.choices.push((self.chain(kind), choice));
    }

    fn internal_masquerade(&self) -> Option<Rule> {
        let mut frontends = self.port.frontends.iter();
        let frontend = frontends.find(|one| one.kind == FrontendKind::ClusterIp)?;
        let Treatment::Forward { masquerade, .. } = &frontend.treatment else {
            return None;
        };
        let source = match masquerade {
            Masquerade::Never => return None,
            Masquerade::OffCluster => Some(is_pod(self.settings, false)?),
            Masquerade::Always => None,
        };
        let matches = aim(&frontend.address).into_iter().chain(source);
        let rule = Rule::new(matches, Target::Jump(Chain::MarkMasq));
        Some(rule.says(&format!("{} cluster IP", self.name)))
    }

    fn affinity(&self) -> Option<u32> {
        let frontend = self.port.frontends.first()?;
        frontend.affinity.map(std::num::NonZeroU32::get)
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        let chain = self.endpoint_chain(endpoint);
        let itself = Match::Source(host(endpoint.ip), true);
        let hairpin = Rule::new([itself], Target::Jump(Chain::MarkMasq));
        let note = self.affinity().map(|_| Match::Note(chain));
        let matches = note
            .into_iter()
            .chain([Match::Protocol(self.port.protocol)]);
        let to = SocketAddr::new(endpoint.ip, endpoint.port);
        let translate = Rule::new(matches, Target::Translate(to));
        let words = || self.name.clone();
        let rules = vec![self.worded(hairpin, words), self.worded(translate, words)];
        self.rules.chains.push((chain, rules));
    }

    /// With words, where there are few endpoints.
    fn worded(&self, rule: Rule, words: impl FnOnce() -> String) -> Rule {
        if self.large {
            rule
        } else {
            rule.says(&words())
        }
    }
}

/// What is aimed at a frontend. A node port's addresses are somebody else's business.
fn aim(address: &FrontendAddress) -> Vec<Match> {
    let mut matches = vec![Match::Protocol(address.protocol())];
    if let FrontendAddress::Vip { ip, .. } = address {
        matches.push(Match::Destination(host(*ip), true));
    }
    matches.push(Match::Port(address.port()));
    matches
}
