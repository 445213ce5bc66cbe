//! The iptables data plane: kube-proxy's chains, rule by rule.

mod name;
mod settings;

pub use name::{Chain, ForeignChain, Hash, Kind, Table};
pub use settings::{NodePortAddresses, Settings};
