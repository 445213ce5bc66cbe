//! Ctrl-C: what was made is taken down, as at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Whether SIGINT or SIGTERM came.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, neither ends the process. To be called before there are other threads.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block()?;
        let came = Arc::new(AtomicBool::new(false));
        let tell = came.clone();
        thread::Builder::new()
            .name("interrupt".into())
            .spawn(move || {
                if signals.wait().is_ok() {
                    tell.store(true, Ordering::Relaxed);
                }
            })?;
        Ok(Self(came))
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// A signal came.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.came(), "interrupted");
        Ok(())
    }
}
