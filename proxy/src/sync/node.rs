//! Whether the own Node is known.

use std::time::{Duration, Instant};

/// How long the first pass waits for the Node after the start. It comes with the other lists
/// unless something is wrong, and without it nothing is local and node ports are guessed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known about the own Node.
#[derive(Clone, Copy, Debug)]
pub(super) enum OwnNode {
    /// Nothing heard; waited for until then.
    Awaited(Instant),
    /// It is there.
    Seen,
    /// The API server says that there is none.
    Missing,
}

impl OwnNode {
    pub(super) fn new(now: Instant) -> Self {
        Self::Awaited(now + PATIENCE)
    }

    pub(super) fn seen(&mut self) {
        *self = Self::Seen;
    }

    pub(super) fn missing(&mut self) {
        *self = Self::Missing;
    }

    /// Until when the first pass waits; in the past where there is nothing to wait for.
    pub(super) fn awaited_until(self) -> Option<Instant> {
        match self {
            Self::Awaited(until) => Some(until),
            Self::Seen | Self::Missing => None,
        }
    }

    pub(super) fn warn_if_unknown(self) {
        if !matches!(self, Self::Seen) {
            tracing::warn!(
                "the own Node is not known to the API server (is --hostname-override right?): no \
                 endpoint counts as local, and node ports are served on the address of the default \
                 route"
            );
        }
    }
}
