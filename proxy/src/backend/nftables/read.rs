//! What a table that is there already holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lb_model::Family;
use lb_plan::nftables::{Applied, Chain, Found, Operation, Set, Settings, TABLE, skeleton};
use nodekit::nft::{Error, NftSocket};

use super::{elements, encode};

/// A table in the kernel, seen from our settings.
#[derive(Debug)]
pub(super) enum Present {
    /// There is none.
    Absent,
    /// Made by another version or under other settings, or damaged: to be replaced.
    Foreign,
    /// Ours.
    Ours(Box<Applied>),
}

/// The chains that a table has from the start.
const OWN: [Chain; 8] = [
    Chain::NatPrerouting,
    Chain::NatOutput,
    Chain::NatPostrouting,
    Chain::NatInput,
    Chain::FilterForward,
    Chain::FilterOutput,
    Chain::Services,
    Chain::Learn,
];

/// Reads the table of `settings`' family back, all of it.
///
/// # Errors
/// As [`NftSocket::elements`], except that a table that changes or goes meanwhile is
/// [`Present::Foreign`].
pub(super) fn read(socket: &mut NftSocket, settings: &Settings) -> Result<Present, Error> {
    let family = settings.family;
    match signature(socket, family)? {
        None => return Ok(Present::Absent),
        Some(found) if found.as_deref() != Some(&settings.signature()) => {
            return Ok(Present::Foreign);
        }
        Some(_) => {}
    }
    let Some(chains) = chains(socket, family)? else {
        return Ok(Present::Foreign);
    };
    let mut found = Found {
        chains,
        elements: Vec::new(),
    };
    for set in Set::ALL.into_iter().filter(|set| *set != Set::Affinity) {
        let raw = match socket.elements(encode::nft_family(family), TABLE, set.name()) {
            Ok(raw) => raw,
            Err(error) if error.errno() == Some(nodekit::Errno::ENOENT) => {
                return Ok(Present::Foreign);
            }
            Err(error) => return Err(error),
        };
        found.elements.reserve(raw.len());
        for element in &raw {
            let Some(element) = elements::decode(family, set, element) else {
                return Ok(Present::Foreign);
            };
            found.elements.push(element);
        }
    }
    Ok(Applied::adopt(found).map_or(Present::Foreign, |applied| Present::Ours(Box::new(applied))))
}

/// What the table says about itself; the outer `None`: there is no table.
fn signature(socket: &mut NftSocket, family: Family) -> Result<Option<Option<String>>, Error> {
    let tables = socket.tables(Some(encode::nft_family(family)))?;
    let ours = tables.into_iter().find(|table| table.name == TABLE);
    Ok(ours.map(|table| table.comment))
}

/// The names of the chains that come and go; `None` if any chain is empty or one is missing that
/// must be there.
fn chains(socket: &mut NftSocket, family: Family) -> Result<Option<Vec<String>>, Error> {
    let structure = Structure::read(socket, family)?;
    let own: HashSet<String> = OWN.iter().map(ToString::to_string).collect();
    let with_rules = |name: &String| structure.rules.contains_key(name);
    if !structure.chains.iter().all(with_rules) || !own.iter().all(with_rules) {
        return Ok(None);
    }
    let names = structure.chains.into_iter();
    Ok(Some(names.filter(|name| !own.contains(name)).collect()))
}

/// The chains of a table and their rules.
#[derive(Debug)]
pub(super) struct Structure {
    chains: BTreeSet<String>,
    /// By chain, in order, as the kernel writes them.
    rules: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Structure {
    fn read(socket: &mut NftSocket, family: Family) -> Result<Self, Error> {
        let family = encode::nft_family(family);
        let chains = socket.chains(family, TABLE)?.into_iter();
        let chains = chains.map(|chain| chain.name).collect();
        let mut rules: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for rule in socket.rules(family, TABLE)? {
            rules.entry(rule.chain).or_default().push(rule.expressions);
        }
        Ok(Self { chains, rules })
    }

    /// Whether every chain is there that should be, no other one, and each with as many rules as it
    /// was made with; those that were there `before`, with the same ones: a chain's rules follow
    /// from its name and the settings.
    fn intact(&self, settings: &Settings, applied: &Applied, before: Option<&Self>) -> bool {
        let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
        for operation in skeleton(settings) {
            if let Operation::AddRule { chain, .. } = operation {
                *wanted.entry(chain.to_string()).or_default() += 1;
            }
        }
        for chain in applied.chains() {
            wanted.insert(chain.to_string(), chain.rules(settings).len());
        }
        let found = self.rules.iter().map(|(chain, rules)| (chain, rules.len()));
        let before = before.into_iter().flat_map(|before| &before.rules);
        let mut before = before.filter_map(|(chain, rules)| Some((self.rules.get(chain)?, rules)));
        self.chains.len() == wanted.len()
            && found.eq(wanted.iter().map(|(chain, rules)| (chain, *rules)))
            && before.all(|(now, before)| now == before)
    }
}

/// The structure of the table if it is there, ours, and has what it should have. The elements are
/// not looked at.
///
/// # Errors
/// As [`NftSocket::tables`].
pub(super) fn intact(
    socket: &mut NftSocket,
    settings: &Settings,
    applied: &Applied,
    before: Option<&Structure>,
) -> Result<Option<Structure>, Error> {
    let family = settings.family;
    if signature(socket, family)?.flatten() != Some(settings.signature()) {
        return Ok(None);
    }
    let structure = Structure::read(socket, family)?;
    let intact = structure.intact(settings, applied, before);
    Ok(intact.then_some(structure))
}
