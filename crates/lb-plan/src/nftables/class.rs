//! Classes of frontends: those that share a chain.

use std::fmt;
use std::str::FromStr;

use lb_model::{Frontend, FrontendAddress, Masquerade, Treatment};

use super::slots::LOCAL_SLOTS;

/// How many endpoints one frontend can have at most; the rest is left out. Half of the slots: the
/// other half numbers the local ones.
pub const MAX_ENDPOINTS: usize = 0x8000;

/// What the client aims at, and so by which key the chain finds the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addressing {
    /// Destination address, protocol and port.
    Vip,
    /// Protocol and port, whatever the destination address.
    NodePort,
}

impl Addressing {
    /// How `address` is addressed.
    pub const fn of(address: &FrontendAddress) -> Self {
        match address {
            FrontendAddress::Vip { .. } => Self::Vip,
            FrontendAddress::NodePort { .. } => Self::NodePort,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::NodePort => "nodeport",
        }
    }
}

/// Everything about a frontend but its own data: one chain each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// An ICMP port unreachable.
    Reject {
        /// Sources outside the frontend's ranges are dropped instead.
        restricted: bool,
    },
    /// Silence.
    Drop,
    /// One of the endpoints, whatever the source.
    Forward {
        /// How the endpoints are found.
        addressing: Addressing,
        /// Number of endpoints, 1 to [`MAX_ENDPOINTS`].
        endpoints: u16,
        /// When the source is rewritten.
        masquerade: Masquerade,
        /// A client that is remembered goes to its endpoint.
        affinity: bool,
        /// Sources outside the frontend's ranges are dropped first.
        restricted: bool,
    },
    /// IPVS chooses the endpoint, when the packet gets there.
    Balanced {
        /// When the source is rewritten.
        masquerade: Masquerade,
        /// Sources outside the frontend's ranges are dropped first.
        restricted: bool,
    },
    /// externalTrafficPolicy Local: see [`Treatment::LocalOnly`].
    LocalOnly {
        /// How the endpoints are found.
        addressing: Addressing,
        /// Number of endpoints for pods and for the node itself, up to [`MAX_ENDPOINTS`].
        cluster: u16,
        /// Number of endpoints for everybody else, up to [`MAX_ENDPOINTS`].
        local: u16,
        /// A client that is remembered goes to its endpoint.
        affinity: bool,
        /// Sources outside the frontend's ranges are dropped first.
        restricted: bool,
    },
}

impl Class {
    /// The class of `frontend`, given how many endpoints it has slots for, where the rules choose.
    pub(super) fn of(frontend: &Frontend, cluster: usize, local: usize) -> Self {
        let addressing = Addressing::of(&frontend.address);
        let restricted = is_restricted(frontend);
        let (cluster, local) = (count(cluster), count(local));
        let affinity = frontend.affinity.is_some();
        match frontend.treatment {
            Treatment::Forward { .. } if cluster == 0 => Self::Reject { restricted },
            Treatment::Forward { masquerade, .. } => Self::Forward {
                addressing,
                endpoints: cluster,
                masquerade,
                affinity,
                restricted,
            },
            Treatment::LocalOnly { .. } => Self::LocalOnly {
                addressing,
                cluster,
                local,
                affinity,
                restricted,
            },
            Treatment::Reject => Self::Reject { restricted },
            Treatment::Drop => Self::Drop,
        }
    }

    /// The class of `frontend` where IPVS chooses among its endpoints.
    pub(super) fn balanced(frontend: &Frontend, masquerade: Masquerade) -> Self {
        Self::Balanced {
            masquerade,
            restricted: is_restricted(frontend),
        }
    }

    /// The class whose chain this one's chain goes to, for pods and for the node itself.
    pub fn short_circuit(&self) -> Option<Self> {
        let Self::LocalOnly {
            addressing,
            cluster,
            affinity,
            ..
        } = *self
        else {
            return None;
        };
        Some(if cluster == 0 {
            Self::Reject { restricted: false }
        } else {
            Self::Forward {
                addressing,
                endpoints: cluster,
                masquerade: Masquerade::Never,
                affinity,
                restricted: false,
            }
        })
    }

    /// Whether a client that is remembered goes to its endpoint.
    pub const fn affinity(&self) -> bool {
        match self {
            Self::Forward { affinity, .. } | Self::LocalOnly { affinity, .. } => *affinity,
            Self::Reject { .. } | Self::Balanced { .. } | Self::Drop => false,
        }
    }

    /// Whether only sources within the frontend's ranges may enter.
    pub const fn restricted(&self) -> bool {
        match self {
            Self::Forward { restricted, .. }
            | Self::LocalOnly { restricted, .. }
            | Self::Balanced { restricted, .. }
            | Self::Reject { restricted } => *restricted,
            Self::Drop => false,
        }
    }

    /// How many cluster and local slots a frontend of this class fills.
    pub const fn slots(&self) -> (usize, usize) {
        match self {
            Self::Forward { endpoints, .. } => (*endpoints as usize, 0),
            Self::LocalOnly { cluster, local, .. } => (*cluster as usize, *local as usize),
            Self::Reject { .. } | Self::Balanced { .. } | Self::Drop => (0, 0),
        }
    }

    /// The slots that a frontend of this class fills.
    pub fn slot_numbers(&self) -> impl Iterator<Item = u16> + use<> {
        let (cluster, local) = self.slots();
        let cluster = (0..=u16::MAX).take(cluster);
        cluster.chain((LOCAL_SLOTS..=u16::MAX).take(local))
    }
}

fn is_restricted(frontend: &Frontend) -> bool {
    let vip = Addressing::of(&frontend.address) == Addressing::Vip;
    vip && frontend.allowed_sources.is_some()
}

const fn suffix(masquerade: Masquerade) -> &'static str {
    match masquerade {
        Masquerade::Never => "",
        Masquerade::OffCluster => "-offcluster",
        Masquerade::Always => "-masquerade",
    }
}

/// `n`, which was cut to [`MAX_ENDPOINTS`] before.
fn count(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// The name of the class's chain. It reads back with [`Class::from_str`].
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Reject { restricted: false } => return f.write_str("reject-all"),
            Self::Reject { restricted: true } => return f.write_str("reject-restricted"),
            Self::Drop => return f.write_str("drop-all"),
            Self::Forward {
                addressing,
                endpoints,
                masquerade,
                ..
            } => {
                let masquerade = suffix(masquerade);
                write!(f, "{}-{endpoints}{masquerade}", addressing.name())?;
            }
            Self::Balanced { masquerade, .. } => write!(f, "ipvs{}", suffix(masquerade))?,
            Self::LocalOnly {
                addressing,
                cluster,
                local,
                ..
            } => write!(f, "{}-{cluster}-local-{local}", addressing.name())?,
        }
        if self.affinity() {
            f.write_str("-affinity")?;
        }
        if self.restricted() {
            f.write_str("-restricted")?;
        }
        Ok(())
    }
}

/// A chain name that no class has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownChain(pub String);

impl fmt::Display for UnknownChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {:?} is none of this version's classes", self.0)
    }
}

impl std::error::Error for UnknownChain {}

impl FromStr for Class {
    type Err = UnknownChain;

    fn from_str(name: &str) -> Result<Self, UnknownChain> {
        let class = parse(name).ok_or_else(|| UnknownChain(name.to_owned()))?;
        // One spelling a class: else two chains would stand for one.
        if class.to_string() == name {
            Ok(class)
        } else {
            Err(UnknownChain(name.to_owned()))
        }
    }
}

fn parse(name: &str) -> Option<Class> {
    match name {
        "reject-all" => return Some(Class::Reject { restricted: false }),
        "reject-restricted" => return Some(Class::Reject { restricted: true }),
        "drop-all" => return Some(Class::Drop),
        _ => {}
    }
    let mut words = name.split('-');
    let addressing = match words.next()? {
        "vip" => Some(Addressing::Vip),
        "nodeport" => Some(Addressing::NodePort),
        "ipvs" => None,
        _ => return None,
    };
    let cluster = match addressing {
        Some(_) => words.next()?.parse().ok()?,
        None => 0,
    };
    let mut local = None;
    let mut masquerade = Masquerade::Never;
    let mut affinity = false;
    let mut restricted = false;
    while let Some(word) = words.next() {
        match word {
            "local" => local = Some(words.next()?.parse().ok()?),
            "offcluster" => masquerade = Masquerade::OffCluster,
            "masquerade" => masquerade = Masquerade::Always,
            "affinity" => affinity = true,
            "restricted" => restricted = true,
            _ => return None,
        }
    }
    let Some(addressing) = addressing else {
        return Some(Class::Balanced {
            masquerade,
            restricted,
        });
    };
    Some(match local {
        Some(local) => Class::LocalOnly {
            addressing,
            cluster,
            local,
            affinity,
            restricted,
        },
        None => Class::Forward {
            addressing,
            endpoints: cluster,
            masquerade,
            affinity,
            restricted,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_reads_back_from_its_chain_name() {
        let mut names = Vec::new();
        for restricted in [false, true] {
            for masquerade in [Masquerade::Never, Masquerade::Always] {
                names.push(Class::Balanced {
                    masquerade,
                    restricted,
                });
            }
        }
        for addressing in [Addressing::Vip, Addressing::NodePort] {
            for affinity in [false, true] {
                for restricted in [false, true] {
                    for masquerade in [
                        Masquerade::Never,
                        Masquerade::OffCluster,
                        Masquerade::Always,
                    ] {
                        names.push(Class::Forward {
                            addressing,
                            endpoints: 3,
                            masquerade,
                            affinity,
                            restricted,
                        });
                    }
                    names.push(Class::LocalOnly {
                        addressing,
                        cluster: 0x8000,
                        local: 0,
                        affinity,
                        restricted,
                    });
                }
            }
        }
        names.extend([
            Class::Drop,
            Class::Reject { restricted: true },
            Class::Reject { restricted: false },
        ]);
        let total = names.len();
        let mut seen: Vec<String> = names
            .into_iter()
            .map(|class| {
                assert_eq!(class.to_string().parse(), Ok(class));
                class.to_string()
            })
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), total, "two classes share a name");
    }

    #[test]
    fn a_foreign_chain_name_is_no_class() {
        for name in [
            "",
            "vip",
            "vip-x",
            "vip-1-",
            "vip-01",
            "vip-1-local",
            "services",
            "vip-70000",
            "vip-1-restricted-affinity",
            "vip-1-affinity-0",
            "ipvs-1",
            "ipvs-affinity",
        ] {
            assert_eq!(name.parse::<Class>(), Err(UnknownChain(name.to_owned())));
        }
    }
}
