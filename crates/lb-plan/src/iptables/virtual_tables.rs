//! Tables in memory that take `iptables-restore`'s input as strictly as the programs do.

use std::collections::BTreeMap;
use std::fmt;

use super::name::{Chain, Table};
use super::read;
use super::rule::{Rule, Target};

/// The rules of every chain of one table; built-in chains are always there.
pub(super) type Chains = BTreeMap<Chain, Vec<Rule>>;

/// The tables of one family.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualTables {
    tables: BTreeMap<Table, Chains>,
}

/// A line that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which, from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl Default for VirtualTables {
    fn default() -> Self {
        let built_in = [
            Chain::Prerouting,
            Chain::Input,
            Chain::Forward,
            Chain::Output,
            Chain::Postrouting,
        ];
        let empty: Chains = built_in.map(|chain| (chain, Vec::new())).into();
        Self {
            tables: Table::ALL.map(|table| (table, empty.clone())).into(),
        }
    }
}

impl VirtualTables {
    /// Applies an input: each table at once or not at all.
    ///
    /// # Errors
    /// The first line that cannot be; tables before it are changed.
    pub fn restore(&mut self, input: &str) -> Result<(), Refusal> {
        let mut open: Option<(Table, Chains)> = None;
        for (number, line) in (1..).zip(input.lines()) {
            let refuse = |reason: String| Refusal {
                line: number,
                reason,
            };
            match (line.strip_prefix('*'), &mut open) {
                (Some(name), None) => {
                    let table = Table::ALL.into_iter().find(|table| table.name() == name);
                    let table = table.ok_or_else(|| refuse(format!("no table {name}")))?;
                    open = Some((table, self.chains(table).clone()));
                }
                (None, Some((table, chains))) if line == "COMMIT" => {
                    check(chains).map_err(refuse)?;
                    self.tables.insert(*table, std::mem::take(chains));
                    open = None;
                }
                (None, Some((_, chains))) => act(chains, line).map_err(refuse)?,
                _ => return Err(refuse("not between a table and its COMMIT".to_owned())),
            }
        }
        match open {
            None => Ok(()),
            Some((table, _)) => Err(Refusal {
                line: input.lines().count(),
                reason: format!("no COMMIT of {}", table.name()),
            }),
        }
    }

    pub(super) fn chains(&self, table: Table) -> &Chains {
        static NONE: Chains = Chains::new();
        self.tables.get(&table).unwrap_or(&NONE)
    }

    /// As `iptables-save` lists it, without counters.
    pub fn save(&self) -> String {
        let mut text = String::new();
        for (table, chains) in &self.tables {
            text.push_str(&format!("*{}\n", table.name()));
            for chain in chains.keys() {
                let policy = if chain.is_built_in() { "ACCEPT" } else { "-" };
                text.push_str(&format!(":{chain} {policy} [0:0]\n"));
            }
            for (chain, rules) in chains {
                for rule in rules {
                    text.push_str(&format!("-A {chain} {rule}\n"));
                }
            }
            text.push_str("COMMIT\n");
        }
        text
    }
}

fn act(chains: &mut Chains, line: &str) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix(':') {
        let name = rest
            .strip_suffix(" - [0:0]")
            .ok_or("no policy and counters")?;
        let chain: Chain = name.parse().map_err(|_| format!("chain {name}"))?;
        chains.insert(chain, Vec::new());
        return Ok(());
    }
    let words = read::words(line).ok_or("a quote does not end")?;
    let [how, name, rest @ ..] = words.as_slice() else {
        return Err("two words at least".to_owned());
    };
    let chain: Chain = name.parse().map_err(|_| format!("chain {name}"))?;
    if how == "-X" {
        return remove(chains, chain, rest);
    }
    let rules = chains
        .get_mut(&chain)
        .ok_or_else(|| format!("no chain {chain}"))?;
    let place = rest.first().filter(|_| how == "-I");
    let place: Option<usize> = place.and_then(|word| word.parse().ok());
    let rest = if place.is_some() { &rest[1..] } else { rest };
    let rule = read::rule(rest).map_err(|word| format!("{word:?} is not understood"))?;
    match how.as_str() {
        "-A" => rules.push(rule),
        "-I" => {
            let index = place.unwrap_or(1).wrapping_sub(1);
            if index > rules.len() {
                return Err(format!("no place {index} in {chain}"));
            }
            rules.insert(index, rule);
        }
        "-D" => {
            let at = rules.iter().position(|there| *there == rule);
            rules.remove(at.ok_or("no such rule")?);
        }
        other => return Err(format!("{other} is not understood")),
    }
    Ok(())
}

fn remove(chains: &mut Chains, chain: Chain, rest: &[String]) -> Result<(), String> {
    let rules = chains
        .get(&chain)
        .ok_or_else(|| format!("no chain {chain}"))?;
    if !rest.is_empty() || !rules.is_empty() || chain.is_built_in() {
        return Err(format!("{chain} cannot be removed"));
    }
    let leads_there = |rule: &Rule| rule.target == Target::Jump(chain);
    if chains.values().flatten().any(leads_there) {
        return Err(format!("something leads to {chain}"));
    }
    chains.remove(&chain);
    Ok(())
}

/// Whether everything leads somewhere.
fn check(chains: &Chains) -> Result<(), String> {
    for rule in chains.values().flatten() {
        if let Target::Jump(to) = rule.target
            && !chains.contains_key(&to)
        {
            return Err(format!("no chain {to}"));
        }
    }
    Ok(())
}
