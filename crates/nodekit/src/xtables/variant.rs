//! The two kernel interfaces behind iptables, and which of them this node uses.

use std::fmt;
use std::path::PathBuf;

use super::process::ask;
use super::{Error, FOLDERS, Family, LIMIT};

/// Which kernel interface the programs speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// nf_tables, by rules with iptables' matches in them.
    Nft,
    /// iptables' own.
    Legacy,
}

/// How [`Variant::detect`] came to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The answer.
    pub variant: Variant,
    /// Why.
    pub reason: &'static str,
}

/// Chains that the kubelet makes in the table mangle, so that others see which variant it uses
/// (KEP-3178).
const HINTS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The variant that others on this node use, as the iptables-wrapper of Kubernetes' images finds
    /// out: the one with the kubelet's hint chains; else the one with more rules; else nft.
    ///
    /// # Errors
    /// [`Error::Missing`] where neither is installed.
    pub fn detect() -> Result<Detection, Error> {
        let found = |variant, reason| Ok(Detection { variant, reason });
        match Self::ALL.map(|variant| variant.program(Family::Ip, "-save").is_ok()) {
            [false, false] => {
                return Err(Error::Missing {
                    program: "iptables-save".to_owned(),
                });
            }
            [true, false] => return found(Self::Nft, "the only one installed"),
            [false, true] => return found(Self::Legacy, "the only one installed"),
            [true, true] => {}
        }
        let nft = Traces::of(Self::Nft);
        if nft.hinted {
            return found(Self::Nft, "the kubelet's");
        }
        let legacy = Traces::of(Self::Legacy);
        if legacy.hinted {
            found(Self::Legacy, "the kubelet's")
        } else if legacy.rules > nft.rules {
            found(Self::Legacy, "the one with more rules")
        } else if nft.rules > 0 {
            found(Self::Nft, "the one with more rules")
        } else {
            found(Self::Nft, "there are no rules yet")
        }
    }

    /// The path of a program of this variant: with the variant in its name, or else without, where
    /// it says that it is of this variant.
    pub(super) fn program(self, family: Family, suffix: &str) -> Result<PathBuf, Error> {
        let prefix = family.prefix();
        let named = format!("{prefix}-{self}{suffix}");
        if let Some(path) = look_up(&named) {
            return Ok(path);
        }
        let plain = look_up(&format!("{prefix}{suffix}"));
        let plain = plain.filter(|path| Self::said_by(path) == Some(self));
        plain.ok_or(Error::Missing { program: named })
    }

    /// The variant that a program's version names. Before 1.8 there was only one.
    fn said_by(program: &std::path::Path) -> Option<Self> {
        let mut variant = None;
        let mut read = |line: &str| {
            if line.contains("(nf_tables)") {
                variant = Some(Self::Nft);
            } else if variant.is_none() && line.contains(" v1.") {
                variant = Some(Self::Legacy);
            }
        };
        ask(program, &["--version"], LIMIT, &mut read).ok()?;
        variant
    }
}

/// What others left in the tables of one variant.
#[derive(Default)]
struct Traces {
    hinted: bool,
    rules: usize,
}

impl Traces {
    /// A family whose tables cannot be listed has none.
    fn of(variant: Variant) -> Self {
        let mut traces = Self::default();
        for family in [Family::Ip, Family::Ip6] {
            let Ok(save) = variant.program(family, "-save") else {
                continue;
            };
            // No table is named: legacy would make it where it is not there.
            let listed = ask(&save, &[], LIMIT, &mut |line| {
                traces.hinted |= HINTS.iter().any(|hint| line.starts_with(hint));
                traces.rules += usize::from(line.starts_with('-'));
            });
            drop(listed);
        }
        traces
    }
}

fn look_up(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let folders = FOLDERS.iter().map(PathBuf::from).chain(more);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
