//! The thread that looks whether somebody may want to see packets that pass by the stack, and has them take
//! it as soon as it hears that somebody may.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nodekit::netlink::Events;
use nodekit::{nft, route, xfrm};

use super::passed::Passed;
use super::{Told, Way, bits};
use crate::backend::ebpf::Error;
use crate::backend::ebpf::trouble::Trouble;

/// How often it is looked for whom nothing is told of, while packets go straight.
const UNTOLD: Duration = Duration::from_secs(1);
/// Somebody who changes rules all the time has it look so often at most …
const GATHER: Duration = Duration::from_millis(100);
/// … and no more than a tenth of the time.
const OF_WHAT_IT_TOOK: u32 = 9;

/// The thread. It ends when this is dropped, and packets take the stack then.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    handed: Mutex<Handed>,
    /// Wakes the thread.
    waker: EventFd,
}

struct Handed {
    ways: Vec<Way>,
    ends: bool,
}

impl Shared {
    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) -> Result<(), Error> {
        self.waker.write(1).map(drop).map_err(waiting)
    }
}

impl Watcher {
    /// In the calling thread's network namespace. Takes what the program is told.
    pub(super) fn start(
        told: &mut Option<Told>,
        ways: Vec<Way>,
        program: u32,
        period: Duration,
    ) -> Result<Self, Error> {
        // Before the first look.
        let ears = Ears::open()?;
        let passed = Passed::open(program)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let waker = EventFd::from_value_and_flags(0, flags).map_err(waiting)?;
        let shared = Arc::new(Shared {
            handed: Mutex::new(Handed { ways, ends: false }),
            waker,
        });
        let watch = Watch {
            shared: Arc::clone(&shared),
            ears,
            passed,
            told: told.take().ok_or(Error::Thread(Errno::EBUSY.into()))?,
            period,
            trouble: Trouble::default(),
            somebody: None,
        };
        let thread = std::thread::Builder::new().name("straight".to_owned());
        let thread = thread.spawn(|| watch.run()).map_err(Error::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// By which interfaces packets come from now on.
    pub(super) fn hand(&self, ways: Vec<Way>) -> Result<(), Error> {
        let mut handed = self.shared.handed();
        if handed.ways == ways {
            return Ok(());
        }
        handed.ways = ways;
        drop(handed);
        self.shared.wake()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.handed().ends = true;
        if let Err(error) = self.shared.wake() {
            tracing::warn!(%error, "a thread ends late");
            return;
        }
        let thread = self.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that has packets take the stack panicked");
        }
    }
}

/// What the thread has.
struct Watch {
    shared: Arc<Shared>,
    ears: Ears,
    passed: Passed,
    told: Told,
    /// [`crate::backend::ebpf::Options::sweep`].
    period: Duration,
    trouble: Trouble,
    /// Who was found at the last look.
    somebody: Option<&'static str>,
}

/// What ended a wait.
enum Wake {
    /// Something was handed over, or the time is over.
    Look,
    /// Somebody may want to see packets now.
    Told,
}

impl Watch {
    fn run(mut self) {
        while !self.shared.handed().ends {
            let began = Instant::now();
            let opened = self.look();
            let now = Instant::now();
            let rest = (now - began).saturating_mul(OF_WHAT_IT_TOOK);
            let next = now + rest.max(if opened { UNTOLD } else { self.period }.min(self.period));
            if let Wake::Told = self.wait(opened, next) {
                self.close();
                let gathered = now + rest.max(GATHER.min(self.period));
                self.wait(false, gathered);
            }
        }
        self.close();
    }

    /// Packets take the stack.
    fn close(&mut self) {
        if let Err(error) = self.told.tell(0) {
            tracing::error!(%error, "packets may go on passing by rules for a moment");
        }
    }

    /// Looks, and says so to the program. Gives whether any packet goes straight now.
    fn look(&mut self) -> bool {
        let ways = self.shared.handed().ways.clone();
        // What is told until then is seen with this look; but the look takes a moment.
        let heard = self.ears.hear();
        if !matches!(heard, Ok(false)) {
            self.close();
        }
        let found = heard.and_then(|_| self.find(&ways));
        let bits = *found.as_ref().unwrap_or(&0);
        let told = self.told.tell(bits);
        let lost = "who may want to see packets is not known, so they take the stack";
        let again = "it is known again who wants to see packets";
        self.trouble.note(found.and(told), lost, again);
        bits != 0
    }

    fn find(&mut self, ways: &[Way]) -> Result<u64, Error> {
        if ways.is_empty() {
            return Ok(0);
        }
        let somebody = self.passed.somebody()?;
        if somebody != self.somebody {
            match somebody {
                Some(who) => tracing::info!(who, "packets to pods take the stack"),
                None => tracing::info!("nobody wants to see packets that the stack sends on"),
            }
            self.somebody = somebody;
        }
        if somebody.is_some() {
            return Ok(0);
        }
        let mut result = Ok(());
        let bits = bits(ways, |way| {
            let free = self.passed.is_free(way);
            free.unwrap_or_else(|error| {
                result = Err(error);
                false
            })
        });
        result.and(Ok(bits))
    }

    /// Waits at most until then; while `opened`, for what may be told as well.
    fn wait(&mut self, opened: bool, until: Instant) -> Wake {
        loop {
            let mut fds = vec![PollFd::new(self.shared.waker.as_fd(), PollFlags::POLLIN)];
            if opened {
                fds.extend(self.ears.fds());
            }
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, or it would be asked again and again within the last millisecond.
            let left = PollTimeout::try_from(left + Duration::from_millis(1));
            match poll(&mut fds, left.unwrap_or(PollTimeout::MAX)) {
                Ok(0) => return Wake::Look,
                Ok(_) if fds[0].any() == Some(true) => {
                    // Whatever it counted to.
                    let _ = self.shared.waker.read();
                    return Wake::Look;
                }
                // What can't be heard of any more may be there.
                Ok(_) if self.ears.hear().unwrap_or(true) => return Wake::Told,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "rules of others are found late");
                    std::thread::sleep(GATHER);
                    return Wake::Look;
                }
            }
        }
    }
}

/// Hears of what somebody does who may want to see packets.
struct Ears {
    rules: Events,
    filters: Events,
    /// `None`: the kernel has no IPsec.
    policies: Option<Events>,
}

impl Ears {
    fn open() -> Result<Self, Error> {
        let policies = match xfrm::events() {
            Ok(events) => Some(events),
            Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => None,
            Err(error) => return Err(Error::Heard(error)),
        };
        Ok(Self {
            rules: nft::events().map_err(Error::Heard)?,
            filters: route::way_in_events().map_err(Error::Heard)?,
            policies,
        })
    }

    fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let events = [
            Some(&self.rules),
            Some(&self.filters),
            self.policies.as_ref(),
        ];
        let events = events.into_iter().flatten();
        events.map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN))
    }

    /// Takes what was told; whether it may mean that somebody wants to see packets.
    fn hear(&self) -> Result<bool, Error> {
        let mut heard = false;
        let rules = self.rules.take(&mut |told| heard |= nft::adds_rules(told));
        rules.map_err(Error::Heard)?;
        let filters = self
            .filters
            .take(&mut |told| heard |= route::adds_filters(told));
        filters.map_err(Error::Heard)?;
        if let Some(policies) = &self.policies {
            let policies = policies.take(&mut |told| heard |= xfrm::adds(told));
            policies.map_err(Error::Heard)?;
        }
        Ok(heard)
    }
}

fn waiting(errno: Errno) -> Error {
    Error::Thread(errno.into())
}
