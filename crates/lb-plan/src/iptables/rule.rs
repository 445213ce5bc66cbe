//! Rules, and their words.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use lb_model::Protocol;

use super::name::Chain;

/// One thing that must hold for a rule to act.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// The transport protocol.
    Protocol(Protocol),
    /// The destination is in the network; or is not.
    Destination(IpNetwork, bool),
    /// The destination port.
    Port(u16),
    /// The source is in the network; or is not.
    Source(IpNetwork, bool),
    /// It came in through an interface of this name (`+` at its end: that begins so); or did not.
    Interface(String, bool),
    /// The destination is an address of this node.
    ToLocal,
    /// The source is an address of this node.
    FromLocal,
    /// Chance: one in so many.
    OneIn(usize),
    /// The source was noted under this endpoint's chain within so many seconds.
    Noted(Chain, u32),
    /// Notes the source under this endpoint's chain; always holds.
    Note(Chain),
    /// Any bit of the mark is set; or none.
    Marked(u32, bool),
    /// What connection tracking thinks of the packet.
    State(State),
    /// Counts the packet; always holds.
    Counted(Counter),
}

/// A named counter of the kernel (nfacct), with kube-proxy's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Packets that connection tracking found invalid.
    InvalidDropped,
    /// First packets of connections to node ports on loopback addresses.
    LocalhostAccepted,
}

impl Counter {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::InvalidDropped, Self::LocalhostAccepted];

    /// Its name in the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidDropped => "ct_state_invalid_dropped_pkts",
            Self::LocalhostAccepted => "localhost_nps_accepted_pkts",
        }
    }
}

/// What connection tracking thinks of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first of its connection.
    New,
    /// Of no connection that it could be of.
    Invalid,
    /// Of a connection that is there.
    Established,
    /// Neither of a connection that is there nor translated.
    Martian,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Goes through a chain, and comes back if nothing there decides.
    Jump(Chain),
    /// Back to the chain before.
    Return,
    /// Decides: to this endpoint.
    Translate(SocketAddr),
    /// Decides: the source is rewritten.
    Masquerade,
    /// Sets bits of the mark.
    SetMark(u32),
    /// Flips bits of the mark.
    FlipMark(u32),
    /// Decides: it may pass.
    Accept,
    /// Decides: an ICMP port unreachable.
    Reject,
    /// Decides: silence.
    Drop,
    /// Nothing: the rule is there for its words.
    Nothing,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Words for who reads the rules; empty: none.
    pub comment: String,
    /// All must hold.
    pub matches: Vec<Match>,
    /// What it does then.
    pub target: Target,
}

/// The longest comment (`XT_MAX_COMMENT_LEN` of `linux/netfilter/xt_comment.h`, less its end).
const LONGEST_COMMENT: usize = 255;

impl Rule {
    /// A rule without words.
    pub fn new(matches: impl IntoIterator<Item = Match>, target: Target) -> Self {
        Self {
            comment: String::new(),
            matches: matches.into_iter().collect(),
            target,
        }
    }

    /// With words. What a restore's line cannot carry becomes `?`; what is too long is cut.
    pub fn says(mut self, comment: &str) -> Self {
        let fits = |c: char| c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\');
        let characters = comment.chars().map(|c| if fits(c) { c } else { '?' });
        self.comment = characters.take(LONGEST_COMMENT).collect();
        self
    }
}

/// The rule as `iptables-restore` reads it, without the chain that it is in.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.comment.is_empty() {
            write!(f, "-m comment --comment \"{}\"", self.comment)?;
            separator = " ";
        }
        for matching in &self.matches {
            write!(f, "{separator}{matching}")?;
            separator = " ";
        }
        if self.target != Target::Nothing {
            write!(f, "{separator}-j {}", self.target)?;
        }
        Ok(())
    }
}

const fn not(is: bool) -> &'static str {
    if is { "" } else { "! " }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => write!(f, "-m {protocol} -p {protocol}"),
            Self::Destination(network, is) => write!(f, "{}-d {}", not(*is), Written(network)),
            Self::Port(port) => write!(f, "--dport {port}"),
            Self::Source(network, is) => write!(f, "{}-s {}", not(*is), Written(network)),
            Self::Interface(name, is) => write!(f, "{}-i {name}", not(*is)),
            Self::ToLocal => f.write_str("-m addrtype --dst-type LOCAL"),
            Self::FromLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Self::OneIn(count) => {
                let probability = 1.0 / f64::from(u32::try_from(*count).unwrap_or(u32::MAX));
                write!(
                    f,
                    "-m statistic --mode random --probability {probability:.10}"
                )
            }
            Self::Noted(list, seconds) => {
                write!(
                    f,
                    "-m recent --name {list} --rcheck --seconds {seconds} --reap"
                )
            }
            Self::Note(list) => write!(f, "-m recent --name {list} --set"),
            Self::Marked(mask, is) => write!(f, "-m mark {}--mark {mask:#x}/{mask:#x}", not(*is)),
            Self::State(state) => write!(f, "-m conntrack {state}"),
            Self::Counted(counter) => write!(f, "-m nfacct --nfacct-name {}", counter.name()),
        }
    }
}

/// A network; a single address without its length, as kube-proxy writes it.
struct Written<'a>(&'a IpNetwork);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = match self.0 {
            IpNetwork::V4(_) => 32,
            IpNetwork::V6(_) => 128,
        };
        if self.0.prefix() == whole {
            write!(f, "{}", self.0.ip())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "--ctstate NEW",
            Self::Invalid => "--ctstate INVALID",
            Self::Established => "--ctstate RELATED,ESTABLISHED",
            Self::Martian => "! --ctstate RELATED,ESTABLISHED,DNAT",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "{chain}"),
            Self::Return => f.write_str("RETURN"),
            Self::Translate(endpoint) => write!(f, "DNAT --to-destination {endpoint}"),
            Self::Masquerade => f.write_str("MASQUERADE --random-fully"),
            Self::SetMark(mask) => write!(f, "MARK --or-mark {mask:#x}"),
            Self::FlipMark(mask) => write!(f, "MARK --xor-mark {mask:#x}"),
            Self::Accept => f.write_str("ACCEPT"),
            Self::Reject => f.write_str("REJECT"),
            Self::Drop => f.write_str("DROP"),
            Self::Nothing => Ok(()),
        }
    }
}

/// The network of one address.
pub(super) fn host(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}
