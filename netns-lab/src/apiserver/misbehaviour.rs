//! Faults on demand, for tests of the server's clients.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
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
}

/// What a server does wrong on purpose; nothing at first. See also
/// [`Store::compact`](super::Store::compact), which makes every earlier version too old.
#[derive(Debug)]
pub struct Misbehaviour {
    orders: watch::Sender<Orders>,
    list_delay: AtomicU64,
    refusal: AtomicU16,
}

impl Misbehaviour {
    pub(crate) fn none() -> Self {
        Self {
            orders: watch::Sender::new(Orders::default()),
            list_delay: AtomicU64::new(0),
            refusal: AtomicU16::new(0),
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

    /// Every request is refused with this HTTP code (400 to 599), until `None` is given.
    pub fn refuse_with(&self, code: Option<u16>) {
        self.refusal.store(code.unwrap_or(0), Ordering::Relaxed);
    }

    /// Cuts every connection there is, in the middle of whatever it does.
    pub fn drop_connections(&self) {
        self.orders.send_modify(|orders| orders.cut += 1);
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

    pub(crate) fn refusal(&self) -> Option<u16> {
        Some(self.refusal.load(Ordering::Relaxed)).filter(|code| (400..600).contains(code))
    }
}
