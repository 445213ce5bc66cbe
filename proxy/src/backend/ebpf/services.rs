//! Service ports by number in the maps, and what is counted for them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use causeway_ebpf_abi::{PortName, maps};
use lb_model::{ServiceName, ServicePort};
use lb_plan::bpf::Ports;

use super::Error;
use super::entries::Entry;
use super::sockets::{failed, gone, take};
use super::traffic::TrafficMaps;

/// The names of Service ports.
pub(super) struct Services {
    names: HashMap<MapData, u32, Entry<PortName>>,
    traffic: TrafficMaps,
    ports: Ports,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ports.fmt(f)
    }
}

impl Services {
    /// With the numbers that an earlier daemon gave.
    pub(super) fn adopt(ebpf: &mut Ebpf, pins: &Path) -> Result<Self, Error> {
        let names: HashMap<_, u32, Entry<PortName>> = take(ebpf, maps::SERVICES)?;
        let found: Result<BTreeMap<u32, Entry<PortName>>, _> = names.iter().collect();
        let found = found.map_err(failed(maps::SERVICES))?.into_iter();
        let ports = Ports::adopt(found.map(|(number, name)| (number, name.0.as_str().to_owned())));
        Ok(Self {
            names,
            traffic: TrafficMaps::open(pins)?,
            ports,
        })
    }

    /// `service` has these ports now.
    pub(super) fn set(&mut self, service: &ServiceName, ports: &[ServicePort]) {
        let names = ports.iter().map(|port| port.name.as_str());
        self.ports.set(service, names);
    }

    /// The number of one of them.
    pub(super) fn number(&self, service: &ServiceName, port: &ServicePort) -> u32 {
        self.ports.number(service, &port.name)
    }

    /// Names what came, before a frontend has its number; how many entries that took.
    pub(super) fn name(&mut self) -> Result<usize, Error> {
        let new = self.ports.new_names();
        for (number, name) in &new {
            let name = Entry(PortName::new(name));
            let named = self.names.insert(number, name, 0);
            named.map_err(failed(maps::SERVICES))?;
            self.ports.done(*number);
        }
        Ok(new.len())
    }

    /// Forgets what went, when no frontend has its number any more; how many entries that took.
    pub(super) fn forget(&mut self) -> Result<usize, Error> {
        let numbers = self.ports.gone();
        for number in &numbers {
            gone(self.names.remove(number)).map_err(failed(maps::SERVICES))?;
            self.traffic.forget(*number)?;
            self.ports.done(*number);
        }
        Ok(numbers.len())
    }

    /// Forgets what was counted for whom is gone.
    pub(super) fn sweep(&mut self) -> Result<(), Error> {
        self.traffic.sweep()
    }
}
