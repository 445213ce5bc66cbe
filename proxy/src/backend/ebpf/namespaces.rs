//! Network namespaces by their cookies, which is all that the programs tell of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nodekit::netns::NetNs;

/// Where namespaces have names (ip-netns(8)); container runtimes keep pods' there.
const NAMED: &str = "/run/netns";
const PROCESSES: &str = "/proc";

/// Where namespaces were found. Not the namespaces themselves: one that is held open never ends.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    places: BTreeMap<u64, PathBuf>,
}

impl Namespaces {
    /// Runs `act` in each namespace of `wanted` that can be found, with its cookie, on the calling
    /// thread, which visits them. The processes are gone through only for those that have neither
    /// been found before nor have a name; and their threads only for those that no process is in.
    pub(super) fn visit(&mut self, wanted: BTreeSet<u64>, act: &mut dyn FnMut(u64)) {
        let mut search = Search { wanted, act };
        if let Ok(own) = NetNs::cookie() {
            search.meet(own);
        }
        let wanted = search.wanted.clone();
        for cookie in wanted {
            if let Some(place) = self.places.get(&cookie)
                && search.look_at(place) != Some(cookie)
            {
                self.places.remove(&cookie);
            }
        }
        // Namespaces that were looked at: one has many processes.
        let mut seen = BTreeSet::new();
        // While threads end, a listing of them may lack others (`proc_task_readdir`): so twice.
        for list in [names, processes, threads, threads] {
            if search.wanted.is_empty() {
                return;
            }
            for place in list() {
                let Ok(meta) = fs::metadata(&place) else {
                    continue;
                };
                if seen.contains(&(meta.dev(), meta.ino())) {
                    continue;
                }
                // A thread may be elsewhere by now: what counts is where we get to.
                let Ok(netns) = NetNs::open(&place) else {
                    continue;
                };
                let identity = netns.identity();
                if !seen.insert((identity.device, identity.inode)) {
                    continue;
                }
                if let Some(cookie) = search.look_into(&netns) {
                    self.places.insert(cookie, place);
                }
            }
        }
    }

    /// Forgets where those were that nobody asks for.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(u64) -> bool) {
        self.places.retain(|cookie, _| wanted(*cookie));
    }
}

struct Search<'a> {
    wanted: BTreeSet<u64>,
    act: &'a mut dyn FnMut(u64),
}

impl Search<'_> {
    /// In a namespace of this cookie.
    fn meet(&mut self, cookie: u64) {
        if self.wanted.remove(&cookie) {
            (self.act)(cookie);
        }
    }

    /// Goes there; whose cookie that was. What is gone, or was none, is no error.
    fn look_at(&mut self, place: &Path) -> Option<u64> {
        self.look_into(&NetNs::open(place).ok()?)
    }

    fn look_into(&mut self, netns: &NetNs) -> Option<u64> {
        let visit = || {
            let cookie = NetNs::cookie().ok()?;
            self.meet(cookie);
            Some(cookie)
        };
        netns.visit(visit).ok().flatten()
    }
}

fn names() -> Vec<PathBuf> {
    entries(NAMED.as_ref())
}

fn processes() -> Vec<PathBuf> {
    let all = numbered(PROCESSES.as_ref());
    all.map(|process| process.join("ns/net")).collect()
}

fn threads() -> Vec<PathBuf> {
    let all = numbered(PROCESSES.as_ref());
    all.flat_map(|process| numbered(&process.join("task")))
        .map(|thread| thread.join("ns/net"))
        .collect()
}

fn numbered(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(folder).into_iter().filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}
