//! A thread that lives in a namespace and takes work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use super::{Error, NetNs, io_errno};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that entered a namespace once and runs what it is given, in order. Cheaper than
/// [`NetNs::run`] for many small pieces of work, and the right parent for child processes
/// that shall die with their parent: `PR_SET_PDEATHSIG` watches the thread, not the process.
///
/// Dropping it waits for the work at hand and ends the thread.
#[derive(Debug)]
pub struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread and enters the namespace.
    ///
    /// # Errors
    /// [`Error::Call`] when the thread can't be started or the namespace can't be entered.
    pub fn start(netns: &NetNs) -> Result<Self, Error> {
        let netns = netns.try_clone()?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("netns-worker".to_owned())
            .spawn(move || {
                let result = netns.enter_for_good();
                let failed = result.is_err();
                // The starter waits for this; it can only be gone if it panicked.
                let _ = entered.send(result);
                if failed {
                    return;
                }
                for job in queue {
                    job();
                }
            })
            .map_err(|error| Error::Call {
                step: "start a thread",
                errno: io_errno(&error),
            })?;
        let worker = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        ready.recv().map_err(|_| Error::WorkerEnded)??;
        Ok(worker)
    }

    /// Runs `work` inside and waits for its result.
    ///
    /// # Errors
    /// [`Error::Panicked`] when it panics; the worker goes on. [`Error::WorkerEnded`] when
    /// the thread is gone.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            // The caller waits; it can only be gone if its thread was ended.
            let _ = answer.send(outcome);
        });
        let jobs = self.jobs.as_ref().ok_or(Error::WorkerEnded)?;
        jobs.send(job).map_err(|_| Error::WorkerEnded)?;
        let outcome = result.recv().map_err(|_| Error::WorkerEnded)?;
        outcome.map_err(|payload| Error::panicked(payload.as_ref()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing the queue is what ends the thread.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
