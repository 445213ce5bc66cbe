//! The programs on the sockets, and their maps.

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramError};
use causeway_ebpf_abi::{
    Backend, Frontend, FrontendKey, MemberKey, Plain, Row, RowKey, SlotKey, maps,
};
use lb_plan::bpf::{Applied, Found, Operation};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nodekit::cgroup;
use nodekit::netns::NetNs;

use super::connected::Connections;
use super::counts::Counts;
use super::entries::Entry;
use super::packets::Packets;
use super::rules::Rules;
use super::services::Services;
use super::sources::Sources;
use super::{Error, Options, load, pins, sizes};

/// The object that `build.rs` made; empty where it could not.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/causeway-ebpf"));

/// Every program. Those that translate come last: a socket that is translated must never meet
/// one that can't tell it the way back, or be forgotten when it closes.
const PROGRAMS: [&str; 11] = [
    "sock_release",
    "bind4",
    "bind6",
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
    "connect4",
    "connect6",
];

type Map<K, V> = HashMap<MapData, Entry<K>, V>;

pub(super) struct Sockets {
    ebpf: Ebpf,
    frontends: Map<FrontendKey, Entry<Frontend>>,
    backends: Map<SlotKey, Entry<Backend>>,
    members: Map<MemberKey, u32>,
    rows: Map<RowKey, Entry<Row>>,
    sources: Sources,
    /// The sockets that were sent to a backend.
    pub(super) connections: Connections,
    /// What the programs heed.
    pub(super) rules: Rules,
    counts: Counts,
    cgroup: File,
    pins: PathBuf,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Sockets {
    /// Loads everything, with the maps that are pinned already.
    pub(super) fn open(
        object: &[u8],
        options: &Options,
    ) -> Result<(Self, Packets, Services), Error> {
        if object.is_empty() {
            return Err(Error::NotBuilt);
        }
        let cgroup = cgroup(options)?;
        pins::prepare(&options.pins)?;
        let outgrown = sizes::make_way(options)?;
        let (mut ebpf, mut refusals) = load::load(object, options)?;
        let mut node: Array<_, u64> = take(&mut ebpf, maps::NODE)?;
        node.set(0, NetNs::cookie()?, 0)
            .map_err(failed(maps::NODE))?;
        for name in PROGRAMS {
            let usable = refusals.of(name);
            usable.map_err(|source| Error::Program { name, source })?;
        }
        let counters: PerCpuArray<_, u64> = take(&mut ebpf, maps::COUNTERS)?;
        let counts = Counts::new(counters, options)?;
        let packets = Packets::load(&mut ebpf, refusals, options, counts.clone(), outgrown)?;
        let services = Services::adopt(&mut ebpf, &options.pins)?;
        let (udp, tcp) = (maps::CONNECTED_UDP, maps::CONNECTED_TCP);
        let (udp, tcp) = (take(&mut ebpf, udp)?, take(&mut ebpf, tcp)?);
        let sockets = Self {
            connections: Connections::new(udp, tcp, counts.clone()),
            rules: Rules::write(take(&mut ebpf, maps::SOCKET_RULES)?, options)?,
            counts,
            frontends: take(&mut ebpf, maps::FRONTENDS)?,
            backends: take(&mut ebpf, maps::BACKENDS)?,
            members: take(&mut ebpf, maps::MEMBERS)?,
            rows: take(&mut ebpf, maps::ROWS)?,
            sources: Sources::take(&mut ebpf)?,
            ebpf,
            cgroup,
            pins: options.pins.clone(),
        };
        Ok((sockets, packets, services))
    }

    /// What is in the maps.
    pub(super) fn adopt(&self) -> Result<Applied, Error> {
        let frontends = all(&self.frontends).map_err(failed(maps::FRONTENDS))?;
        let backends = all(&self.backends).map_err(failed(maps::BACKENDS))?;
        let members = all(&self.members).map_err(failed(maps::MEMBERS))?;
        let rows = self.rows.keys().map(|key| key.map(|Entry(row)| row));
        let rows: Result<_, _> = rows.collect();
        Ok(Applied::adopt(Found {
            frontends: bare(frontends).collect(),
            backends: bare(backends).collect(),
            members: members.into_iter().map(|(key, _)| key).collect(),
            rows: rows.map_err(failed(maps::ROWS))?,
            sources: self.sources.all()?,
        }))
    }

    /// What the programs count.
    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Changes one entry.
    pub(super) fn apply(&mut self, operation: &Operation) -> Result<(), Error> {
        match operation {
            Operation::SetBackend(key, backend) => self
                .backends
                .insert(Entry(*key), Entry(*backend), 0)
                .map_err(failed(maps::BACKENDS)),
            Operation::DeleteBackend(key) => {
                gone(self.backends.remove(&Entry(*key))).map_err(failed(maps::BACKENDS))
            }
            Operation::AddMember(key) => self
                .members
                .insert(Entry(*key), 1, 0)
                .map_err(failed(maps::MEMBERS)),
            Operation::DeleteMember(key) => {
                gone(self.members.remove(&Entry(*key))).map_err(failed(maps::MEMBERS))
            }
            Operation::SetRow(key, row) => self
                .rows
                .insert(Entry(*key), Entry(**row), 0)
                .map_err(failed(maps::ROWS)),
            Operation::DeleteRow(key) => {
                gone(self.rows.remove(&Entry(*key))).map_err(failed(maps::ROWS))
            }
            Operation::AddSource(range) => self.sources.add(range),
            Operation::DeleteSource(range) => self.sources.remove(range),
            Operation::SetFrontend(key, frontend) => self
                .frontends
                .insert(Entry(*key), Entry(*frontend), 0)
                .map_err(failed(maps::FRONTENDS)),
            Operation::DeleteFrontend(key) => {
                gone(self.frontends.remove(&Entry(*key))).map_err(failed(maps::FRONTENDS))
            }
        }
    }

    /// Puts the programs on the cgroup, beside those of an earlier daemon, whose pins they then
    /// take: there is no moment without one. Where both see a call, the second one finds an
    /// endpoint's address, which is no frontend.
    pub(super) fn attach(&mut self) -> Result<(), Error> {
        for name in PROGRAMS {
            // A bpffs takes no dot in a name.
            let fresh = pins::link(&self.pins, &format!("{name}-new"));
            // Left by a daemon that was killed between the two.
            drop(fs::remove_file(&fresh));
            let pinned = attach(&mut self.ebpf, name, &self.cgroup)
                .map_err(|source| Error::Program { name, source })?
                .pin(&fresh);
            pinned.map_err(|error| Error::Program {
                name,
                source: ProgramError::IOError(std::io::Error::other(error)),
            })?;
            let place = pins::link(&self.pins, name);
            fs::rename(&fresh, &place).map_err(pins::failed("pin", &place))?;
        }
        pins::forget_other_layouts(&self.pins).map_err(pins::failed("--ebpf-pin-dir", &self.pins))
    }

    /// Whether the attachments are still there.
    pub(super) fn is_intact(&self) -> bool {
        PROGRAMS
            .iter()
            .all(|name| pins::link(&self.pins, name).exists())
    }
}

fn attach(ebpf: &mut Ebpf, name: &str, cgroup: &File) -> Result<FdLink, ProgramError> {
    // An attachment by link always stands beside others; the kernel takes no flag for it.
    let mode = CgroupAttachMode::Single;
    let link = match ebpf.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        Some(Program::CgroupSock(program)) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        _ => return Err(ProgramError::NotLoaded),
    };
    link.map_err(|error| ProgramError::IOError(std::io::Error::other(error)))
}

/// The cgroup whose sockets are translated. To attach programs it need not be writable.
pub(super) fn cgroup(options: &Options) -> Result<File, Error> {
    let root = match &options.cgroup_root {
        Some(root) => root.clone(),
        None => {
            let found = cgroup::root().map_err(pins::failed("file", cgroup::MOUNTS.as_ref()))?;
            found.ok_or(Error::NoCgroup)?
        }
    };
    let cgroup = File::open(&root).map_err(pins::failed("--ebpf-cgroup-root", &root))?;
    match fstatfs(&cgroup) {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => Ok(cgroup),
        _ => Err(Error::NotCgroup2(root)),
    }
}

pub(super) fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Map {
        name,
        source: MapError::KeyNotFound,
    })?;
    M::try_from(map).map_err(failed(name))
}

pub(super) fn failed(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { name, source }
}

/// A deletion of what was not there is done.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

/// Whether an entry is not there.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn bare<K, V: Plain>(entries: Vec<(K, Entry<V>)>) -> impl Iterator<Item = (K, V)> {
    entries.into_iter().map(|(key, Entry(value))| (key, value))
}

/// Every entry. Nobody else writes these maps meanwhile.
fn all<K: Plain, V: aya::Pod>(map: &Map<K, V>) -> Result<Vec<(K, V)>, MapError> {
    map.iter()
        .map(|entry| entry.map(|(key, value)| (key.0, value)))
        .collect()
}
