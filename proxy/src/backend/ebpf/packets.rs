//! The program on packets, at every interface of the node, or, while nobody needs it, at none: it
//! follows interfaces as they come and go, on a thread of its own, and takes away connections that are
//! over.

mod keeper;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData};
use causeway_ebpf_abi::{Address, Interface, PodNetwork, Settings, maps};
use ipnetwork::IpNetwork;
use lb_model::{Family, LocalDetector, ServiceName};
use lb_plan::bpf::{Change, Lifetimes, network};
use nodekit::route::{self, Changes};

use super::attachment::Attachments;
use super::counts::Counts;
use super::entries::Entry;
use super::frames::Frames;
use super::interfaces::Scene;
use super::load::Refusals;
use super::peers::Peers;
use super::prefilter::Bits;
use super::presence::Presence;
use super::sizes::Outgrown;
use super::sockets::{failed, gone, take};
use super::sweep::Tracks;
use super::traffic::TrafficMaps;
use super::{Error, Options};
use keeper::Keeper;

pub(super) type Networks = LpmTrie<MapData, Address, u32>;

/// The program, its maps, and the thread.
#[derive(Debug)]
pub(super) struct Packets {
    hooks: Arc<Mutex<Hooks>>,
    pub(super) tracks: Tracks,
    /// Tracks of an earlier daemon, until the program is in the places of its.
    outgrown: Option<Outgrown>,
    unserved: Networks,
    /// What packets may aim at.
    pub(super) bits: Bits,
    /// The Services that need the program.
    reachable: BTreeSet<ServiceName>,
    /// It is needed without any.
    always: bool,
    /// Heard of since the first look, until there is a keeper.
    changes: Option<Changes>,
    keeper: Option<Keeper>,
    pins: PathBuf,
    lifetimes: Lifetimes,
    sweep: Duration,
}

/// Where the program is.
struct Hooks {
    attachments: Attachments,
    settings: Array<MapData, Entry<Settings>>,
    interfaces: aya::maps::HashMap<MapData, u32, Entry<Interface>>,
    pods: Networks,
    peers: Peers,
    detectors: BTreeMap<Family, LocalDetector>,
    /// As they are in the map, each with the program on it.
    known: BTreeMap<u32, Interface>,
    scene: Scene,
    presence: Presence,
    /// The program is where it should be.
    whole: bool,
    /// The one in drivers.
    frames: Frames,
    counts: Counts,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Packets {
    /// Loads the program out of `ebpf`, and takes its maps. It is attached to nothing yet.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        mut refusals: Refusals,
        options: &Options,
        counts: Counts,
        outgrown: Option<Outgrown>,
    ) -> Result<Self, Error> {
        let settings: Array<_, Entry<Settings>> = take(ebpf, maps::SETTINGS)?;
        let Entry(before) = settings.get(&0, 0).map_err(failed(maps::SETTINGS))?;
        let mut attachments = Attachments::take(ebpf, &mut refusals, options)?;
        let mut hooks = Hooks {
            presence: Presence::adopt(attachments.are_anywhere()?),
            attachments,
            settings,
            interfaces: take(ebpf, maps::INTERFACES)?,
            pods: take(ebpf, maps::PODS)?,
            peers: Peers::take(ebpf, options)?,
            detectors: BTreeMap::new(),
            known: BTreeMap::new(),
            scene: Scene::default(),
            whole: false,
            frames: Frames::take(ebpf, &mut refusals, options)?,
            counts,
        };
        hooks.set(Settings {
            first_port: *options.snat_ports.start(),
            last_port: *options.snat_ports.end(),
            // Of where an earlier daemon's program is.
            no_ethernet: before.no_ethernet,
            maglev_seed: halves(options.maglev.map_or(0, |maglev| maglev.seed)),
            ..Settings::DEFAULT
        })?;
        Ok(Self {
            hooks: Arc::new(Mutex::new(hooks)),
            tracks: Tracks::open(&options.pins, options.lifetimes)?,
            outgrown,
            unserved: take(ebpf, maps::UNSERVED)?,
            bits: Bits::adopt(ebpf)?,
            reachable: BTreeSet::new(),
            always: options.external_cluster_ips,
            changes: None,
            keeper: None,
            pins: options.pins.clone(),
            lifetimes: options.lifetimes,
            sweep: options.sweep,
        })
    }

    /// What the map of Services' networks has.
    pub(super) fn unserved(&self) -> Result<BTreeMap<PodNetwork, u32>, Error> {
        entries(&self.unserved).map_err(failed(maps::UNSERVED))
    }

    /// Changes it.
    pub(super) fn set_unserved(&mut self, changes: &[Change]) -> Result<(), Error> {
        for (key, wanted) in changes {
            match wanted {
                Some(_) => self.bits.network(key)?,
                None => self.bits.forget(),
            }
            set(&mut self.unserved, key, *wanted).map_err(failed(maps::UNSERVED))?;
        }
        Ok(())
    }

    /// Looks where the node is; pods are recognised by these detectors from now on.
    pub(super) fn look(&mut self, detectors: BTreeMap<Family, LocalDetector>) -> Result<(), Error> {
        if self.keeper.is_none() && self.changes.is_none() {
            // What changes from now on is heard of.
            self.changes = Some(Changes::open().map_err(Error::Interfaces)?);
        }
        let mut hooks = lock(&self.hooks);
        hooks.detectors = detectors;
        hooks.look()
    }

    /// Whether a Service needs the program.
    pub(super) fn set_reachable(&mut self, service: &ServiceName, reachable: bool) {
        if reachable {
            self.reachable.insert(service.clone());
        } else {
            self.reachable.remove(service);
        }
    }

    /// Each will be said anew.
    pub(super) fn clear_reachable(&mut self) {
        self.reachable.clear();
    }

    /// Brings the program to every interface that was seen, if it is needed, and follows them from now
    /// on.
    pub(super) fn attach(&mut self) -> Result<(), Error> {
        let needed = self.always || !self.reachable.is_empty();
        if let Some(outgrown) = &self.outgrown {
            self.tracks.take_over(outgrown)?;
        }
        lock(&self.hooks).need(needed)?;
        if let Some(outgrown) = self.outgrown.take() {
            // What came meanwhile.
            self.tracks.take_over(&outgrown)?;
            outgrown.forget()?;
        }
        if let Some(changes) = self.changes.take() {
            let hooks = Arc::clone(&self.hooks);
            let tracks = Tracks::open(&self.pins, self.lifetimes)?;
            let traffic = TrafficMaps::open(&self.pins)?;
            let keeper = Keeper::start(changes, hooks, tracks, traffic, self.sweep)?;
            self.keeper = Some(keeper);
        }
        Ok(())
    }

    /// Whether the program is at every interface.
    pub(super) fn is_whole(&self) -> Result<bool, Error> {
        lock(&self.hooks).is_whole()
    }

    /// Every address of the node, as far as it was looked.
    pub(super) fn here(&self) -> BTreeSet<IpAddr> {
        lock(&self.hooks).scene.here.clone()
    }
}

/// A number in two, the lower half first.
const fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn lock(hooks: &Mutex<Hooks>) -> MutexGuard<'_, Hooks> {
    hooks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hooks {
    /// Looks which interfaces there are.
    fn look(&mut self) -> Result<(), Error> {
        self.scene = Scene::look(&self.detectors).map_err(Error::Interfaces)?;
        Ok(())
    }

    /// Whether the program is needed from now on; it comes at once, and stays for now.
    fn need(&mut self, needed: bool) -> Result<(), Error> {
        let before = self.presence.is_due();
        self.presence.set_needed(needed, Instant::now());
        if !before && needed {
            tracing::info!("interfaces get the program on packets, which is needed");
        }
        self.bring()
    }

    /// No connection is left: takes the program away if it has not been needed for that long.
    fn rest(&mut self, patience: Duration) -> Result<(), Error> {
        if !self.presence.end(Instant::now(), patience) {
            return Ok(());
        }
        tracing::info!("nothing can be reached from outside: interfaces have no program");
        self.bring()
    }

    /// Sees to each interface. One that cannot have the program does not keep it from others.
    fn bring(&mut self) -> Result<(), Error> {
        let scene = std::mem::take(&mut self.scene);
        let result = if self.presence.is_due() {
            self.frames.follow(&scene);
            let result = self.bring_to(&scene);
            // Which of the programs that others have come after ours is known now.
            self.follow_peers();
            result
        } else {
            let nowhere = Scene::default();
            self.frames.follow(&nowhere);
            self.forget(&nowhere)
        };
        self.counts.set_hooked(self.known.len());
        self.whole = result.is_ok();
        self.scene = scene;
        result
    }

    /// Looks who is behind bridges.
    fn follow_peers(&mut self) {
        self.peers.follow(self.attachments.id());
    }

    /// Follows a change. Of filters it is no more than who wants to see packets: if one of ours was removed,
    /// the regular look is to notice and count that.
    fn heard(&mut self, change: route::Change) {
        match change {
            route::Change::Nothing => {}
            route::Change::Traffic => self.follow_peers(),
            route::Change::Links => {
                if let Err(error) = self.follow() {
                    tracing::warn!(%error, "packets of an interface are not translated");
                }
            }
        }
    }

    /// As it is now.
    fn follow(&mut self) -> Result<(), Error> {
        self.look()?;
        self.bring()
    }

    fn is_whole(&mut self) -> Result<bool, Error> {
        let Self {
            attachments, known, ..
        } = self;
        for index in known.keys() {
            if !attachments.is_at(*index)? {
                return Ok(false);
            }
        }
        Ok(self.whole && self.frames.is_whole())
    }

    fn bring_to(&mut self, scene: &Scene) -> Result<(), Error> {
        let networks = self.detectors.values().filter_map(|by| match by {
            LocalDetector::Cidr(pods) => Some(*pods),
            _ => None,
        });
        let networks: Vec<IpNetwork> = networks.collect();
        set_pods(&mut self.pods, &networks).map_err(failed(maps::PODS))?;
        // Before the program meets a packet of them.
        self.tell_ethernet(scene)?;
        let mut result = Ok(());
        for (index, (name, interface)) in &scene.interfaces {
            match self.see_to(*index, name, interface) {
                Ok(()) => {}
                // It went meanwhile, which the next look sees.
                Err(_) if nix::net::if_::if_nametoindex(name.as_str()).is_err() => {}
                Err(error) => result = Err(error),
            }
        }
        self.forget(scene)?;
        result
    }

    /// Says to the program which interfaces' packets have no Ethernet header.
    fn tell_ethernet(&mut self, scene: &Scene) -> Result<(), Error> {
        let Entry(before) = self.settings.get(&0, 0).map_err(failed(maps::SETTINGS))?;
        let no_ethernet = scene.no_ethernet();
        if no_ethernet == before.no_ethernet {
            return Ok(());
        }
        self.set(Settings {
            no_ethernet,
            ..before
        })
    }

    fn set(&mut self, settings: Settings) -> Result<(), Error> {
        let written = self.settings.set(0, Entry(settings), 0);
        written.map_err(failed(maps::SETTINGS))
    }

    fn see_to(&mut self, index: u32, name: &str, interface: &Interface) -> Result<(), Error> {
        if self.known.get(&index) != Some(interface) {
            // Before the program meets a packet.
            self.interfaces
                .insert(index, Entry(*interface), 0)
                .map_err(failed(maps::INTERFACES))?;
        }
        if !self.known.contains_key(&index) || !self.attachments.is_at(index)? {
            self.attachments.attach(index, name)?;
        }
        self.known.insert(index, *interface);
        Ok(())
    }

    /// Interfaces that are gone, or became a port of another, also since an earlier daemon.
    fn forget(&mut self, scene: &Scene) -> Result<(), Error> {
        let there = &scene.interfaces;
        self.attachments.keep(|index| there.contains_key(&index))?;
        let failed = || failed(maps::INTERFACES);
        let found: Result<Vec<u32>, _> = self.interfaces.keys().collect();
        for index in found.map_err(failed())? {
            if !there.contains_key(&index) {
                gone(self.interfaces.remove(&index)).map_err(failed())?;
            }
        }
        self.known.retain(|index, _| there.contains_key(index));
        Ok(())
    }
}

/// Nobody else writes these maps meanwhile.
fn entries(map: &Networks) -> Result<BTreeMap<PodNetwork, u32>, aya::maps::MapError> {
    let entries = map.iter().map(|entry| {
        let (key, value) = entry?;
        let network = PodNetwork {
            length: key.prefix_len(),
            address: key.data(),
        };
        Ok((network, value))
    });
    entries.collect()
}

fn set(
    map: &mut Networks,
    key: &PodNetwork,
    wanted: Option<u32>,
) -> Result<(), aya::maps::MapError> {
    let key = Key::new(key.length, key.address);
    match wanted {
        Some(value) => map.insert(&key, value, 0),
        None => gone(map.remove(&key)),
    }
}

/// Takes all away.
pub(super) fn clear(map: &mut Networks) -> Result<(), aya::maps::MapError> {
    let keys: Vec<PodNetwork> = entries(map)?.into_keys().collect();
    keys.iter().try_for_each(|key| set(map, key, None))
}

fn set_pods(map: &mut Networks, pods: &[IpNetwork]) -> Result<(), aya::maps::MapError> {
    let wanted: BTreeSet<PodNetwork> = pods.iter().map(|pods| network(*pods)).collect();
    let found: BTreeSet<PodNetwork> = entries(map)?.into_keys().collect();
    for key in wanted.difference(&found) {
        set(map, key, Some(1))?;
    }
    for key in found.difference(&wanted) {
        set(map, key, None)?;
    }
    Ok(())
}
