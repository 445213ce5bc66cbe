//! Chains and rules, in the words of a packet.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use lb_model::{LocalDetector, Masquerade};

use super::class::{Addressing, Class, UnknownChain};
use super::element::Set;
use super::settings::Settings;
use super::slots::LOCAL_SLOTS;

/// The chains of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// Base chain for what comes in.
    NatPrerouting,
    /// Base chain for what the node itself sends.
    NatOutput,
    /// Base chain for what leaves.
    NatPostrouting,
    /// Base chain for what goes to the node's own processes.
    NatInput,
    /// Base chain for what leaves, before anybody rewrites its source; its destination is
    /// translated by now, whoever does that.
    NatUnallocated,
    /// From a destination to the chain of its class.
    Services,
    /// From the destination that a translated connection had to the chain that remembers it.
    Learn,
    /// Remembers the client of a translated connection for so many seconds.
    LearnFor(NonZeroU32),
    /// What happens to the frontends of a class.
    Class(Class),
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NatPrerouting => f.write_str("nat-prerouting"),
            Self::NatOutput => f.write_str("nat-output"),
            Self::NatPostrouting => f.write_str("nat-postrouting"),
            Self::NatInput => f.write_str("nat-input"),
            Self::NatUnallocated => f.write_str("nat-unallocated"),
            Self::Services => f.write_str("services"),
            Self::Learn => f.write_str("learn"),
            Self::LearnFor(seconds) => write!(f, "learn-{seconds}"),
            Self::Class(class) => class.fmt(f),
        }
    }
}

/// Where the kernel calls a base chain. All are of type `nat`, which only a connection's first packet
/// meets: no rule costs the others anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Priority -100 (dstnat).
    Prerouting,
    /// Priority -100 (dstnat).
    Output,
    /// Priority 100 (srcnat).
    Postrouting,
    /// Priority 100 (srcnat).
    Input,
    /// At postrouting, priority 0: a source that is rewritten there by an earlier chain hides the
    /// packet from later ones.
    BeforeSources,
}

impl Chain {
    /// Those that a table has from the start, and to its end.
    pub const OWN: [Self; 7] = [
        Self::Services,
        Self::Learn,
        Self::NatPrerouting,
        Self::NatOutput,
        Self::NatPostrouting,
        Self::NatInput,
        Self::NatUnallocated,
    ];

    /// Where the kernel calls it; `None` for a regular chain.
    pub const fn hook(&self) -> Option<Hook> {
        match self {
            Self::NatPrerouting => Some(Hook::Prerouting),
            Self::NatOutput => Some(Hook::Output),
            Self::NatPostrouting => Some(Hook::Postrouting),
            Self::NatInput => Some(Hook::Input),
            Self::NatUnallocated => Some(Hook::BeforeSources),
            Self::Services | Self::Learn | Self::LearnFor(_) | Self::Class(_) => None,
        }
    }
}

/// What a packet must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The destination address is in a set of addresses.
    DestinationIn(Set),
    /// (destination, protocol) is in [`Set::ServiceCidrs`].
    UnallocatedClusterIp,
    /// (destination, protocol, port, source) is not in [`Set::SourceRanges`].
    SourceNotAllowed,
    /// The source is a pod's (`true`) or not (`false`), as this detector sees it: never
    /// [`LocalDetector::None`].
    SourceIsPod(LocalDetector, bool),
    /// The source is an address of this node.
    SourceIsNode,
    /// The source address is in a set of addresses.
    SourceIn(Set),
    /// The connection's destination was translated.
    Translated,
    /// The destination was in a set of addresses before it was translated.
    AimedAt(Set),
    /// (source, destination) is in [`Set::Hairpin`].
    Hairpin,
    /// The bits of this mask are clear in the packet's mark.
    MarkClear(u32),
}

/// What is done with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Go on in the chain that [`Set::Frontends`] or [`Set::NodePorts`] names for this packet; not
    /// matched if it names none.
    Dispatch(Addressing),
    /// Go on in the chain that [`Set::AffinityLearn`] or [`Set::AffinityLearnPorts`] names for the
    /// destination that the packet had before it was translated; not matched if it names none.
    DispatchLearn(Addressing),
    /// Go on in that chain and come back.
    Jump(Chain),
    /// Go on in that chain.
    Goto(Chain),
    /// Leave the chain.
    Return,
    /// Set these bits of the packet's mark.
    SetMark(u32),
    /// Invert these bits of the packet's mark.
    FlipMark(u32),
    /// Translate the destination to the endpoint in a random slot; not matched if there is none.
    Choose(Choice),
    /// Let it go on to IPVS, which translates the destination.
    Balance,
    /// Remember for so many seconds where the client of this translated connection went, or, where
    /// that is remembered already, remember it that long from now; nothing if [`Set::Affinity`] is
    /// full.
    Remember(NonZeroU32),
    /// Translate the destination to the endpoint that is remembered; not matched if there is none.
    Follow,
    /// Rewrite the source to the node's.
    Masquerade,
    /// Answer with an ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
}

/// Slots to draw from, each equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whether from [`Set::Endpoints`] or from [`Set::NodePortEndpoints`].
    pub addressing: Addressing,
    /// How many slots.
    pub count: u16,
    /// The first slot.
    pub offset: u16,
}

/// If all of `matches`, then `statements`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions, in the order in which they are looked at.
    pub matches: Vec<Match>,
    /// What is done, in order.
    pub statements: Vec<Statement>,
}

impl Rule {
    pub(super) fn new(
        matches: impl Into<Vec<Match>>,
        statements: impl Into<Vec<Statement>>,
    ) -> Self {
        Self {
            matches: matches.into(),
            statements: statements.into(),
        }
    }
}

impl Chain {
    /// The chain that this one's rules go to, if it is one that comes and goes.
    pub(super) fn leans_on(&self) -> Option<Self> {
        match self {
            Self::Class(class) => class.short_circuit().map(Self::Class),
            _ => None,
        }
    }

    /// The rules of a chain that comes and goes; none for the table's own.
    pub fn rules(&self, settings: &Settings) -> Vec<Rule> {
        match self {
            Self::Class(class) => class.rules(settings),
            Self::LearnFor(seconds) => vec![Rule::new([], [Statement::Remember(*seconds)])],
            _ => Vec::new(),
        }
    }
}

/// Only chains that come and go read back.
impl FromStr for Chain {
    type Err = UnknownChain;

    fn from_str(name: &str) -> Result<Self, UnknownChain> {
        let seconds = name.strip_prefix("learn-").and_then(|s| s.parse().ok());
        match seconds.map(Self::LearnFor) {
            Some(chain) if chain.to_string() == name => Ok(chain),
            _ => name.parse().map(Self::Class),
        }
    }
}

impl Class {
    /// The rules of the class's chain.
    fn rules(&self, settings: &Settings) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.restricted() {
            rules.push(Rule::new([Match::SourceNotAllowed], [Statement::Drop]));
        }
        match *self {
            Self::Reject { .. } => rules.push(Rule::new([], [Statement::Reject])),
            Self::Drop => rules.push(Rule::new([], [Statement::Drop])),
            Self::Forward {
                addressing,
                endpoints,
                masquerade,
                affinity,
                ..
            } => {
                rules.extend(mark_rule(masquerade, settings));
                let choice = Choice {
                    addressing,
                    count: endpoints,
                    offset: 0,
                };
                rules.extend(choice_rules(choice, affinity));
            }
            Self::Balanced { masquerade, .. } => {
                rules.extend(mark_rule(masquerade, settings));
                rules.push(Rule::new([], [Statement::Balance]));
            }
            Self::LocalOnly {
                addressing,
                local,
                affinity,
                ..
            } => {
                rules.extend(self.short_circuit_rules(settings));
                if local == 0 {
                    rules.push(Rule::new([], [Statement::Drop]));
                } else {
                    let choice = Choice {
                        addressing,
                        count: local,
                        offset: LOCAL_SLOTS,
                    };
                    rules.extend(choice_rules(choice, affinity));
                }
            }
        }
        rules
    }

    fn short_circuit_rules(&self, settings: &Settings) -> Vec<Rule> {
        let mut rules = Vec::new();
        let Some(class) = self.short_circuit() else {
            return rules;
        };
        let elsewhere = Statement::Goto(Chain::Class(class));
        if settings.detector != LocalDetector::None {
            rules.push(Rule::new(
                [Match::SourceIsPod(settings.detector.clone(), true)],
                [elsewhere.clone()],
            ));
        }
        rules.push(Rule::new(
            [Match::SourceIsNode],
            [Statement::SetMark(settings.mark()), elsewhere],
        ));
        rules
    }
}

fn mark_rule(masquerade: Masquerade, settings: &Settings) -> Option<Rule> {
    let mark = Statement::SetMark(settings.mark());
    match (masquerade, &settings.detector) {
        (Masquerade::Never, _) | (Masquerade::OffCluster, LocalDetector::None) => None,
        (Masquerade::OffCluster, detector) => Some(Rule::new(
            [Match::SourceIsPod(detector.clone(), false)],
            [mark],
        )),
        (Masquerade::Always, _) => Some(Rule::new([], [mark])),
    }
}

/// Follow what is remembered, or draw. A packet may find no endpoint in its slot if it is on its way while
/// the frontend changes: it is dropped rather than let through untranslated, and the client repeats
/// it.
fn choice_rules(choice: Choice, affinity: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    if affinity {
        rules.push(Rule::new([], [Statement::Follow]));
    }
    rules.push(Rule::new([], [Statement::Choose(choice)]));
    rules.push(Rule::new([], [Statement::Drop]));
    rules
}
