//! What went to each Service port and to each of its backends, out of the pinned maps, whether a
//! daemon runs or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{MapData, PerCpuHashMap};
use causeway_ebpf_abi::{Backend, Frontend, FrontendKey, SlotKey, Traffic, TrafficKey, maps};
use serde::Serialize;

use super::Error;
use super::entries::{Entry, socket_address};
use super::names::{Names, ServicePortName};
use super::pinned::{Pinned, present};
use super::sockets::{failed, gone};
use super::table::{Table, or_dash};

/// The maps.
pub(super) struct TrafficMaps {
    pinned: Pinned,
    traffic: PerCpuHashMap<MapData, Entry<TrafficKey>, Entry<Traffic>>,
    names: Names,
}

impl TrafficMaps {
    /// Views of their own of the maps that are pinned in `pins`.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        let pinned = Pinned::open(pins)?;
        Ok(Self {
            traffic: pinned.any(maps::TRAFFIC)?,
            names: Names::open(&pinned)?,
            pinned,
        })
    }

    /// What is counted, all processors together.
    fn counted(&self) -> Result<BTreeMap<TrafficKey, Traffic>, Error> {
        let mut found = BTreeMap::new();
        for key in self.traffic.keys() {
            let key = key.map_err(failed(maps::TRAFFIC))?;
            let by_processor = present(self.traffic.get(&key, 0)).map_err(failed(maps::TRAFFIC))?;
            if let Some(by_processor) = by_processor {
                let mut all = Traffic::NONE;
                by_processor.iter().for_each(|one| all.add(&one.0));
                found.insert(key.0, all);
            }
        }
        Ok(found)
    }

    /// By Service port, those to which something went.
    pub(super) fn by_service(&self) -> Result<BTreeMap<ServicePortName, Traffic>, Error> {
        let mut found = BTreeMap::new();
        for (key, traffic) in self.counted()? {
            if key.backend == Backend::NONE
                && let Some(name) = self.names.of(key.service)?
            {
                found.insert(name, traffic);
            }
        }
        Ok(found)
    }

    /// Takes away what was counted for a Service port; what was for its backends is swept.
    pub(super) fn forget(&mut self, service: u32) -> Result<(), Error> {
        let backend = Backend::NONE;
        let key = Entry(TrafficKey { service, backend });
        gone(self.traffic.remove(&key)).map_err(failed(maps::TRAFFIC))
    }

    /// Takes away what was counted for backends and Service ports that are gone. A call that was
    /// under way may make an entry after its backend left, so that this is done again and again.
    pub(super) fn sweep(&mut self) -> Result<(), Error> {
        let counted: Result<BTreeSet<TrafficKey>, _> = self
            .traffic
            .keys()
            .map(|key| key.map(|key| key.0))
            .collect();
        let counted = counted.map_err(failed(maps::TRAFFIC))?;
        let numbers: BTreeSet<u32> = counted.iter().map(|key| key.service).collect();
        let served = self.served(&numbers)?;
        for key in counted {
            let there = if key.backend == Backend::NONE {
                self.names.of(key.service)?.is_some()
            } else {
                served.contains(&key)
            };
            if !there {
                gone(self.traffic.remove(&Entry(key))).map_err(failed(maps::TRAFFIC))?;
            }
        }
        Ok(())
    }

    /// The backends that these Service ports have.
    fn served(&self, numbers: &BTreeSet<u32>) -> Result<BTreeSet<TrafficKey>, Error> {
        let mut served = BTreeSet::new();
        let backends = self
            .pinned
            .map::<Entry<SlotKey>, Entry<Backend>>(maps::BACKENDS)?;
        let frontends = self
            .pinned
            .entries::<FrontendKey, Frontend>(maps::FRONTENDS)?;
        for Frontend {
            set,
            count,
            service,
            ..
        } in frontends.into_values()
        {
            if !numbers.contains(&service) {
                continue;
            }
            for slot in 0..count {
                let found = present(backends.get(&Entry(SlotKey { set, slot }), 0));
                if let Some(Entry(backend)) = found.map_err(failed(maps::BACKENDS))? {
                    served.insert(TrafficKey { service, backend });
                }
            }
        }
        Ok(served)
    }
}

/// What went to each, by Service port: its total, and then each of its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TrafficDump(Vec<TrafficRow>);

/// What went to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRow {
    /// The Service port.
    #[serde(flatten)]
    pub service: ServicePortName,
    /// Its backend; none: all of it, also what went to backends that left.
    pub backend: Option<SocketAddr>,
    /// Connections, UDP flows among them.
    pub connections: u64,
    /// Calls and packets that were refused or dropped, since there was no backend.
    pub refused: u64,
}

impl TrafficDump {
    /// Reads the maps that are pinned in `pins`.
    ///
    /// # Errors
    /// There are none of this layout, or they may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let maps = TrafficMaps::open(pins)?;
        let mut rows = Vec::new();
        for (key, traffic) in maps.counted()? {
            let Some(service) = maps.names.of(key.service)? else {
                continue;
            };
            let backend = Some(key.backend).filter(|backend| *backend != Backend::NONE);
            rows.push(TrafficRow {
                service,
                backend: backend.map(|one| socket_address(one.address, one.port)),
                connections: traffic.connections,
                refused: traffic.refused,
            });
        }
        rows.sort_by(|a, b| (&a.service, a.backend).cmp(&(&b.service, b.backend)));
        Ok(Self(rows))
    }
}

/// A line for each.
impl fmt::Display for TrafficDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 4] = ["SERVICE", "BACKEND", "CONNECTIONS", "REFUSED"];
        let cells = |row: &TrafficRow| {
            [
                row.service.to_string(),
                or_dash(row.backend),
                row.connections.to_string(),
                row.refused.to_string(),
            ]
        };
        Table::new(HEAD, self.0.iter().map(cells)).fmt(f)
    }
}
