//! What a table that is there already holds.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lb_model::{Family, FrontendAddress};
use lb_plan::nftables::{
    Applied, Chain, Element, Found, Operation, Set, Settings, TABLE, skeleton,
};
use nodekit::nft::{self, Error, NftSocket};

use super::ahead::Ahead;
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

/// Which endpoints of a table are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoints {
    /// All that there are.
    All,
    /// Those that its frontends draw from. By key: what the kernel lists of a map in one go is
    /// little, and each time it counts its way there from the map's beginning, so that a list of a
    /// quarter of a million takes seconds.
    Drawn,
}

/// How often a table is read by key that somebody commits into.
const ATTEMPTS: usize = 3;

/// Keys that are looked for in one go.
const KEYS: usize = 4096;

/// Reads the table of `settings`' family back, all of it.
///
/// # Errors
/// As [`NftSocket::elements`], except that a table that changes or goes meanwhile is
/// [`Present::Foreign`].
pub(super) fn read(socket: &mut NftSocket, settings: &Settings) -> Result<Present, Error> {
    if let Some(present) = not_ours(socket, settings)? {
        return Ok(present);
    }
    let applied = contents(socket, settings.family, Endpoints::All)?;
    Ok(Present::of(applied))
}

/// As [`read`], but quick; endpoints that no frontend of the table draws from are not seen. `ahead`:
/// what was read already.
///
/// # Errors
/// As [`read`].
pub(super) fn read_first(
    socket: &mut NftSocket,
    settings: &Settings,
    ahead: Ahead,
) -> Result<Present, Error> {
    if let Some(present) = not_ours(socket, settings)? {
        return Ok(present);
    }
    if let Some(read) = ahead.wait()
        && read.generation == socket.generation()?
    {
        return Ok(Present::of(read.applied));
    }
    match drawn(socket, settings.family)? {
        Some(read) => Ok(Present::of(read.applied)),
        None => read(socket, settings),
    }
}

/// What [`drawn`] found.
pub(super) struct Read {
    /// The rule set's generation all the while.
    generation: u32,
    /// `None`: not one that this version makes.
    applied: Option<Applied>,
}

/// Reads the table of `family` without the endpoints that no frontend draws from. `None`: there were
/// commits all the time, so that what was read may never have been there together.
///
/// # Errors
/// As [`NftSocket::elements`].
pub(super) fn drawn(socket: &mut NftSocket, family: Family) -> Result<Option<Read>, Error> {
    for _ in 0..ATTEMPTS {
        let generation = socket.generation()?;
        let applied = contents(socket, family, Endpoints::Drawn)?;
        if socket.generation()? == generation {
            return Ok(Some(Read {
                generation,
                applied,
            }));
        }
    }
    Ok(None)
}

impl Present {
    /// A table with the right signature that holds this.
    fn of(applied: Option<Applied>) -> Self {
        applied.map_or(Self::Foreign, |applied| Self::Ours(Box::new(applied)))
    }
}

/// What is to be said of the table without looking into it; `None`: its signature is the wanted one.
fn not_ours(socket: &mut NftSocket, settings: &Settings) -> Result<Option<Present>, Error> {
    Ok(match signature(socket, settings.family)? {
        None => Some(Present::Absent),
        Some(found) if found.as_deref() != Some(&settings.signature()) => Some(Present::Foreign),
        Some(_) => None,
    })
}

/// What the table of `family` holds; `None`: not what this version makes.
fn contents(
    socket: &mut NftSocket,
    family: Family,
    endpoints: Endpoints,
) -> Result<Option<Applied>, Error> {
    let Some(chains) = chains(socket, family)? else {
        return Ok(None);
    };
    let mut found = Found {
        chains,
        elements: Vec::new(),
    };
    let by_key = |set: Set| {
        endpoints == Endpoints::Drawn && matches!(set, Set::Endpoints | Set::NodePortEndpoints)
    };
    for set in Set::ALL
        .into_iter()
        .filter(|set| *set != Set::Affinity && !by_key(*set))
    {
        let raw = match socket.elements(encode::nft_family(family), TABLE, set.name()) {
            Ok(raw) => raw,
            Err(error) if error.errno() == Some(nodekit::Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !decode_all(family, set, &raw, &mut found.elements) {
            return Ok(None);
        }
    }
    if endpoints == Endpoints::Drawn && !find_drawn(socket, family, &mut found.elements)? {
        return Ok(None);
    }
    Ok(Applied::adopt(found).ok())
}

/// Appends `raw` to `elements`; `false`: not all of them are what this version makes.
fn decode_all<'a>(
    family: Family,
    set: Set,
    raw: impl IntoIterator<Item = &'a nft::Element>,
    elements: &mut Vec<Element>,
) -> bool {
    raw.into_iter().all(|raw| {
        let decoded = elements::decode(family, set, raw);
        let known = decoded.is_some();
        elements.extend(decoded);
        known
    })
}

/// Appends the endpoints that the frontends among `elements` draw from; `false`: not all of them are
/// what this version makes. One that is missing is left out.
fn find_drawn(
    socket: &mut NftSocket,
    family: Family,
    elements: &mut Vec<Element>,
) -> Result<bool, Error> {
    let drawn = elements.iter().filter_map(|element| match element {
        Element::Frontend { address, class } => Some((*address, class.slot_numbers())),
        _ => None,
    });
    let drawn = drawn.flat_map(|(address, slots)| slots.map(move |slot| (address, slot)));
    let (vips, node_ports): (Vec<_>, Vec<_>) =
        drawn.partition(|(address, _)| matches!(address, FrontendAddress::Vip { .. }));
    elements.reserve(vips.len() + node_ports.len());
    for (set, drawn) in [(Set::Endpoints, vips), (Set::NodePortEndpoints, node_ports)] {
        for some in drawn.chunks(KEYS) {
            let keys: Vec<_> = some
                .iter()
                .map(|(address, slot)| elements::endpoint_key(address, *slot))
                .collect();
            let paths: Vec<_> = keys.iter().map(|key| path(family, set, key)).collect();
            let raw = socket.find_elements(&paths)?;
            if !decode_all(family, set, raw.iter().flatten(), elements) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

const fn path(family: Family, set: Set, key: &nft::Value) -> nft::ElementPath<'_> {
    nft::ElementPath {
        family: encode::nft_family(family),
        table: TABLE,
        set: set.name(),
        key,
    }
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
    let own: HashSet<String> = Chain::OWN.iter().map(ToString::to_string).collect();
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
