//! The thread that follows interfaces, and takes away connections and counts that are over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nodekit::route::{Change, Changes, Waker};

use super::{Hooks, lock};
use crate::backend::ebpf::Error;
use crate::backend::ebpf::sweep::Tracks;
use crate::backend::ebpf::traffic::TrafficMaps;

/// How often counts of who is gone are looked for.
const FORGET: Duration = Duration::from_secs(60);

/// The thread that follows interfaces. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// In the calling thread's network namespace.
    pub(super) fn start(
        changes: Changes,
        hooks: Arc<Mutex<Hooks>>,
        mut tracks: Tracks,
        mut traffic: TrafficMaps,
        sweep: Duration,
    ) -> Result<Self, Error> {
        let waker = changes.waker().map_err(Error::Interfaces)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let keep = move || {
            let mut swept = Instant::now();
            let mut forgotten = swept;
            let mut changed = Change::Nothing;
            while !ends.load(Ordering::Relaxed) {
                lock(&hooks).heard(changed);
                if swept.elapsed() >= sweep {
                    match tracks.sweep() {
                        Ok(0) => rest(&hooks, sweep),
                        Ok(_) => {}
                        Err(error) => {
                            tracing::warn!(%error, "connections that are over stay");
                        }
                    }
                    swept = Instant::now();
                    lock(&hooks).follow_peers();
                }
                if forgotten.elapsed() >= FORGET {
                    if let Err(error) = traffic.sweep() {
                        tracing::warn!(%error, "counts of endpoints that left stay");
                    }
                    forgotten = Instant::now();
                }
                changed = changes.wait(sweep).unwrap_or_else(|error| {
                    tracing::warn!(%error, "new interfaces are found late");
                    std::thread::sleep(sweep);
                    Change::Links
                });
            }
        };
        let thread = std::thread::Builder::new().name("interfaces".to_owned());
        let thread = thread.spawn(keep).map_err(Error::Thread)?;
        Ok(Self {
            stop,
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "a thread ends late");
            return;
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that follows interfaces panicked");
        }
    }
}

/// No connection is left.
fn rest(hooks: &Mutex<Hooks>, patience: Duration) {
    if let Err(error) = lock(hooks).rest(patience) {
        tracing::warn!(%error, "interfaces keep a program that nobody needs");
    }
}
