//! What went to each Service port and to each of its backends, out of the pinned maps, whether a
//! daemon runs or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{MapData, PerCpuHashMap};
use causeway_ebpf_abi::{
    Backend, Frontend, FrontendKey, SlotKey, Track, Traffic, TrafficKey, Tuple, maps,
};
use serde::Serialize;

use super::Error;
use super::entries::{Entry, socket_address};
use super::names::{Names, ServicePortName};
use super::pinned::{Pinned, present};
use super::settled::{Settled, both};
use super::sockets::{failed, gone};
use super::table::{Table, or_dash};

/// The maps.
pub(super) struct TrafficMaps {
    pinned: Pinned,
    traffic: PerCpuHashMap<MapData, Entry<TrafficKey>, Entry<Traffic>>,
    /// What was counted of connections that the daemon took away.
    settled: Settled,
    names: Names,
}

impl TrafficMaps {
    /// Views of their own of the maps that are pinned in `pins`.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        let pinned = Pinned::open(pins)?;
        Ok(Self {
            traffic: pinned.any(maps::TRAFFIC)?,
            settled: Settled::of(&pinned)?,
            names: Names::open(&pinned)?,
            pinned,
        })
    }

    /// What is counted, all processors together. It never becomes less; packets of the last second
    /// are not in it, nor are those after which their connection fell silent.
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
        self.settled.add_to(&mut found)?;
        Ok(found)
    }

    /// The same with all that has passed so far.
    fn passed(&self) -> Result<BTreeMap<TrafficKey, Traffic>, Error> {
        let mut found = self.counted()?;
        for (tuple, track) in self.pinned.entries::<Tuple, Track>(maps::TRACKS)? {
            let (to, more) = track.uncounted(&tuple);
            if to.service != 0 && more != Traffic::NONE {
                for key in both(&to) {
                    found.entry(key).or_default().add(&more);
                }
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
        self.remove(&TrafficKey { service, backend })
    }

    fn remove(&mut self, key: &TrafficKey) -> Result<(), Error> {
        gone(self.traffic.remove(&Entry(*key))).map_err(failed(maps::TRAFFIC))?;
        self.settled.forget(key)
    }

    /// Takes away what was counted for backends and Service ports that are gone. A call that was
    /// under way may make an entry after its backend left, so that this is done again and again.
    pub(super) fn sweep(&mut self) -> Result<(), Error> {
        // Most stay, so the keys are read twice rather than kept.
        let numbers = self.keys().map(|key| Ok(key?.service));
        let numbers: BTreeSet<u32> = numbers.collect::<Result<_, Error>>()?;
        let served = self.served(&numbers)?;
        let mut gone = Vec::new();
        for key in self.keys() {
            let key = key?;
            let there = if key.backend == Backend::NONE {
                self.names.of(key.service)?.is_some()
            } else {
                served.contains(&key)
            };
            if !there {
                gone.push(key);
            }
        }
        gone.iter().try_for_each(|key| self.remove(key))
    }

    /// For whom something is counted; twice where both maps have it.
    fn keys(&self) -> impl Iterator<Item = Result<TrafficKey, Error>> {
        let key = |key: Result<Entry<_>, _>| Ok(key.map_err(failed(maps::TRAFFIC))?.0);
        self.traffic.keys().map(key).chain(self.settled.keys())
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
                    let backend = backend.bare();
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
    /// Packets of clients that were translated one by one; those of sockets are not.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// The same of the answers.
    pub answer_packets: u64,
    /// Their bytes.
    pub answer_bytes: u64,
}

impl TrafficDump {
    /// Reads the maps that are pinned in `pins`.
    ///
    /// # Errors
    /// There are none of this layout, or they may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let maps = TrafficMaps::open(pins)?;
        let mut rows = Vec::new();
        for (key, traffic) in maps.passed()? {
            let Some(service) = maps.names.of(key.service)? else {
                continue;
            };
            let backend = Some(key.backend).filter(|backend| *backend != Backend::NONE);
            rows.push(TrafficRow {
                service,
                backend: backend.map(|one| socket_address(one.address, one.port)),
                connections: traffic.connections,
                refused: traffic.refused,
                packets: traffic.packets,
                bytes: traffic.bytes,
                answer_packets: traffic.answer_packets,
                answer_bytes: traffic.answer_bytes,
            });
        }
        rows.sort_by(|a, b| (&a.service, a.backend).cmp(&(&b.service, b.backend)));
        Ok(Self(rows))
    }
}

/// A line for each.
impl fmt::Display for TrafficDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 6] = [
            "SERVICE",
            "BACKEND",
            "CONNECTIONS",
            "REFUSED",
            "PACKETS",
            "BYTES",
        ];
        let cells = |row: &TrafficRow| {
            [
                row.service.to_string(),
                or_dash(row.backend),
                row.connections.to_string(),
                row.refused.to_string(),
                format!("{}/{}", row.packets, row.answer_packets),
                format!("{}/{}", row.bytes, row.answer_bytes),
            ]
        };
        Table::new(HEAD, self.0.iter().map(cells)).fmt(f)
    }
}
