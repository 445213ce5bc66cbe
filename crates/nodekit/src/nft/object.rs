//! Tables, chains and rules.

use super::expr::Expr;
use super::kernel::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, CHAIN_USERDATA, HOOK_DEVICE, HOOK_NUMBER,
    HOOK_PRIORITY, LIST_ELEMENT, RULE_CHAIN, RULE_EXPRESSIONS, RULE_USERDATA, TABLE_FLAGS,
    TABLE_OWNED, TABLE_USERDATA,
};
use super::userdata;
use crate::netlink::AttrWriter;

/// What kind of packets a table sees (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames of one device, before anything else.
    Netdev,
    /// Frames that a bridge forwards.
    Bridge,
}

impl Family {
    pub(super) const ALL: [Self; 5] = [Self::Ip, Self::Ip6, Self::Inet, Self::Netdev, Self::Bridge];

    /// `NFPROTO_*`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    /// nft's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
        }
    }
}

/// A table's own properties; its name stands in the [`super::Batch`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Shown by `nft list`; up to 254 bytes.
    pub comment: Option<String>,
    /// Only the socket that makes it may change it, and it is gone when that is closed (Linux 5.12).
    /// Not read back.
    pub owned: bool,
}

impl Table {
    pub(super) fn write(&self, writer: &mut AttrWriter) {
        if self.owned {
            writer.u32_be(TABLE_FLAGS, TABLE_OWNED);
        }
        write_comment(writer, TABLE_USERDATA, self.comment.as_deref());
    }
}

/// A chain: regular, or a base chain hooked into the network stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Unique in its table; up to 127 bytes.
    pub name: String,
    /// Where packets enter it; `None` for a chain that only rules lead to.
    pub base: Option<BaseChain>,
    /// Shown by `nft list`; up to 254 bytes.
    pub comment: Option<String>,
}

impl Chain {
    /// A chain that only rules lead to.
    #[must_use]
    pub fn regular(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            base: None,
            comment: None,
        }
    }

    /// A chain that packets enter at `base`.
    #[must_use]
    pub fn base(name: &str, base: BaseChain) -> Self {
        Self {
            name: name.to_owned(),
            base: Some(base),
            comment: None,
        }
    }

    pub(super) fn write(&self, writer: &mut AttrWriter, family: Family) {
        writer.string(CHAIN_NAME, &self.name);
        if let Some(base) = &self.base {
            base.write(writer, family);
        }
        write_comment(writer, CHAIN_USERDATA, self.comment.as_deref());
    }
}

/// Where and how packets enter a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// What its rules may do.
    pub kind: ChainType,
    /// When packets enter it.
    pub hook: Hook,
    /// The order among the chains of a hook: lower is earlier (`NF_IP_PRI_*`).
    pub priority: i32,
    /// What happens to packets that no rule decided.
    pub policy: Policy,
    /// The device of a netdev table's or an ingress chain.
    pub device: Option<String>,
}

impl BaseChain {
    /// A chain of `kind` at `hook` with `priority` that accepts what no rule decided.
    #[must_use]
    pub fn new(kind: ChainType, hook: Hook, priority: i32) -> Self {
        Self {
            kind,
            hook,
            priority,
            policy: Policy::Accept,
            device: None,
        }
    }

    fn write(&self, writer: &mut AttrWriter, family: Family) {
        writer.string(CHAIN_TYPE, self.kind.word());
        writer.nested(CHAIN_HOOK, |w| {
            w.u32_be(HOOK_NUMBER, self.hook.number(family));
            w.bytes(HOOK_PRIORITY, &self.priority.to_be_bytes());
            if let Some(device) = &self.device {
                w.string(HOOK_DEVICE, device);
            }
        });
        writer.u32_be(
            CHAIN_POLICY,
            match self.policy {
                Policy::Drop => 0,
                Policy::Accept => 1,
            },
        );
    }
}

/// What the rules of a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Decide on packets.
    Filter,
    /// Translate addresses; sees a connection's first packet only.
    Nat,
    /// Have the packet routed again after changing it.
    Route,
}

impl ChainType {
    fn word(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// When packets enter a base chain (`enum nf_inet_hooks`, `nf_dev_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Came in, not routed yet.
    Prerouting,
    /// For this machine.
    Input,
    /// For others, through this machine.
    Forward,
    /// From this machine.
    Output,
    /// About to leave.
    Postrouting,
    /// Fresh from the device; netdev and inet tables.
    Ingress,
}

impl Hook {
    fn number(self, family: Family) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
            Self::Ingress if family == Family::Netdev => 0,
            Self::Ingress => 5,
        }
    }
}

/// What a base chain does with packets that no rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They are gone.
    Drop,
}

/// A rule: expressions evaluated in order until one doesn't match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// The chain it is appended to.
    pub chain: String,
    /// What it does.
    pub exprs: Vec<Expr>,
    /// Shown by `nft list`; up to 254 bytes.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule of `chain` without comment.
    #[must_use]
    pub fn new(chain: &str, exprs: Vec<Expr>) -> Self {
        Self {
            chain: chain.to_owned(),
            exprs,
            comment: None,
        }
    }

    pub(super) fn write(&self, writer: &mut AttrWriter) {
        writer.string(RULE_CHAIN, &self.chain);
        writer.nested(RULE_EXPRESSIONS, |list| {
            for expr in &self.exprs {
                list.nested(LIST_ELEMENT, |w| expr.write(w));
            }
        });
        write_comment(writer, RULE_USERDATA, self.comment.as_deref());
    }
}

fn write_comment(writer: &mut AttrWriter, kind: u16, comment: Option<&str>) {
    if let Some(text) = comment {
        writer.bytes(kind, &userdata::comment(text));
    }
}
