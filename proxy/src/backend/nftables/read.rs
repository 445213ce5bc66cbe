//! What a table that is there already holds.

use std::collections::HashSet;

use lb_model::Family;
use lb_plan::nftables::{Applied, Chain, Found, Set, Settings, TABLE};
use nodekit::nft::{Error, NftSocket};

use super::{elements, encode};

/// A table in the kernel, seen from our settings.
pub(super) enum Present {
    /// There is none.
    Absent,
    /// Made by another version or under other settings, or damaged: to be replaced.
    Foreign,
    /// Ours.
    Ours(Box<Applied>),
}

/// The chains that a table has from the start.
const OWN: [Chain; 6] = [
    Chain::NatPrerouting,
    Chain::NatOutput,
    Chain::NatPostrouting,
    Chain::NatInput,
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
    let family = encode::nft_family(family);
    let chains = socket.chains(family, TABLE)?;
    let with_rules: HashSet<String> = socket
        .rules(family, TABLE)?
        .into_iter()
        .map(|rule| rule.chain)
        .collect();
    let own: HashSet<String> = OWN.iter().map(ToString::to_string).collect();
    if chains.iter().any(|chain| !with_rules.contains(&chain.name)) || !own.is_subset(&with_rules) {
        return Ok(None);
    }
    let names = chains.into_iter().map(|chain| chain.name);
    Ok(Some(names.filter(|name| !own.contains(name)).collect()))
}

/// Whether the table is there, ours, and has every chain that it should have, with rules. The
/// elements are not looked at.
///
/// # Errors
/// As [`NftSocket::tables`].
pub(super) fn intact(
    socket: &mut NftSocket,
    settings: &Settings,
    applied: &Applied,
) -> Result<bool, Error> {
    let family = settings.family;
    if signature(socket, family)?.flatten() != Some(settings.signature()) {
        return Ok(false);
    }
    let Some(found) = chains(socket, family)? else {
        return Ok(false);
    };
    let found: HashSet<String> = found.into_iter().collect();
    Ok(applied
        .chains()
        .all(|chain| found.contains(&chain.to_string())))
}
