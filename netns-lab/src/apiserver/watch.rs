//! Following a resource's changes inside the process.

use tokio::sync::watch;

use super::{Object, Refusal, Resource, Store};

/// How many changes one batch carries at most: bounds how long the store's lock is held.
const BATCH: usize = 1024;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the event carries its last state.
    Deleted,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The object afterwards (for [`Change::Deleted`] its last state, with a new version).
    pub object: Object,
    /// The object before; absent for [`Change::Added`].
    pub before: Option<Object>,
}

/// Follows one resource from a version on.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    resource: Resource,
    position: u64,
    changed: watch::Receiver<u64>,
}

impl Watch {
    pub(crate) fn new(
        store: Store,
        resource: Resource,
        position: u64,
        changed: watch::Receiver<u64>,
    ) -> Self {
        Self {
            store,
            resource,
            position,
            changed,
        }
    }

    /// Every change up to this version has been handed out.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The changes since the last call, without waiting; at most about a thousand.
    ///
    /// # Errors
    /// 410 when this watch fell so far behind that changes it has not seen are forgotten.
    pub fn pending(&mut self) -> Result<Vec<Event>, Refusal> {
        self.changed.mark_unchanged();
        let (events, position) = self.store.since(self.resource, self.position, BATCH)?;
        self.position = position;
        Ok(events)
    }

    /// Waits for changes. Safe to cancel: what was not returned comes with the next call.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub async fn next(&mut self) -> Result<Vec<Event>, Refusal> {
        loop {
            let events = self.pending()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.changed.changed().await.is_err() {
                // The sender lives in the store this watch itself holds.
                std::future::pending::<()>().await;
            }
        }
    }
}
