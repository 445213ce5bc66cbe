//! What was counted of connections that the daemon took away. The programs' own map of counts has a
//! place for each processor, which is no other's to write.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use causeway_ebpf_abi::{Backend, Traffic, TrafficKey, maps};

use super::Error;
use super::entries::Entry;
use super::pinned::{Opened, Pinned, present};
use super::sockets::{failed, gone};

/// The map, of which there is a view for each thread that takes tracks away.
#[derive(Debug)]
pub(super) struct Settled(Opened<Entry<TrafficKey>, Entry<Traffic>>);

/// To add is to read and to write.
static ADDING: Mutex<()> = Mutex::new(());

impl Settled {
    /// A view of its own of the map that is pinned in `pins`.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        Self::of(&Pinned::open(pins)?)
    }

    /// The same of maps that are open.
    pub(super) fn of(pinned: &Pinned) -> Result<Self, Error> {
        Ok(Self(pinned.map(maps::SETTLED)?))
    }

    /// So much more for a backend, and for its Service port.
    pub(super) fn add(&mut self, to: &TrafficKey, more: &Traffic) -> Result<(), Error> {
        if to.service == 0 || *more == Traffic::NONE {
            return Ok(());
        }
        let _guard = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
        for key in both(to) {
            let before = present(self.0.get(&Entry(key), 0)).map_err(failed(maps::SETTLED))?;
            let mut traffic = before.map_or(Traffic::NONE, |entry| entry.0);
            traffic.add(more);
            let written = self.0.insert(Entry(key), Entry(traffic), 0);
            written.map_err(failed(maps::SETTLED))?;
        }
        Ok(())
    }

    /// Adds all of it to what was counted elsewhere.
    pub(super) fn add_to(&self, counted: &mut BTreeMap<TrafficKey, Traffic>) -> Result<(), Error> {
        for key in self.keys() {
            let key = key?;
            let more = present(self.0.get(&Entry(key), 0)).map_err(failed(maps::SETTLED))?;
            if let Some(Entry(more)) = more {
                counted.entry(key).or_default().add(&more);
            }
        }
        Ok(())
    }

    /// For whom it has something.
    pub(super) fn keys(&self) -> impl Iterator<Item = Result<TrafficKey, Error>> {
        let key = |key: Result<Entry<_>, _>| Ok(key.map_err(failed(maps::SETTLED))?.0);
        self.0.keys().map(key)
    }

    pub(super) fn forget(&mut self, key: &TrafficKey) -> Result<(), Error> {
        gone(self.0.remove(&Entry(*key))).map_err(failed(maps::SETTLED))
    }
}

/// A backend's key and its Service port's.
pub(super) const fn both(to: &TrafficKey) -> [TrafficKey; 2] {
    let all = TrafficKey {
        service: to.service,
        backend: Backend::NONE,
    };
    [*to, all]
}
