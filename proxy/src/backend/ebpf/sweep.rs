//! Connections whose packets are translated: those that are over go, and UDP flows to endpoints
//! that left are looked at anew with their next packet. To do either twice is harmless.

use std::collections::BTreeSet;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use causeway_ebpf_abi::{Track, Tuple, maps};
use lb_model::Protocol;
use lb_plan::bpf::Lifetimes;

use super::entries::{Entry, ip, monotonic};
use super::pinned::present;
use super::prefilter::Marks;
use super::settled::Settled;
use super::sizes::Outgrown;
use super::sockets::{failed, gone};
use super::{Error, pins};
use crate::backend::conntrack::Serving;

pub(super) type TrackMap = HashMap<MapData, Entry<Tuple>, Entry<Track>>;

/// The connections.
#[derive(Debug)]
pub(super) struct Tracks {
    map: TrackMap,
    marks: Marks,
    settled: Settled,
    lifetimes: Lifetimes,
}

impl Tracks {
    /// A view of its own of the pinned map.
    pub(super) fn open(pins: &Path, lifetimes: Lifetimes) -> Result<Self, Error> {
        Ok(Self {
            map: open(&pins::map_pin(pins, maps::TRACKS))?,
            marks: Marks::open(pins)?,
            settled: Settled::open(pins)?,
            lifetimes,
        })
    }

    /// Takes away what is over, and marks what stays for the prefilter: nobody else may do that at
    /// the same time. Gives how many stay.
    pub(super) fn sweep(&mut self) -> Result<usize, Error> {
        let now = monotonic();
        let mut staying = 0;
        let generation = self.marks.now()?;
        for (tuple, track) in all(&self.map)? {
            let other = match track.partner() {
                Some(partner) => self.get(&partner)?,
                None => None,
            };
            let over = |one: &Track, other: Option<&Track>| {
                self.lifetimes.is_over(tuple.protocol, one, other, now)
            };
            // A packet may have come meanwhile.
            let is_over = over(&track, other.as_ref())
                && match self.get(&tuple)? {
                    Some(again) => over(&again, other.as_ref()),
                    None => false,
                };
            if is_over {
                self.remove(&tuple)?;
            } else {
                self.marks.mark(&tuple, generation)?;
                staying += 1;
            }
        }
        self.marks.end(generation)?;
        Ok(staying)
    }

    /// Takes away the UDP flows to whom does not serve (any more).
    pub(super) fn reconcile(&mut self, serving: &mut Serving<'_>) -> Result<(), Error> {
        let mut stale = BTreeSet::new();
        for (tuple, track) in all(&self.map)? {
            let udp = tuple.protocol == Protocol::Udp.number();
            if !udp || track.flags & Track::ANSWER != 0 {
                continue;
            }
            let (to, port) = (ip(tuple.destination), tuple.destination_port);
            let backend = ip(track.becomes.destination);
            let serves = serving.at(Protocol::Udp, to, port);
            if serves.is_none_or(|(_, serving)| serving.binary_search(&backend).is_err()) {
                stale.insert((tuple, track.partner()));
            }
        }
        for (forward, answer) in &stale {
            // The forward one first: without it the next packet is a new flow's.
            self.remove(forward)?;
            if let Some(answer) = answer {
                self.remove(answer)?;
            }
        }
        Ok(())
    }

    /// Takes over what is in a map of another size and newer than here.
    pub(super) fn take_over(&mut self, outgrown: &Outgrown) -> Result<(), Error> {
        for (tuple, track) in outgrown.tracks()? {
            if self
                .get(&tuple)?
                .is_none_or(|known| known.seen < track.seen)
            {
                let written = self.map.insert(Entry(tuple), Entry(track), 0);
                written.map_err(failed(maps::TRACKS))?;
            }
        }
        Ok(())
    }

    fn get(&self, tuple: &Tuple) -> Result<Option<Track>, Error> {
        get(&self.map, tuple)
    }

    /// Counts what its packets brought since the programs did, and takes it away.
    fn remove(&mut self, tuple: &Tuple) -> Result<(), Error> {
        if let Some(track) = self.get(tuple)? {
            let (to, more) = track.uncounted(tuple);
            self.settled.add(&to, &more)?;
        }
        gone(self.map.remove(&Entry(*tuple))).map_err(failed(maps::TRACKS))
    }
}

/// A view of its own of a pinned map.
pub(super) fn open(pin: &Path) -> Result<TrackMap, Error> {
    let data = MapData::from_pin(pin).and_then(Map::from_map_data);
    data.and_then(HashMap::try_from)
        .map_err(failed(maps::TRACKS))
}

/// Every one. What comes or goes meanwhile may be missed, or met twice.
pub(super) fn all(map: &TrackMap) -> Result<Vec<(Tuple, Track)>, Error> {
    let mut found = Vec::new();
    for key in map.keys() {
        let key = key.map_err(failed(maps::TRACKS))?.0;
        found.extend(get(map, &key)?.map(|track| (key, track)));
    }
    Ok(found)
}

fn get(map: &TrackMap, tuple: &Tuple) -> Result<Option<Track>, Error> {
    let found = present(map.get(&Entry(*tuple), 0)).map_err(failed(maps::TRACKS))?;
    Ok(found.map(|track| track.0))
}
