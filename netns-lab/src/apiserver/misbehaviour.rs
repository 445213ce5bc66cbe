//! Faults on demand, for tests of the server's clients.

use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// What every connection and every watch is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// End the watches, answer what is under way, close.
    pub(crate) stop: bool,
    /// Send nothing on watches.
    pub(crate) hang_watches: bool,
    /// Connections accepted before this number grew are cut.
    pub(crate) cut: u64,
    /// Connections accepted before this number grew fall silent.
    pub(crate) mute: u64,
}

/// What a server does wrong on purpose; nothing at first. See also
/// [`Store::compact`](super::Store::compact), which makes every earlier version too old.
#[derive(Debug)]
pub struct Misbehaviour {
    orders: watch::Sender<Orders>,
    list_delay: AtomicU64,
    list_break: AtomicUsize,
    refusal: AtomicU16,
    token: Mutex<Option<String>>,
}

impl Misbehaviour {
    pub(crate) fn none() -> Self {
        Self {
            orders: watch::Sender::new(Orders::default()),
            list_delay: AtomicU64::new(0),
            list_break: AtomicUsize::new(usize::MAX),
            refusal: AtomicU16::new(0),
            token: Mutex::new(None),
        }
    }

    /// Watches, old and new ones, stay connected but say nothing, until this is called with
    /// `false`; then they go on where they were.
    pub fn hang_watches(&self, hang: bool) {
        self.orders.send_modify(|orders| orders.hang_watches = hang);
    }

    /// Every list, and the initial state of every watch, is answered this much later; rounded
    /// down to milliseconds. Zero ends it.
    pub fn delay_lists(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.list_delay.store(delay, Ordering::Relaxed);
    }

    /// The initial state of every watch breaks off after so many objects, until `None` is given.
    pub fn break_off_lists(&self, after: Option<usize>) {
        let after = after.unwrap_or(usize::MAX);
        self.list_break.store(after, Ordering::Relaxed);
    }

    /// Requests without this bearer token are refused with code 401, until `None` is given.
    pub fn accept_only(&self, token: Option<&str>) {
        let mut accepted = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        *accepted = token.map(ToOwned::to_owned);
    }

    /// Every request is refused with this HTTP code (400 to 599), until `None` is given.
    pub fn refuse_with(&self, code: Option<u16>) {
        self.refusal.store(code.unwrap_or(0), Ordering::Relaxed);
    }

    /// Cuts every connection there is, in the middle of whatever it does.
    pub fn drop_connections(&self) {
        self.orders.send_modify(|orders| orders.cut += 1);
    }

    /// Every connection there is falls silent for good: it stays open, and nothing is read from it
    /// or written to it any more. New ones work.
    pub fn mute_connections(&self) {
        self.orders.send_modify(|orders| orders.mute += 1);
    }

    pub(crate) fn stop(&self) {
        self.orders.send_modify(|orders| orders.stop = true);
    }

    pub(crate) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    pub(crate) fn list_delay(&self) -> Duration {
        Duration::from_millis(self.list_delay.load(Ordering::Relaxed))
    }

    pub(crate) fn list_break(&self) -> usize {
        self.list_break.load(Ordering::Relaxed)
    }

    /// Whether a request with this `Authorization` header is from somebody known.
    pub(crate) fn knows(&self, authorization: Option<&str>) -> bool {
        let accepted = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let token = authorization.and_then(|header| header.strip_prefix("Bearer "));
        accepted
            .as_deref()
            .is_none_or(|wanted| token == Some(wanted))
    }

    pub(crate) fn refusal(&self) -> Option<u16> {
        Some(self.refusal.load(Ordering::Relaxed)).filter(|code| (400..600).contains(code))
    }
}
