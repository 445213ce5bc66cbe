//! The pinned maps, as whoever looks at them sees them, whether a daemon runs or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use causeway_ebpf_abi::Plain;
use lb_model::Protocol;

use super::entries::Entry;
use super::sockets::{failed, is_missing};
use super::{Error, pins};

/// The folder that all pins are in, with maps of this layout.
pub(super) struct Pinned(PathBuf);

/// A hash map among them, of one of its kinds.
pub(super) type Opened<K, V> = HashMap<MapData, K, V>;

impl Pinned {
    /// # Errors
    /// There is none.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        let folder = pins::maps(pins);
        std::fs::metadata(&folder).map_err(pins::failed("the maps of mode ebpf in", &folder))?;
        Ok(Self(pins.to_owned()))
    }

    /// A map of them.
    pub(super) fn any<M: TryFrom<Map, Error = MapError>>(
        &self,
        name: &'static str,
    ) -> Result<M, Error> {
        let map = self.data(name).and_then(Map::from_map_data);
        map.and_then(M::try_from).map_err(failed(name))
    }

    /// A hash map of them.
    pub(super) fn map<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Opened<K, V>, Error> {
        self.any(name)
    }

    /// How many entries one takes.
    pub(super) fn max_entries(&self, name: &'static str) -> Result<u32, Error> {
        let info = self.data(name).and_then(|data| data.info());
        Ok(info.map_err(failed(name))?.max_entries())
    }

    fn data(&self, name: &str) -> Result<MapData, MapError> {
        MapData::from_pin(pins::map_pin(&self.0, name))
    }

    /// Every entry of one. What comes or goes meanwhile may be missing; a walk over a map that
    /// changes may meet an entry twice.
    pub(super) fn entries<K: Plain + Ord, V: Plain>(
        &self,
        name: &'static str,
    ) -> Result<BTreeMap<K, V>, Error> {
        read(&self.map(name)?).map_err(failed(name))
    }
}

/// Every entry of one that is open: see [`Pinned::entries`].
pub(super) fn read<K: Plain + Ord, V: Plain>(
    map: &Opened<Entry<K>, Entry<V>>,
) -> Result<BTreeMap<K, V>, MapError> {
    let mut found = BTreeMap::new();
    for key in map.keys() {
        let key = key?;
        if let Some(Entry(value)) = present(map.get(&key, 0))? {
            found.insert(key.0, value);
        }
    }
    Ok(found)
}

/// What went while it was looked for is not there.
pub(super) fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A protocol's name, or its number where it has none here.
pub(super) fn protocol_name(number: u8) -> String {
    let known = [Protocol::Tcp, Protocol::Udp];
    let protocol = known.iter().find(|known| known.number() == number);
    protocol.map_or_else(|| number.to_string(), ToString::to_string)
}
