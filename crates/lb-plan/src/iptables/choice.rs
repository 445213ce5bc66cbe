//! The chain that chooses one of a port's endpoints, and how it changes.
//!
//! The rules for endpoints are tried one after the other, each with the chance of one in as many as
//! are left. So a rule's words depend on its endpoint and on how many come after it, on nothing
//! before it: counted from the end, an endpoint that is replaced costs its own rule, one that is new
//! a rule at the beginning, and one that goes leaves its place to the first. kube-proxy writes the
//! whole chain anew.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use lb_model::Protocol;

use super::name::Chain;
use super::rule::{Match, Rule, Target};

/// The rules of one `KUBE-SVC-` or `KUBE-SVL-` chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// `namespace/name:port`, without the colon where the port has no name.
    pub(super) port: String,
    pub(super) protocol: Protocol,
    /// For so many seconds a client stays with its endpoint.
    pub(super) affinity: Option<u32>,
    /// Rules for endpoints say which.
    pub(super) worded: bool,
    /// Comes before.
    pub(super) masquerade: Option<Rule>,
    /// In the order of their rules.
    pub(super) endpoints: Vec<SocketAddr>,
}

/// What the kernel has of a [`Choice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AppliedChoice {
    pub(super) chain: Chain,
    /// Of everything but the endpoints.
    fingerprint: u64,
    endpoints: Box<[SocketAddr]>,
    pub(super) rules: u32,
}

/// One rule inserted or deleted, as `iptables-restore` reads it.
pub(super) struct Edit {
    /// `-I` or `-D`.
    pub(super) how: &'static str,
    /// What follows the chain: a rule, with its place before it where it is inserted.
    pub(super) rule: String,
}

impl Choice {
    /// All rules.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::from_iter(self.masquerade.clone());
        rules.extend(self.endpoints.iter().filter_map(|at| self.noted(*at)));
        let left = (1..=self.endpoints.len()).rev();
        rules.extend(
            self.endpoints
                .iter()
                .zip(left)
                .map(|(at, left)| self.chosen(*at, left)),
        );
        rules
    }

    /// Leads back who was at an endpoint before.
    fn noted(&self, at: SocketAddr) -> Option<Rule> {
        let noted = Match::Noted(self.chain(at), self.affinity?);
        Some(self.to(at, Some(noted)))
    }

    /// Leads one in `left` to an endpoint.
    fn chosen(&self, at: SocketAddr, left: usize) -> Rule {
        self.to(at, (left > 1).then_some(Match::OneIn(left)))
    }

    fn to(&self, at: SocketAddr, matches: Option<Match>) -> Rule {
        let rule = Rule::new(matches, Target::Jump(self.chain(at)));
        if self.worded {
            rule.says(&format!("{} -> {at}", self.port))
        } else {
            rule
        }
    }

    fn chain(&self, at: SocketAddr) -> Chain {
        Chain::of_endpoint(&self.port, self.protocol, &at.to_string())
    }

    /// What is in the kernel once it is written as `chain`.
    pub(super) fn applied(&self, chain: Chain) -> AppliedChoice {
        let mut hasher = DefaultHasher::new();
        self.affinity.hash(&mut hasher);
        self.worded.hash(&mut hasher);
        let masquerade = self.masquerade.as_ref().map(Rule::to_string);
        masquerade.hash(&mut hasher);
        let sections = 1 + usize::from(self.affinity.is_some());
        let rules = usize::from(masquerade.is_some()) + sections * self.endpoints.len();
        AppliedChoice {
            chain,
            fingerprint: hasher.finish(),
            endpoints: self.endpoints.as_slice().into(),
            rules: u32::try_from(rules).unwrap_or(u32::MAX),
        }
    }

    /// Puts the endpoints into the order that costs the least after `before`: who stays keeps the
    /// place, counted from the end, and who is new takes one that became free.
    pub(super) fn arrange(&mut self, before: &AppliedChoice) {
        let mut others: HashSet<SocketAddr> = self.endpoints.iter().copied().collect();
        let mut places: Vec<Option<SocketAddr>> =
            before.endpoints.iter().rev().copied().map(Some).collect();
        // Who was further away than there are places now has to move.
        places.resize(self.endpoints.len(), None);
        for place in &mut places {
            *place = place.filter(|at| others.remove(at));
        }
        let free = places.iter_mut().filter(|place| place.is_none());
        let others = self.endpoints.iter().filter(|at| others.contains(at));
        for (place, at) in free.zip(others) {
            *place = Some(*at);
        }
        self.endpoints = places.into_iter().rev().flatten().collect();
    }

    /// What leads from `before` here, rule by rule; `None`: writing the chain anew is shorter.
    pub(super) fn edits(&self, before: &AppliedChoice) -> Option<Vec<Edit>> {
        let now = self.applied(before.chain);
        if now.fingerprint != before.fingerprint {
            return None;
        }
        let mut edits = Vec::new();
        // Places are counted from 1.
        let mut place = 1 + usize::from(self.masquerade.is_some());
        if self.affinity.is_some() {
            // The order of these means nothing.
            let (old, new) = (&before.endpoints, &self.endpoints);
            edits.extend(missing(old, new).filter_map(|at| Some(Edit::delete(&self.noted(at)?))));
            edits.extend(
                missing(new, old).filter_map(|at| Some(Edit::insert(place, &self.noted(at)?))),
            );
            place += new.len();
        }
        for left in (1..=self.endpoints.len().max(before.endpoints.len())).rev() {
            let old = from_end(&before.endpoints, left);
            let new = from_end(&self.endpoints, left);
            if old != new {
                edits.extend(new.map(|at| Edit::insert(place, &self.chosen(at, left))));
                edits.extend(old.map(|at| Edit::delete(&self.chosen(at, left))));
            }
            place += usize::from(new.is_some());
        }
        let chain = 1;
        let anew = chain + usize::try_from(now.rules).unwrap_or(usize::MAX - chain);
        (edits.len() < anew).then_some(edits)
    }
}

impl Edit {
    fn insert(place: usize, rule: &Rule) -> Self {
        Self {
            how: "-I",
            rule: format!("{place} {rule}"),
        }
    }

    fn delete(rule: &Rule) -> Self {
        Self {
            how: "-D",
            rule: rule.to_string(),
        }
    }
}

/// Those of `these` that are not among `others`.
fn missing(these: &[SocketAddr], others: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
    let others: HashSet<SocketAddr> = others.iter().copied().collect();
    let these = these.iter().copied();
    these.filter(move |at| !others.contains(at))
}

/// The one after which `left` are left, itself included.
fn from_end(endpoints: &[SocketAddr], left: usize) -> Option<SocketAddr> {
    let index = endpoints.len().checked_sub(left)?;
    endpoints.get(index).copied()
}
