//! Ctrl-C while a lab is being made or shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netns_lab::{Folder, teardown};
use tokio::signal::unix::{SignalKind, signal};

/// Exit status after a signal, as a shell shows it for SIGINT.
const INTERRUPTED: i32 = 130;

/// Ends the watch for signals when dropped. If a signal came before, the drop never returns:
/// the lab is being taken down, and then the process ends.
#[derive(Debug)]
pub(crate) struct Guard(Arc<Mutex<bool>>);

impl Drop for Guard {
    fn drop(&mut self) {
        *armed(&self.0) = false;
    }
}

/// From now on, SIGINT and SIGTERM take the lab down and end this process. A lab that exists
/// already is somebody else's and stays.
pub(crate) fn take_down_on_interrupt(folder: Folder) -> anyhow::Result<Guard> {
    let lock = Arc::new(Mutex::new(!folder.root().exists()));
    let guard = Guard(lock.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _entered = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ]
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            let [interrupt, terminate] = &mut signals;
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            // Held until the process ends, so that nobody says anything else meanwhile.
            let armed = armed(&lock);
            if *armed && folder.root().exists() {
                eprintln!("netns-lab: interrupted, taking the lab down");
                if let Err(error) = teardown::take_down(&folder) {
                    eprintln!("netns-lab: {error:#}");
                }
            }
            std::process::exit(INTERRUPTED);
        })?;
    Ok(guard)
}

fn armed(lock: &Mutex<bool>) -> MutexGuard<'_, bool> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
