//! Those who are measured.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::network::Network;

/// Who attaches pods.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// Our plugin, by its executable: one call for everything.
    Ours(PathBuf),
    /// The reference plugins of a folder: a chain, called one after the other.
    Reference(PathBuf),
    /// An empty program, and the netlink calls that nobody can do without.
    Floor,
}

impl Contender {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Reference(_) => "reference",
            Self::Floor => "floor",
        }
    }

    /// The configurations to call with, in ADD's order.
    pub(crate) fn plugins(&self, network: &Network, reservations: &Path) -> Vec<Value> {
        match self {
            Self::Ours(_) => network.combined(reservations),
            Self::Reference(_) => network.chained(reservations),
            Self::Floor => Vec::new(),
        }
    }

    /// The executable of a plugin of this type.
    pub(crate) fn program(&self, kind: &str) -> PathBuf {
        match self {
            Self::Ours(program) => program.clone(),
            Self::Reference(folder) => folder.join(kind),
            Self::Floor => PathBuf::from("/bin/true"),
        }
    }
}
