//! Which boot of the machine this is, and what that says about reservations.
//!
//! No pod outlives its machine's boot, but the reservations of pods that nobody detached do. The
//! index notes the boot in which it was last right. When that is another one:
//!
//! 1. What the index knew then, unchanged since, was reserved before: it is released. This needs
//!    no clock.
//! 2. Of what it did not know (the reference plugin reserved it, then or now, or a process was
//!    killed while it did), that is released whose file is older than this boot by
//!    [`MARGIN`]. Without a noted boot, as on taking over from the reference, this holds for all.
//!
//! The rest stays: an address of a living pod must never be given twice, one that is held for
//! nothing ends with the next GC.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::store::read_short;

/// By how much a file must be older than the boot: the kernel reckons the time of boot back from
/// a clock that may since have been set.
const MARGIN: Duration = Duration::from_secs(60);

/// The length of a boot's id, a UUID.
const ID_LENGTH: usize = 36;

/// A boot of the machine.
#[derive(Debug)]
pub(super) struct Boot {
    id: String,
    stat: PathBuf,
}

impl Boot {
    /// The machine's own (proc(5): `/proc/sys/kernel/random/boot_id`, `/proc/stat`).
    pub(super) fn current() -> Self {
        Self::told_by("/proc/sys/kernel/random/boot_id", "/proc/stat")
    }

    /// A boot as two files tell it. One that cannot be told is never taken for a new one.
    pub(super) fn told_by(id: impl AsRef<Path>, stat: impl Into<PathBuf>) -> Self {
        let id = read_short(id.as_ref()).unwrap_or_default();
        Self {
            id: id.trim().to_owned(),
            stat: stat.into(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether a noted id is surely that of another boot.
    pub(super) fn is_after(&self, noted: &str) -> bool {
        is_id(&self.id) && is_id(noted) && self.id != noted
    }

    /// Whether nothing was noted that could be compared.
    pub(super) fn is_unnoted(&self, noted: &str) -> bool {
        is_id(&self.id) && !is_id(noted)
    }

    /// The time before which files are of an earlier boot, if it can be told.
    pub(super) fn oldest(&self) -> Option<SystemTime> {
        let stat = fs::read_to_string(&self.stat).ok()?;
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        let seconds = line.trim().parse().ok()?;
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))?
            .checked_sub(MARGIN)
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_and_different_id_is_another_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let id = "4f0ea1a2-58a5-4a5e-9a3c-0f2b2f7d5b11";
        fs::write(&path, format!("{id}\n")).unwrap();
        let boot = Boot::told_by(&path, "/none");
        assert!(boot.is_after("4f0ea1a2-58a5-4a5e-9a3c-0f2b2f7d5b12"));
        assert!(!boot.is_after(id) && !boot.is_unnoted(id));
        for torn in ["", "4f0ea1a2-58a5", "4f0ea1a2-58a5-4a5e-9a3c-0f2b2f7d5b1\0"] {
            assert!(!boot.is_after(torn) && boot.is_unnoted(torn));
        }
        assert_eq!(boot.oldest(), None);
        let unknown = Boot::told_by("/none", "/none");
        assert!(!unknown.is_after(id) && !unknown.is_unnoted(""));
    }

    #[test]
    fn the_machine_tells_its_boot() {
        let boot = Boot::current();
        assert_eq!(boot.id().len(), ID_LENGTH);
        let oldest = boot.oldest().unwrap();
        assert!(oldest < SystemTime::now() && oldest > SystemTime::UNIX_EPOCH);
    }
}
