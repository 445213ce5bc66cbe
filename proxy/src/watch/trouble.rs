//! One log line when the API server stops answering as it should, one when it does again.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, iter};

use kube::runtime::watcher;

/// What is wrong, by kind. Shared by the watches.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<BTreeMap<&'static str, Wrong>>>);

struct Wrong {
    reason: String,
    /// It was the server's answer: there is nothing wrong with the way there.
    answered: bool,
}

impl Trouble {
    /// The watch of `kind` failed. Expired resource versions are no trouble: it lists again; nor
    /// is silence, of which it can't be told whether there was nothing to say: it watches again
    /// from where it was, and a server that isn't there any more fails that.
    pub(super) fn met(&self, kind: &'static str, error: &watcher::Error) {
        if is_silence(error) {
            tracing::debug!(kind, "nothing was heard for long; watching anew");
            return;
        }
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            tracing::debug!(kind, "the watch's resource version expired; listing again");
            return;
        }
        let reason = innermost(error);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = !known.values().any(|other| other.reason == reason);
        let wrong = Wrong {
            reason: reason.clone(),
            answered: is_answer(error),
        };
        known.insert(kind, wrong);
        drop(known);
        if news {
            tracing::warn!(
                kind,
                reason,
                "the API server cannot be watched; the rules stay as they are, trying again"
            );
        }
    }

    /// The watch of `kind` works, and so the server can be reached: what was wrong on the way there
    /// is over for all kinds. (Those of which there is no news would never say so themselves.)
    pub(super) fn over(&self, kind: &'static str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.remove(kind).is_none() {
            return;
        }
        known.retain(|_, wrong| wrong.answered);
        if known.is_empty() {
            drop(known);
            tracing::info!("the API server can be watched again");
        }
    }
}

/// Whether the server answered, if only with what can't be used.
fn is_answer(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => matches!(cause, kube::Error::Api(_)),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => true,
    }
}

/// Whether a watch that was answered heard nothing for [`super::Patience::silence`].
fn is_silence(error: &watcher::Error) -> bool {
    let watcher::Error::WatchFailed(kube::Error::ReadEvents(error)) = error else {
        return false;
    };
    let mut causes = iter::successors(Some(error as &dyn Error), |cause| inside(*cause));
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
    })
}

/// The reason at the bottom: the same whichever request it was.
fn innermost(error: &watcher::Error) -> String {
    let mut reason: &dyn Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

/// What an error wraps. (The source of an [`io::Error`] is its content's source, not its content.)
fn inside<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let content = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    content
        .map(|content| content as _)
        .or_else(|| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_from_what_ends_a_watch() {
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
        let read = |error| watcher::Error::WatchFailed(kube::Error::ReadEvents(error));
        assert!(is_silence(&read(timed_out())));
        // As hyper and the client wrap it.
        let wrapped = io::Error::other(io::Error::other(timed_out()));
        assert!(is_silence(&read(wrapped)));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(!is_silence(&read(io::Error::other(reset))));
        let unanswered = kube::Error::ReadEvents(timed_out());
        assert!(!is_silence(&watcher::Error::WatchStartFailed(unanswered)));
    }

    #[test]
    fn whoever_gets_through_says_so_for_those_who_have_no_news() {
        let known = |trouble: &Trouble| {
            let known = trouble.0.lock().unwrap();
            known.keys().copied().collect::<Vec<_>>()
        };
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let lost = || watcher::Error::WatchFailed(kube::Error::ReadEvents(reset()));
        let trouble = Trouble::default();
        trouble.met("Service", &lost());
        trouble.met("Node", &lost());
        trouble.met("ServiceCIDR", &watcher::Error::NoResourceVersion);
        trouble.over("EndpointSlice");
        assert_eq!(known(&trouble), ["Node", "Service", "ServiceCIDR"]);
        trouble.over("Service");
        assert_eq!(known(&trouble), ["ServiceCIDR"], "what it answered stands");
        trouble.over("ServiceCIDR");
        assert_eq!(known(&trouble), [""; 0]);
    }
}
