//! A thread of one's own for async work, whose end can be waited for from anywhere.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{EnterGuard, Runtime};

/// How long [`Background`] waits for its work to end once it is dropped.
const PATIENCE: Duration = Duration::from_secs(1);

/// Held by work under way; when the last is dropped, the work has ended.
pub(crate) type Alive = mpsc::Sender<Infallible>;

/// A runtime with one thread. Whoever drops it has told the work to end; the drop then blocks
/// until it has, or for a second. That is allowed inside another async runtime, too.
#[derive(Debug)]
pub(crate) struct Background {
    runtime: Option<Runtime>,
    alive: Option<Alive>,
    ended: Mutex<mpsc::Receiver<Infallible>>,
}

impl Background {
    pub(crate) fn start(name: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .with_context(|| format!("starting the thread of the {name}"))?;
        let (alive, ended) = mpsc::channel();
        Ok(Self {
            runtime: Some(runtime),
            alive: Some(alive),
            ended: Mutex::new(ended),
        })
    }

    /// Sockets registered and tasks spawned while the guard lives belong to this thread.
    pub(crate) fn enter(&self) -> Option<(EnterGuard<'_>, Alive)> {
        Some((self.runtime.as_ref()?.enter(), self.alive.clone()?))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.alive = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: this returns when the last sender is gone, or in time.
        let _ = ended.recv_timeout(PATIENCE);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
