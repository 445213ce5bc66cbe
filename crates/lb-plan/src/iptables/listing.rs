//! What `iptables-save` says about our chains.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use super::global::Jump;
use super::name::{Chain, Table};

/// What is there. Feed it line by line.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The table that the lines are about; `None`: one that we have nothing in.
    table: Option<Table>,
    /// Our chains, and how many rules are in them.
    chains: HashMap<(Table, Chain), u64>,
    /// Rules in built-in chains that lead to ours, word for word.
    jumps: BTreeMap<Table, Vec<(Jump, String)>>,
    /// Chains of ours that others' rules lead to.
    borrowed: BTreeSet<(Table, Chain)>,
    /// The kubelet's hint is there, so it uses this variant of iptables.
    kubelet: bool,
}

impl Listing {
    /// Takes one line in.
    pub fn line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix('*') {
            self.table = Table::ALL.into_iter().find(|table| table.name() == name);
            return;
        }
        let Some(table) = self.table else { return };
        if let Some(rest) = line.strip_prefix(':') {
            let name = rest.split(' ').next().unwrap_or_default();
            self.kubelet |= matches!(name, "KUBE-KUBELET-CANARY" | "KUBE-IPTABLES-HINT");
            if let Some(chain) = ours(name) {
                self.chains.entry((table, chain)).or_default();
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            self.rule(table, rule);
        }
    }

    fn rule(&mut self, table: Table, rule: &str) {
        let (name, words) = rule.split_once(' ').unwrap_or((rule, ""));
        let from = name.parse::<Chain>();
        if let Ok(chain) = from
            && !chain.is_built_in()
        {
            *self.chains.entry((table, chain)).or_default() += 1;
            return;
        }
        let Some(to) = leads_to(words) else { return };
        match from {
            Ok(from) => {
                let jump = Jump {
                    table,
                    from,
                    new_only: words.contains("--ctstate NEW"),
                    to,
                };
                let jumps = self.jumps.entry(table).or_default();
                jumps.push((jump, rule.to_owned()));
            }
            Err(_) => {
                self.borrowed.insert((table, to));
            }
        }
    }

    /// Whether a rule leads where `jump` does.
    pub fn has_jump(&self, jump: &Jump) -> bool {
        let jumps = self.jumps.get(&jump.table);
        jumps.is_some_and(|there| there.iter().any(|(found, _)| found == jump))
    }

    /// How many rules are in a chain; `None`: it is not there.
    pub(super) fn rules(&self, place: (Table, Chain)) -> Option<u64> {
        self.chains.get(&place).copied()
    }

    /// The chains of Service ports and endpoints, sorted.
    pub(super) fn port_chains(&self) -> impl Iterator<Item = Chain> {
        let ports = self.chains.keys();
        let of_ports: BTreeSet<Chain> = ports
            .filter(|(table, chain)| *table == Table::Nat && matches!(chain, Chain::Of(..)))
            .map(|(_, chain)| *chain)
            .collect();
        of_ports.into_iter()
    }

    /// The input that removes all of it; `None`: nothing is there. What the kubelet or others have
    /// use for stays; other chains that others' rules lead to are emptied.
    pub fn removal(&self) -> Option<String> {
        self.removal_of(|_| true)
    }

    /// The same of what only kube-proxy's mode ipvs has. Our own chains must be written before: until
    /// then its chains of the same names lead to these.
    pub fn ipvs_removal(&self) -> Option<String> {
        self.removal_of(|chain| matches!(chain, Chain::Ipvs(_)))
    }

    fn removal_of(&self, goes: impl Fn(Chain) -> bool) -> Option<String> {
        let mut text = String::new();
        for table in Table::ALL {
            let chains: BTreeSet<Chain> = self
                .chains
                .iter()
                .filter(|((t, chain), _)| *t == table && goes(*chain))
                .filter(|((_, chain), _)| !self.is_of_use(table, *chain))
                .filter(|(place, rules)| **rules > 0 || !self.borrowed.contains(place))
                .map(|((_, chain), _)| *chain)
                .collect();
            let jumps = self.jumps.get(&table).into_iter().flatten();
            let jumps: Vec<&str> = jumps
                .filter(|(jump, _)| goes(jump.to) && !self.is_of_use(table, jump.to))
                .map(|(_, words)| words.as_str())
                .collect();
            if chains.is_empty() && jumps.is_empty() {
                continue;
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, "*{}", table.name());
            for chain in &chains {
                let _ = writeln!(text, ":{chain} - [0:0]");
            }
            for jump in jumps {
                let _ = writeln!(text, "-D {jump}");
            }
            for chain in &chains {
                if !self.borrowed.contains(&(table, *chain)) {
                    let _ = writeln!(text, "-X {chain}");
                }
            }
            text.push_str("COMMIT\n");
        }
        (!text.is_empty()).then_some(text)
    }

    /// Whether somebody besides us needs what is in a chain: one of those that lead to no other.
    fn is_of_use(&self, table: Table, chain: Chain) -> bool {
        let alone = matches!(chain, Chain::Firewall | Chain::MarkMasq);
        alone && (self.kubelet || self.borrowed.contains(&(table, chain)))
    }
}

/// A chain of ours.
fn ours(name: &str) -> Option<Chain> {
    name.parse()
        .ok()
        .filter(|chain: &Chain| !chain.is_built_in())
}

/// The chain of ours that a rule goes to.
fn leads_to(words: &str) -> Option<Chain> {
    let mut words = words.rsplitn(3, ' ');
    let target = words.next()?;
    let how = words.next()?;
    matches!(how, "-j" | "-g").then(|| ours(target)).flatten()
}
