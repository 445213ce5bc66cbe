//! A kernel that fails on purpose, for the tests of those who use this crate.
//!
//! It never changes what reaches the kernel: an operation is done as always, or fails before
//! anything was sent.

use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use crate::netlink;
use crate::nft::{Batch, Error, Failure};
use crate::xtables;

/// What should fail; clones share it, so that a test keeps one and hands out another.
///
/// ```
/// use nodekit::faulty::Faults;
/// use nix::errno::Errno;
/// let faults = Faults::default();
/// faults.fail_transaction(2, Errno::ENOMEM); // the second from now
/// faults.die_after(10); // as if killed there
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Commits that were asked for so far.
    transactions: u64,
    /// Commits and reads that were let through so far.
    operations: u64,
    /// Which commits fail, and how.
    planned: Vec<(u64, Errno)>,
    /// Commits that fail by chance.
    chance: Option<Chance>,
    /// Inputs of iptables that are refused: what they contain, and whether the line is named.
    refused: Option<(String, bool)>,
    /// The last operation that is let through.
    dies_after: Option<u64>,
}

/// Bits for small seeds, whose first numbers would all be low.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug)]
struct Chance {
    /// Of 2^32.
    share: u64,
    errno: Errno,
    random: u64,
}

impl Faults {
    /// The `nth` commit from now (1 is the next) is refused with `errno`.
    pub fn fail_transaction(&self, nth: u64, errno: Errno) {
        self.with(|state| state.planned.push((state.transactions + nth, errno)));
    }

    /// Commits are refused with `errno` at a share of `fraction` (0 to 1), the same ones for the
    /// same `seed`. A fraction of 0 ends it.
    pub fn fail_fraction(&self, fraction: f64, seed: u64, errno: Errno) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share between 0 and 2^32"
        )]
        let share = (fraction.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u64;
        self.with(|state| {
            state.chance = (share > 0).then_some(Chance {
                share,
                errno,
                random: (seed ^ SEED).max(1),
            });
        });
    }

    /// After `operations` more commits and reads every one fails with `ESHUTDOWN`, as if the
    /// process had been killed there.
    pub fn die_after(&self, operations: u64) {
        self.with(|state| state.dies_after = Some(state.operations + operations));
    }

    /// Inputs of iptables with `text` in them are refused from now on, by naming the first such line
    /// (`named`), or not saying why, as legacy iptables does when the kernel is the one to refuse.
    pub fn refuse_input(&self, text: &str, named: bool) {
        self.with(|state| state.refused = Some((text.to_owned(), named)));
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.with(|state| {
            state.refused = None;
            state.planned.clear();
            state.chance = None;
            state.dies_after = None;
        });
    }

    /// How many commits and reads were let through so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.with(|state| state.operations)
    }

    /// How many commits were asked for so far, refused ones included.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.with(|state| state.transactions)
    }

    /// Whether [`Faults::die_after`]'s moment has come.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.with(|state| state.is_dead())
    }

    /// Asked before each commit.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), Error> {
        match self.next_change() {
            Outcome::Done => Ok(()),
            Outcome::Refused(errno) => Err(refused(batch, errno)),
            Outcome::Dead => Err(dead("commit")),
        }
    }

    /// Asked before each run of a program that applies `input`: its middle line fails.
    pub(crate) fn restore(&self, program: &str, input: &str) -> Result<(), xtables::Error> {
        let refused = |line, said| xtables::Error::Refused {
            program: program.to_owned(),
            code: Some(1),
            line,
            said,
        };
        match self.next_change() {
            Outcome::Done => {}
            Outcome::Refused(errno) => {
                let middle = input.lines().count() / 2;
                return Err(refused(Some(middle), format!("injected fault: {errno}")));
            }
            Outcome::Dead => return Err(not_run(program)),
        }
        let Some((text, named)) = self.with(|state| state.refused.clone()) else {
            return Ok(());
        };
        let line = input.lines().position(|line| line.contains(&text));
        line.map_or(Ok(()), |line| {
            Err(refused(
                named.then_some(line + 1),
                "injected fault".to_owned(),
            ))
        })
    }

    /// Asked before each run of a program that lists.
    pub(crate) fn listing(&self, program: &str) -> Result<(), xtables::Error> {
        self.read(program).map_err(|_| not_run(program))
    }

    fn next_change(&self) -> Outcome {
        self.with(|state| {
            if state.is_dead() {
                return Outcome::Dead;
            }
            state.transactions += 1;
            let errno = state.fault();
            state.operations += u64::from(errno.is_none());
            errno.map_or(Outcome::Done, Outcome::Refused)
        })
    }

    /// Asked before each read.
    pub(crate) fn read(&self, what: &str) -> Result<(), Error> {
        self.with(|state| {
            if state.is_dead() {
                return Err(dead(what));
            }
            state.operations += 1;
            Ok(())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What becomes of a change.
enum Outcome {
    Done,
    Refused(Errno),
    Dead,
}

impl State {
    fn is_dead(&self) -> bool {
        self.dies_after.is_some_and(|last| self.operations >= last)
    }

    fn fault(&mut self) -> Option<Errno> {
        let now = self.transactions;
        let planned = self
            .planned
            .iter()
            .find(|(nth, _)| *nth == now)
            .map(|(_, errno)| *errno);
        planned.or_else(|| self.chance.as_mut().and_then(Chance::fault))
    }
}

impl Chance {
    fn fault(&mut self) -> Option<Errno> {
        // xorshift64*: the same commits fail for the same seed.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let drawn = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (drawn < self.share).then_some(self.errno)
    }
}

fn not_run(program: &str) -> xtables::Error {
    xtables::Error::NotRun {
        program: program.to_owned(),
        detail: "injected death".to_owned(),
    }
}

fn dead(what: &str) -> Error {
    netlink::Error::socket(&what, Errno::ESHUTDOWN).into()
}

/// As the kernel refuses: the transaction's middle operation fails, and with it all of it.
fn refused(batch: &Batch, errno: Errno) -> Error {
    let (tag, operation) = batch.middle_operation();
    let failure = Failure {
        tag,
        operation,
        errno,
        message: Some("injected fault".to_owned()),
    };
    Error::Refused {
        failures: vec![failure],
        incomplete: false,
    }
}
