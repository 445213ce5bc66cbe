//! The iptables data plane: kube-proxy's chains, rule by rule.
//!
//! Everything that aims at a Service goes through one rule in a chain that all Services share
//! (`KUBE-SERVICES`, `KUBE-NODEPORTS`) into chains of its port: source ranges (`KUBE-FW-`), then
//! masquerade and traffic policy (`KUBE-EXT-`), then a choice (`KUBE-SVC-`, `KUBE-SVL-`), then one
//! endpoint (`KUBE-SEP-`). What leads nowhere is rejected or dropped in the table filter.
//!
//! [`ServiceRules`] are a Service's rules. A [`Restore`] makes an input of `iptables-restore` of
//! them: everything, or the difference to what is [`Applied`]. kube-proxy writes the shared chains
//! anew with every change, one rule a Service; here a change touches the lines of its own Service
//! only.

mod applied;
mod choice;
mod global;
mod listing;
mod name;
mod port;
mod read;
mod restore;
mod rule;
mod settings;
mod virtual_tables;
mod walk;

pub use applied::Applied;
pub use choice::Choice;
pub use global::Jump;
pub use listing::Listing;
pub use name::{Chain, ForeignChain, Hash, Kind, Table};
pub use port::{ServiceRules, endpoints};
pub use restore::{Input, Restore};
pub use rule::{Counter, Match, Rule, State, Target};
pub use settings::{NodePortAddresses, Settings};
pub use virtual_tables::{Refusal, VirtualTables};
pub use walk::{Noted, Verdict, Way};

/// More endpoints than this on a node, and rules that are there for each of them carry no words.
pub const LARGE: usize = 1000;
