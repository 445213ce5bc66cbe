//! The way of a packet through a [`VirtualKernel`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use lb_model::{Family, FrontendAddress, Packet};

use super::class::Addressing;
use super::element::{Set, Target};
use super::rule::{Chain, Choice, Match, Statement};
use super::virtual_kernel::{Table, VirtualKernel};

/// What becomes of the first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one of these.
    Translated {
        /// Where to, by slot: each slot is equally likely.
        targets: Vec<Target>,
        /// The source is rewritten whatever the target.
        masquerade: bool,
        /// Targets for which the source is rewritten in any case, since they would meet themselves.
        hairpin: BTreeSet<Target>,
        /// The client is remembered for so many seconds.
        remembered: Option<NonZeroU32>,
    },
    /// ICMP port unreachable.
    Reject,
    /// IPVS chooses the endpoint.
    Balanced {
        /// The source is rewritten whatever the endpoint.
        masquerade: bool,
    },
    /// Silence.
    Drop,
    /// It goes on as it came.
    Untouched,
}

/// The clients that the kernel remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// (client, destination, protocol number, port) to the endpoint.
    pub entries: BTreeMap<(IpAddr, IpAddr, u8, u16), Target>,
}

/// A packet under way in one chain's rules.
struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
    affinity: &'a Affinity,
    mark: u32,
    remembered: Option<NonZeroU32>,
}

/// What a chain does.
enum Outcome {
    Translate(Vec<Target>),
    Balance,
    Masquerade,
    Reject,
    Drop,
    /// Nothing: the caller goes on.
    Return,
}

impl VirtualKernel {
    /// The way of `packet`, with `affinity` remembered from before.
    ///
    pub fn walk(&self, packet: &Packet, affinity: &Affinity) -> Verdict {
        let Some(table) = self.table() else {
            return Verdict::Untouched;
        };
        let mut walk = Walk {
            table,
            packet,
            affinity,
            mark: 0,
            remembered: None,
        };
        let base = match packet.interface {
            Some(_) => Chain::NatPrerouting,
            None => Chain::NatOutput,
        };
        match walk.chain(base, None) {
            Outcome::Translate(targets) => {
                let masquerade = !targets.is_empty() && walk.leaves_masqueraded();
                let hairpin = targets.iter().filter(|t| walk.meets_itself(t));
                let hairpin = hairpin.copied().collect();
                Verdict::Translated {
                    targets,
                    masquerade,
                    hairpin,
                    remembered: walk.remembered,
                }
            }
            Outcome::Balance => Verdict::Balanced {
                masquerade: walk.leaves_masqueraded(),
            },
            Outcome::Reject => Verdict::Reject,
            Outcome::Drop => Verdict::Drop,
            Outcome::Masquerade | Outcome::Return => walk.on(),
        }
    }

    /// Whether the source of `packet` is rewritten since `target` would meet itself.
    pub fn is_hairpin(&self, packet: &Packet, target: &Target) -> bool {
        let affinity = Affinity::default();
        self.table().is_some_and(|table| {
            let mut walk = Walk {
                table,
                packet,
                affinity: &affinity,
                mark: 0,
                remembered: None,
            };
            walk.meets_itself(target)
        })
    }
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

impl Walk<'_> {
    /// The rest of the way of a packet that was not translated.
    fn on(&mut self) -> Verdict {
        match self.chain(Chain::NatUnallocated, None) {
            Outcome::Drop => Verdict::Drop,
            _ => Verdict::Untouched,
        }
    }

    /// Whether the source is rewritten whatever the target.
    fn leaves_masqueraded(&mut self) -> bool {
        // An address that is nobody's cannot be in the hairpin set.
        let elsewhere = Target {
            ip: unspecified(self.packet.destination),
            port: self.packet.port,
        };
        self.leaves(&elsewhere)
    }

    /// Whether the source is rewritten for `target`, whatever the mark says.
    fn meets_itself(&mut self, target: &Target) -> bool {
        let mark = std::mem::take(&mut self.mark);
        let masquerade = self.leaves(target);
        self.mark = mark;
        masquerade
    }

    fn leaves(&mut self, target: &Target) -> bool {
        let mark = self.mark;
        let outcome = self.chain(Chain::NatPostrouting, Some(target));
        self.mark = mark;
        matches!(outcome, Outcome::Masquerade)
    }

    fn chain(&mut self, chain: Chain, to: Option<&Target>) -> Outcome {
        let rules = self.table.chains.get(&chain).map_or(&[][..], |rules| rules);
        'rules: for rule in rules {
            if !rule.matches.iter().all(|m| self.matches(m, to)) {
                continue;
            }
            for statement in &rule.statements {
                match statement {
                    Statement::Dispatch(addressing) => {
                        let Some(class) = self.table.frontends.get(&self.aim(*addressing)) else {
                            continue 'rules;
                        };
                        return self.chain(Chain::Class(*class), to);
                    }
                    Statement::Jump(other) => match self.chain(*other, to) {
                        Outcome::Return => {}
                        outcome => return outcome,
                    },
                    Statement::Goto(other) => return self.chain(*other, to),
                    Statement::Return => return Outcome::Return,
                    Statement::Balance => return Outcome::Balance,
                    Statement::SetMark(mask) => self.mark |= mask,
                    Statement::FlipMark(mask) => self.mark ^= mask,
                    Statement::Choose(choice) => match self.choose(choice) {
                        Some(targets) => return Outcome::Translate(targets),
                        None => continue 'rules,
                    },
                    Statement::DispatchLearn(addressing) => {
                        let Some(seconds) = self.table.learns.get(&self.aim(*addressing)) else {
                            continue 'rules;
                        };
                        return self.chain(Chain::LearnFor(*seconds), to);
                    }
                    Statement::Remember(seconds) => self.remembered = Some(*seconds),
                    Statement::Follow => match self.known() {
                        Some(target) => return Outcome::Translate(vec![target]),
                        None => continue 'rules,
                    },
                    Statement::Masquerade => return Outcome::Masquerade,
                    Statement::Reject => return Outcome::Reject,
                    Statement::Drop => return Outcome::Drop,
                }
            }
        }
        Outcome::Return
    }

    fn matches(&self, matching: &Match, to: Option<&Target>) -> bool {
        let packet = self.packet;
        match matching {
            Match::DestinationIn(Set::NodePortAddresses)
            | Match::AimedAt(Set::NodePortAddresses) => {
                self.table.node_port_addresses.contains(&packet.destination)
            }
            Match::DestinationIn(Set::ClusterIps) | Match::AimedAt(Set::ClusterIps) => {
                self.table.cluster_ips.contains(&packet.destination)
            }
            Match::DestinationIn(_) | Match::AimedAt(_) => false,
            Match::UnallocatedClusterIp => {
                let mut cidrs = self.table.service_cidrs.iter();
                cidrs.any(|cidr| cidr.contains(packet.destination))
            }
            Match::SourceNotAllowed => {
                let aim = self.aim(Addressing::Vip);
                let mut sources = self.table.sources.iter();
                !sources.any(|(address, range)| *address == aim && range.contains(packet.source))
            }
            Match::SourceIsPod(detector, is) => detector.is_pod(packet) == *is,
            Match::SourceIsNode => packet.source_is_node,
            Match::SourceIn(Set::ClusterIps) => self.table.cluster_ips.contains(&packet.source),
            Match::SourceIn(_) => false,
            Match::Translated => to.is_some(),
            Match::Hairpin => to.is_some_and(|target| {
                target.ip == packet.source && self.table.hairpins.contains(&target.ip)
            }),
            Match::MarkClear(mask) => self.mark & mask == 0,
        }
    }

    fn aim(&self, addressing: Addressing) -> FrontendAddress {
        let (protocol, port) = (self.packet.protocol, self.packet.port);
        let ip = self.packet.destination;
        match addressing {
            Addressing::Vip => FrontendAddress::Vip { ip, protocol, port },
            Addressing::NodePort => FrontendAddress::NodePort {
                family: Family::of(ip),
                protocol,
                port,
            },
        }
    }

    /// What is in the slots; `None` if one of them is empty.
    fn choose(&self, choice: &Choice) -> Option<Vec<Target>> {
        let aim = self.aim(choice.addressing);
        (choice.offset..choice.offset.saturating_add(choice.count))
            .map(|slot| self.table.endpoints.get(&(aim, slot)).copied())
            .collect()
    }

    /// Where the client went before.
    fn known(&self) -> Option<Target> {
        let packet = self.packet;
        let key = (
            packet.source,
            packet.destination,
            packet.protocol.number(),
            packet.port,
        );
        self.affinity.entries.get(&key).copied()
    }
}
