//! Turns: work that mostly waits for the kernel, done by one process for several that ask for it at
//! the same time.
//!
//! Up to [`SLOTS`] processes work side by side, each for itself. Who comes when all slots are taken
//! makes a *round*: a file with one request a line, which is worked off by its maker as soon as a
//! slot is free. Who comes until then adds a request and waits. All of it is files in a folder that
//! is there anyway, and locks (flock(2)) that end with their holders:
//!
//! - `turn.door` is held for the moment in which somebody looks what there is to join,
//! - `turn.0` and so on are the slots,
//! - `turn.round.N` is the round of network namespace N (its inode), held by its maker as long as it
//!   lives. The maker writes behind the requests which of them are done.
//!
//! What goes wrong with these files makes everybody work for itself, as do the death of a round's
//! maker and too long a wait. So nothing is lost if they are deleted at any time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nodekit::netns::NetNs;

/// How many work side by side: so few pods at once take as long as one.
const SLOTS: usize = 2;

/// The lock that is held while somebody looks what there is to join.
const DOOR: &str = "turn.door";

/// How long somebody waits for others, before it works for itself after all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks whether the others are ready.
const PAUSE: Duration = Duration::from_millis(1);

/// What a line begins with that says which request is done.
const DONE: &str = "done ";

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It is to be done now, with those of others.
    Mine(Mine),
    /// Somebody has done it.
    Done,
}

/// The right to work, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Mine {
    round: Option<File>,
    requests: String,
    slot: Option<File>,
}

impl Turn {
    /// Waits for a turn. A request is one line, which may be asked for twice; it is only written
    /// down where somebody else may do it.
    pub(crate) fn take(folder: Option<&Path>, request: impl FnOnce() -> String) -> Self {
        let taken = folder.map(|folder| take(folder, request));
        match taken {
            Some(Ok(turn)) => turn,
            _ => Self::Mine(Mine::default()),
        }
    }
}

impl Mine {
    /// What others ask for.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &str> {
        self.requests.lines()
    }

    /// Says which of the others' requests are done, and lets everybody go on.
    pub(crate) fn end<'a>(self, done: impl Iterator<Item = &'a str>) {
        // The next round need not wait for this one's members.
        drop(self.slot);
        if let Some(mut round) = self.round {
            let text: String = done.map(|request| format!("{DONE}{request}\n")).collect();
            // Whose request is not said to be done does it.
            let _ = round.write_all(text.as_bytes());
        }
    }
}

fn take(folder: &Path, request: impl FnOnce() -> String) -> io::Result<Turn> {
    let door = open(&folder.join(DOOR))?;
    door.lock()?;
    let netns = NetNs::current_identity().map_err(io::Error::other)?;
    let path = folder.join(format!("turn.round.{}", netns.inode));
    if let Some(round) = joinable(&path)? {
        return join(round, door, &request());
    }
    let slots = (0..SLOTS).map(|number| open(&folder.join(format!("turn.{number}"))));
    let mut slots = slots.collect::<io::Result<Vec<_>>>()?;
    if let Some(slot) = free(&mut slots)? {
        return Ok(Turn::Mine(Mine {
            slot: Some(slot),
            ..Mine::default()
        }));
    }
    let mut round = open(&path)?;
    round.lock()?;
    drop(door);
    let slot = patiently(|| free(&mut slots))?;
    let requests = close(folder, &path, &mut round)?;
    Ok(Turn::Mine(Mine {
        round: Some(round),
        requests,
        slot,
    }))
}

/// A slot that nobody has, locked.
fn free(slots: &mut Vec<File>) -> io::Result<Option<File>> {
    for number in 0..slots.len() {
        if is_had(slots[number].try_lock())? {
            return Ok(Some(slots.swap_remove(number)));
        }
    }
    Ok(None)
}

/// Whether a lock could be had.
fn is_had(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Tries until there is something; `None` when that takes too long. A process that is stopped, and
/// goes on holding its locks, so keeps nobody for ever.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt()? {
            None if Instant::now() < deadline => thread::sleep(PAUSE),
            other => return Ok(other),
        }
    }
}

/// A file that is made where needed. Never truncated, and opened for reading, too: that way a fifo
/// in its place does not wait for a reader.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true).mode(0o600);
    options.open(path)
}

/// The round that waits for a slot, if any. One whose maker has died goes.
fn joinable(path: &Path) -> io::Result<Option<File>> {
    let round = match OpenOptions::new().read(true).append(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if is_had(round.try_lock_shared())? {
        fs::remove_file(path)?;
        return Ok(None);
    }
    Ok(Some(round))
}

/// Adds a request to a round, and waits until the round is over.
fn join(mut round: File, door: File, request: &str) -> io::Result<Turn> {
    round.write_all(format!("{request}\n").as_bytes())?;
    drop(door);
    patiently(|| Ok(is_had(round.try_lock_shared())?.then_some(())))?;
    let mut text = String::new();
    round.seek(SeekFrom::Start(0))?;
    round.read_to_string(&mut text)?;
    let mut done = text.lines().filter_map(|line| line.strip_prefix(DONE));
    Ok(if done.any(|done| done == request) {
        Turn::Done
    } else {
        Turn::Mine(Mine::default())
    })
}

/// Ends the time in which a round can be joined.
fn close(folder: &Path, path: &Path, round: &mut File) -> io::Result<String> {
    let door = open(&folder.join(DOOR))?;
    door.lock()?;
    fs::remove_file(path)?;
    drop(door);
    let mut text = String::new();
    round.read_to_string(&mut text)?;
    Ok(text)
}
