//! One log line when the API server stops answering as it should, one when it does again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::runtime::watcher;

/// What is wrong, by kind. Shared by the watches.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Trouble {
    /// The watch of `kind` failed. Expired resource versions are no trouble: it lists again.
    pub(super) fn met(&self, kind: &'static str, error: &watcher::Error) {
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            tracing::debug!(kind, "the watch's resource version expired; listing again");
            return;
        }
        let reason = innermost(error);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = !known.values().any(|other| *other == reason);
        known.insert(kind, reason.clone());
        drop(known);
        if news {
            tracing::warn!(
                kind,
                reason,
                "the API server cannot be watched; the rules stay as they are, trying again"
            );
        }
    }

    /// The watch of `kind` works.
    pub(super) fn over(&self, kind: &'static str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.remove(kind).is_some() && known.is_empty() {
            drop(known);
            tracing::info!("the API server can be watched again");
        }
    }
}

/// The reason at the bottom: the same whichever request it was.
fn innermost(error: &watcher::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
