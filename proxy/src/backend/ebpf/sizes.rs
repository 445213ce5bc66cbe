//! How large maps are. A map keeps its size, so that one of another size than an earlier daemon was told
//! is made anew, while the programs of then go on with theirs.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use causeway_ebpf_abi::{Track, Tuple, maps};

use super::sockets::failed;
use super::sweep::{TrackMap, all};
use super::{Error, Options, pins};

/// The pin of the tracks beside their own, while there are two maps of them.
const OUTGROWN: &str = "tracks-outgrown";

/// The maps that are not as large as their definition says, with how many entries each has.
pub(super) const fn of(options: &Options) -> [(&'static str, u32); 4] {
    [
        (maps::TRACKS, options.tracks),
        (maps::FRONTENDS, options.frontends),
        (maps::BACKENDS, options.backends),
        (maps::MEMBERS, options.backends),
    ]
}

/// Makes way for maps that are as large as is wanted. Those that the daemon fills go as if they were of
/// another layout, if one of them has another size; tracks are set aside.
pub(super) fn make_way(options: &Options) -> Result<Option<Outgrown>, Error> {
    let [_, filled @ ..] = of(options);
    let mut fit = true;
    for (name, size) in filled {
        fit &= fits(&pins::map_pin(&options.pins, name), name, size)?;
    }
    if !fit {
        let folder = pins::maps(&options.pins);
        fs::remove_dir_all(&folder).map_err(pins::failed("folder", &folder))?;
        fs::create_dir(&folder).map_err(pins::failed("folder", &folder))?;
    }
    Outgrown::set_aside(&options.pins, options.tracks)
}

/// Whether there is no map, or one of that size.
fn fits(pin: &Path, name: &'static str, size: u32) -> Result<bool, Error> {
    let data = match MapData::from_pin(pin) {
        Err(_) if !pin.exists() => return Ok(true),
        other => other.map_err(failed(name))?,
    };
    let info = data.info().map_err(failed(name))?;
    Ok(info.max_entries() == size)
}

/// Tracks in a map of another size, which an earlier daemon's programs write until the new ones are in
/// their places.
#[derive(Debug)]
pub(super) struct Outgrown {
    map: TrackMap,
    pin: PathBuf,
    /// How many the new map takes.
    room: usize,
}

impl Outgrown {
    fn set_aside(pins: &Path, size: u32) -> Result<Option<Self>, Error> {
        let pin = pins::map_pin(pins, maps::TRACKS);
        let aside = pin.with_file_name(OUTGROWN);
        if !fits(&pin, maps::TRACKS, size)? {
            let moved = if aside.exists() {
                // Of a daemon that ended before its programs were anywhere.
                fs::remove_file(&pin)
            } else {
                fs::rename(&pin, &aside)
            };
            moved.map_err(pins::failed("pin", &pin))?;
        }
        if !aside.exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            map: super::sweep::open(&aside)?,
            pin: aside,
            room: size as usize,
        }))
    }

    /// Those for which there is room, the one that was idle for longest first. The two directions of a
    /// connection are beside one another.
    pub(super) fn tracks(&self) -> Result<Vec<(Tuple, Track)>, Error> {
        let mut found = all(&self.map)?;
        let seen: HashMap<Tuple, u64> = found.iter().map(|(key, one)| (*key, one.seen)).collect();
        found.sort_by_cached_key(|(tuple, track)| {
            let partner = track.partner();
            let other = partner.and_then(|partner| seen.get(&partner));
            let first = partner.map_or(*tuple, |partner| partner.min(*tuple));
            (track.seen.max(other.copied().unwrap_or(0)), first)
        });
        let beyond = found.len().saturating_sub(self.room);
        Ok(found.split_off(beyond))
    }

    /// Nothing writes it any more.
    pub(super) fn forget(self) -> Result<(), Error> {
        fs::remove_file(&self.pin).map_err(pins::failed("pin", &self.pin))
    }
}
