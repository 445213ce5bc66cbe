//! Operations as the kernel's commands, and what it has read back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use lb_model::{Family, Protocol};
use lb_plan::ipvs::{DEVICE, Found, Key, Operation, Service};
use lb_plan::nftables::Target;
use nodekit::Errno;
use nodekit::ipvs::{self, Command, Destination, IpvsSocket, ServiceKey};
use nodekit::netlink::Error;
use nodekit::route::{Address, Handle, Scope, index_of};

use super::Options;

/// The scheduler that kube-proxy lets take a client's port into account, too.
const HASHES_PORTS: &str = "mh";

/// IPVS and the device with the addresses of Services, in the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Kernel {
    ipvs: IpvsSocket,
    route: Handle,
    /// The device, where it is there.
    device: Option<u32>,
}

impl Kernel {
    /// # Errors
    /// There is no IPVS (`ENOENT`), or no socket.
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self {
            ipvs: IpvsSocket::open()?,
            route: Handle::open()?,
            device: index_of(DEVICE)?,
        })
    }

    /// Makes the device, unless it is there. It stays down, which addresses don't mind.
    pub(super) fn make_device(&mut self) -> Result<(), Error> {
        self.device = index_of(DEVICE)?;
        if self.device.is_none() {
            match self.route.create_dummy(DEVICE) {
                Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(error),
                _ => self.device = index_of(DEVICE)?,
            }
        }
        Ok(())
    }

    /// Removes the device with all its addresses.
    pub(super) fn remove_device(&mut self) -> Result<(), Error> {
        let removed = self.device.map(|device| self.route.delete_link(device));
        self.device = None;
        removed.unwrap_or(Ok(()))
    }

    pub(super) fn set_timeouts(&mut self, timeouts: ipvs::Timeouts) -> Result<(), Error> {
        self.ipvs.set_timeouts(timeouts)
    }

    /// Carries `operations` out; gives those that were refused, by their place.
    ///
    /// # Errors
    /// Some may have been carried out, and some not.
    pub(super) fn apply<'a>(
        &mut self,
        operations: impl Iterator<Item = &'a Operation>,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let mut commands = Vec::new();
        let mut places = Vec::new();
        let mut refused = Vec::new();
        for (place, operation) in operations.enumerate() {
            match operation {
                Operation::Bind(ip) => {
                    refused.extend(self.bind(*ip).err().map(|error| (place, error)));
                }
                Operation::Unbind(ip) => {
                    refused.extend(self.unbind(*ip).err().map(|error| (place, error)));
                }
                Operation::AddService(_)
                | Operation::SetService(_)
                | Operation::DeleteService(_)
                | Operation::AddDestination { .. }
                | Operation::SetDestination { .. }
                | Operation::DeleteDestination { .. } => {
                    commands.extend(command(operation));
                    places.push(place);
                }
            }
        }
        for (at, error) in self.ipvs.apply(&commands)? {
            refused.extend(places.get(at).map(|place| (*place, error)));
        }
        Ok(refused)
    }

    /// The virtual services of `family`, but those that are somebody else's, and the addresses on the
    /// device.
    pub(super) fn read(&mut self, family: Family, options: &Options) -> Result<Found, Error> {
        let mut found = Found {
            services: Vec::new(),
            bound: self.bound()?,
        };
        found.bound.retain(|ip| Family::of(*ip) == family);
        for service in self.ipvs.services()? {
            let Some(key) = key(&service.key) else {
                continue;
            };
            if Family::of(key.ip) != family || options.excludes(&key) {
                continue;
            }
            let destinations = self.ipvs.destinations(&service.key)?;
            let destinations = destinations.iter().map(|state| {
                let one = &state.destination;
                (target(one.ip, one.port), one.weight == 0)
            });
            let service = Service {
                key,
                scheduler: service.scheduler,
                persistence: service.persistence,
            };
            found.services.push((service, destinations.collect()));
        }
        Ok(found)
    }

    /// The virtual services of both families, but those that are somebody else's.
    pub(super) fn keys(&mut self, options: &Options) -> Result<Vec<Key>, Error> {
        let services = self.ipvs.services()?;
        let keys = services.iter().filter_map(|service| key(&service.key));
        Ok(keys.filter(|key| !options.excludes(key)).collect())
    }

    /// Removes virtual services.
    pub(super) fn delete(&mut self, keys: &[Key]) -> Result<(), Error> {
        let operations: Vec<Operation> =
            keys.iter().copied().map(Operation::DeleteService).collect();
        match self.apply(operations.iter())?.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// The destinations of a virtual service that have no connections.
    pub(super) fn idle(&mut self, key: Key) -> Result<BTreeSet<Target>, Error> {
        let states = self.ipvs.destinations(&service_key(key))?;
        let idle = states
            .iter()
            .filter(|state| state.active == 0 && state.inactive == 0);
        let idle = idle.map(|state| target(state.destination.ip, state.destination.port));
        Ok(idle.collect())
    }

    /// The addresses on the device, but that which the kernel itself may give it.
    fn bound(&mut self) -> Result<BTreeSet<IpAddr>, Error> {
        let Some(device) = self.device else {
            return Ok(BTreeSet::new());
        };
        let addresses = match self.route.addresses(Some(device)) {
            // Somebody removed it.
            Err(error) if error.errno() == Some(Errno::ENODEV) => {
                self.device = None;
                return Ok(BTreeSet::new());
            }
            addresses => addresses?,
        };
        let addresses = addresses.into_iter().filter(|one| one.scope != Scope::Link);
        Ok(addresses.map(|address| address.address.ip()).collect())
    }

    fn bind(&mut self, ip: IpAddr) -> Result<(), Error> {
        let Some(device) = self.device else {
            return Err(Error::kernel(
                &format_args!("add address {ip} to {DEVICE}"),
                Errno::ENODEV,
                None,
            ));
        };
        let added = self.route.add_address(&Address::new(device, whole(ip)));
        ignoring(Errno::EEXIST, added)
    }

    fn unbind(&mut self, ip: IpAddr) -> Result<(), Error> {
        let Some(device) = self.device else {
            return Ok(());
        };
        let deleted = self.route.delete_address(device, whole(ip));
        ignoring(Errno::EADDRNOTAVAIL, deleted)
    }
}

fn ignoring(errno: Errno, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.errno() == Some(errno) => Ok(()),
        result => result,
    }
}

/// An address by itself.
fn whole(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}

const fn target(ip: IpAddr, port: u16) -> Target {
    Target { ip, port }
}

fn service_key(key: Key) -> ServiceKey {
    ServiceKey {
        ip: key.ip,
        protocol: key.protocol.number(),
        port: key.port,
    }
}

/// `None`: of a protocol that no Service has.
fn key(key: &ServiceKey) -> Option<Key> {
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.number() == key.protocol)?;
    Some(Key {
        ip: key.ip,
        protocol,
        port: key.port,
    })
}

fn service(service: &Service) -> ipvs::Service {
    ipvs::Service {
        key: service_key(service.key),
        scheduler: service.scheduler.clone(),
        persistence: service.persistence,
        hash_port: service.scheduler == HASHES_PORTS,
    }
}

fn destination(target: &Target, drains: bool) -> Destination {
    Destination {
        ip: target.ip,
        port: target.port,
        weight: u32::from(!drains),
    }
}

/// `None`: none of IPVS's.
fn command(operation: &Operation) -> Option<Command> {
    Some(match operation {
        Operation::AddService(one) => Command::AddService(service(one)),
        Operation::SetService(one) => Command::SetService(service(one)),
        Operation::DeleteService(key) => Command::DeleteService(service_key(*key)),
        Operation::AddDestination { key, target } => {
            Command::AddDestination(service_key(*key), destination(target, false))
        }
        Operation::SetDestination {
            key,
            target,
            drains,
        } => Command::SetDestination(service_key(*key), destination(target, *drains)),
        Operation::DeleteDestination { key, target } => {
            Command::DeleteDestination(service_key(*key), target.ip, target.port)
        }
        Operation::Bind(_) | Operation::Unbind(_) => return None,
    })
}
