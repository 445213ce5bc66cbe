//! Network namespaces by their cookies, which is all that the programs tell of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nodekit::netns::NetNs;

/// Where namespaces have names (ip-netns(8)); container runtimes keep pods' there.
const NAMED: &str = "/run/netns";
const PROCESSES: &str = "/proc";
/// So often the threads of a process are listed while some are lacking: it may always have some that
/// end meanwhile, which nobody is to wait for.
const LISTINGS: usize = 8;

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
        for list in [names, processes, threads] {
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
    let tasks = all.map(|process| process.join("task"));
    tasks
        .flat_map(|tasks| whole(|| (threads_in(&tasks), numbered(&tasks).collect())))
        .map(|thread| thread.join("ns/net"))
        .collect()
}

/// How many threads a process has: its folder has two links besides one for each
/// (`proc_task_getattr`).
fn threads_in(tasks: &Path) -> usize {
    let links = fs::metadata(tasks).map_or(0, |folder| folder.nlink());
    usize::try_from(links).map_or(0, |links| links.saturating_sub(2))
}

/// All that `list` gives, which comes with how many there were just before: a listing of threads ends
/// early where it meets one that ends (`proc_task_readdir`), and is then made again.
fn whole<T: Ord>(mut list: impl FnMut() -> (usize, Vec<T>)) -> BTreeSet<T> {
    let mut found = BTreeSet::new();
    for _ in 0..LISTINGS {
        let (there, listed) = list();
        let complete = listed.len() >= there;
        found.extend(listed);
        if complete {
            break;
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_listing_that_ends_early_is_made_again() {
        let listings = [(3, vec![1]), (3, vec![1, 2]), (2, vec![1, 3]), (9, vec![9])];
        let mut listings = listings.into_iter();
        let found = whole(|| listings.next().unwrap());
        assert_eq!(found, [1, 2, 3].into());
        assert_eq!(listings.len(), 1);
    }

    #[test]
    fn a_listing_that_always_lacks_some_is_not_made_for_ever() {
        let mut made = 0..;
        let found = whole(|| (2, vec![made.next().unwrap()]));
        assert_eq!(found.len(), LISTINGS);
    }

    /// Of a process of its own: the tests' has threads that come and go.
    #[test]
    fn a_process_says_how_many_threads_it_has() {
        let process = std::process::Command::new("sleep").arg("60").spawn();
        let mut process = process.unwrap();
        let tasks = PathBuf::from(format!("/proc/{}/task", process.id()));
        assert_eq!((threads_in(&tasks), numbered(&tasks).count()), (1, 1));
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(threads_in(&tasks), 0);
        let (sender, receiver) = channel::<()>();
        let waiting = thread::spawn(move || receiver.recv());
        assert!(threads_in(Path::new("/proc/self/task")) >= 2);
        drop(sender);
        assert!(waiting.join().unwrap().is_err());
    }
}
