//! The way of a packet through [`VirtualTables`].

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_model::Packet;

use super::name::{Chain, Table};
use super::rule::{Match, Rule, State, Target};
use super::virtual_tables::VirtualTables;

/// What becomes of the first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one of these.
    Translated(Vec<Way>),
    /// ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
    /// It goes on as it came.
    Untouched,
}

/// One way that the packet can take.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Where to.
    pub to: SocketAddr,
    /// How likely it is.
    pub chance: f64,
    /// The source is rewritten.
    pub masquerade: bool,
    /// The client is noted under this endpoint's chain.
    pub noted: Option<Chain>,
}

impl Eq for Way {}

/// The clients noted, by endpoint's chain.
pub type Noted = BTreeSet<(Chain, IpAddr)>;

/// A packet under way, on one of the ways that chance leaves open.
#[derive(Clone, Copy, Debug)]
struct Under {
    mark: u32,
    chance: f64,
    noted: Option<Chain>,
}

/// How a chain ends.
enum End {
    Decided(Target),
    /// The caller goes on.
    Back,
}

/// The rules of one table, and the packet that goes through them.
struct Walk<'a> {
    tables: &'a VirtualTables,
    table: Table,
    packet: &'a Packet,
    noted: &'a Noted,
}

impl VirtualTables {
    /// The way of `packet`, whose node-port addresses are all addresses of the node, with the clients
    /// `noted` before.
    pub fn walk(&self, packet: &Packet, noted: &Noted) -> Verdict {
        let under = Under {
            mark: 0,
            chance: 1.0,
            noted: None,
        };
        let mut ways = Vec::new();
        let mut untouched = None;
        let hook = match packet.interface {
            Some(_) => Chain::Prerouting,
            None => Chain::Output,
        };
        for (end, under) in self.through(Table::Nat, packet, noted).chain(hook, under) {
            match end {
                End::Decided(Target::Translate(to)) => {
                    let translated = Packet {
                        destination: to.ip(),
                        port: to.port(),
                        destination_is_node_port_address: false,
                        ..packet.clone()
                    };
                    let Verdict::Untouched = self.filtered(&translated, noted, under) else {
                        return Verdict::Drop;
                    };
                    ways.push(Way {
                        to,
                        chance: under.chance,
                        masquerade: self.masquerades(&translated, noted, under),
                        noted: under.noted,
                    });
                }
                End::Decided(_) | End::Back => untouched = Some(under),
            }
        }
        match untouched {
            // Chance never leaves a way open that leads nowhere.
            Some(under) if ways.is_empty() => self.filtered(packet, noted, under),
            _ => Verdict::Translated(ways),
        }
    }

    fn through<'a>(&'a self, table: Table, packet: &'a Packet, noted: &'a Noted) -> Walk<'a> {
        Walk {
            tables: self,
            table,
            packet,
            noted,
        }
    }

    /// What the table filter says: untouched if it lets the packet pass.
    fn filtered(&self, packet: &Packet, noted: &Noted, under: Under) -> Verdict {
        let from_here = packet.interface.is_none();
        let to_here = packet.destination_is_node_port_address;
        let hooks = [
            (from_here, Chain::Output),
            (to_here, Chain::Input),
            (!from_here && !to_here, Chain::Forward),
        ];
        for (_, hook) in hooks.into_iter().filter(|(passes, _)| *passes) {
            let walk = self.through(Table::Filter, packet, noted);
            for (end, _) in walk.chain(hook, under) {
                match end {
                    End::Decided(Target::Reject) => return Verdict::Reject,
                    End::Decided(Target::Drop) => return Verdict::Drop,
                    _ => {}
                }
            }
        }
        Verdict::Untouched
    }

    fn masquerades(&self, packet: &Packet, noted: &Noted, under: Under) -> bool {
        let walk = self.through(Table::Nat, packet, noted);
        let ends = walk.chain(Chain::Postrouting, under);
        ends.iter()
            .any(|(end, _)| matches!(end, End::Decided(Target::Masquerade)))
    }
}

impl Walk<'_> {
    /// Every end that the packet can come to.
    fn chain(&self, chain: Chain, under: Under) -> Vec<(End, Under)> {
        let chains = self.tables.chains(self.table);
        let mut ends = Vec::new();
        let mut here = vec![under];
        for rule in chains.get(&chain).into_iter().flatten() {
            let mut next = Vec::new();
            for under in here {
                let (met, missed) = self.split(rule, under);
                next.extend(missed);
                if let Some(met) = met {
                    self.act(rule, met, &mut next, &mut ends);
                }
            }
            here = next;
        }
        ends.extend(here.into_iter().map(|under| (End::Back, under)));
        ends
    }

    fn act(
        &self,
        rule: &Rule,
        mut under: Under,
        next: &mut Vec<Under>,
        ends: &mut Vec<(End, Under)>,
    ) {
        match &rule.target {
            Target::Nothing => next.push(under),
            Target::SetMark(mask) => {
                under.mark |= mask;
                next.push(under);
            }
            Target::FlipMark(mask) => {
                under.mark ^= mask;
                next.push(under);
            }
            Target::Jump(to) => {
                for (end, under) in self.chain(*to, under) {
                    match end {
                        End::Back => next.push(under),
                        decided => ends.push((decided, under)),
                    }
                }
            }
            Target::Return => ends.push((End::Back, under)),
            decided => ends.push((End::Decided(decided.clone()), under)),
        }
    }

    /// The packet where the rule's matches hold, and where they do not.
    fn split(&self, rule: &Rule, mut under: Under) -> (Option<Under>, Option<Under>) {
        let mut missed = None;
        for matching in &rule.matches {
            match matching {
                Match::OneIn(count) => {
                    let share = 1.0 / f64::from(u32::try_from(*count).unwrap_or(u32::MAX));
                    missed = Some(Under {
                        chance: under.chance * (1.0 - share),
                        ..under
                    });
                    under.chance *= share;
                }
                Match::Note(list) => under.noted = Some(*list),
                other if self.holds(other, under) => {}
                _ => return (None, Some(missed.unwrap_or(under))),
            }
        }
        (Some(under), missed)
    }

    fn holds(&self, matching: &Match, under: Under) -> bool {
        let packet = self.packet;
        match matching {
            Match::Protocol(protocol) => packet.protocol == *protocol,
            Match::Destination(network, is) => network.contains(packet.destination) == *is,
            Match::Port(port) => packet.port == *port,
            Match::Source(network, is) => network.contains(packet.source) == *is,
            Match::Interface(name, is) => {
                let came = packet.interface.as_deref();
                let this = came.is_some_and(|came| match name.strip_suffix('+') {
                    Some(prefix) => came.starts_with(prefix),
                    None => came == name,
                });
                this == *is
            }
            Match::ToLocal => packet.destination_is_node_port_address,
            Match::FromLocal => packet.source_is_node,
            Match::Noted(list, _) => self.noted.contains(&(*list, packet.source)),
            Match::Marked(mask, is) => (under.mark & mask == *mask) == *is,
            Match::State(state) => matches!(state, State::New | State::Martian),
            Match::OneIn(_) | Match::Note(_) | Match::Counted(_) => true,
        }
    }
}
