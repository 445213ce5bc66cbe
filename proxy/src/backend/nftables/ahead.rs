//! A table that is read while the first lists are still on their way.

use std::thread::JoinHandle;

use lb_model::Family;
use nodekit::nft::NftSocket;

use super::read::{self, Read};

/// The table of one family, being read by a thread of its own. Dropped, it reads to its end for
/// nobody.
#[derive(Debug)]
pub(super) struct Ahead(Option<JoinHandle<Option<Read>>>);

impl Ahead {
    /// Begins to read, in the calling thread's network namespace.
    pub(super) fn start(family: Family) -> Self {
        let read = move || {
            let mut socket = NftSocket::open().ok()?;
            read::drawn(&mut socket, family).ok()?
        };
        let thread = std::thread::Builder::new().name("read".to_owned());
        // Without it the first pass reads, and says what is wrong.
        Self(thread.spawn(read).ok())
    }

    /// Nothing is read before it is needed.
    #[cfg(feature = "faulty")]
    pub(super) const fn never() -> Self {
        Self(None)
    }

    /// What was read, if it could be.
    pub(super) fn wait(self) -> Option<Read> {
        self.0?.join().ok()?
    }
}
