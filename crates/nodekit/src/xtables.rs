//! iptables through its own programs: one process for each question or change, no shell.
//!
//! The kernel interface behind iptables is either its own (`legacy`) or nf_tables with rules that
//! carry iptables' binary matches (`nft`); both are private to these programs, so they are run. They
//! work in the network namespace of the calling thread.

mod input;
mod process;
mod variant;

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub use input::{Input, quote};
pub use variant::{Detection, Variant};

use process::{ask, feed};

/// The longest input of a restore and the longest listing, in bytes: some ten million rules.
const LIMIT: usize = 1 << 30;
/// Comes behind the input of an early restore. Asked to be verbose, the program says a comment again when it comes to it,
/// and what stands before it is in the kernel by then. A program that says nothing is waited for. Its end may
/// take 20 ms longer: as `iptables-nft-restore` closes its socket, the kernel frees what was deleted, after a
/// grace period (`nft_rcv_nl_event`, net/netfilter/nf_tables_api.c).
const APPLIED: &str = "# applied";
/// Seconds to wait for the lock that other runs of iptables may hold (`--wait`; legacy only).
const LOCK_SECONDS: &str = "10";
/// Where the programs are looked for, before the folders of `PATH`.
const FOLDERS: [&str; 5] = [
    "/usr/sbin",
    "/sbin",
    "/usr/local/sbin",
    "/usr/bin",
    "/usr/local/bin",
];

/// Which packets: each family has its own programs and its own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, `iptables`.
    Ip,
    /// IPv6, `ip6tables`.
    Ip6,
}

impl Family {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Ip => "iptables",
            Self::Ip6 => "ip6tables",
        }
    }
}

/// A table of iptables (`iptables(8)`, TABLES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Accept or not.
    Filter,
    /// Translate addresses; sees only a connection's first packet.
    Nat,
    /// Change other parts of the packet.
    Mangle,
    /// Before connection tracking.
    Raw,
}

impl Table {
    /// Its name in the programs' words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
            Self::Raw => "raw",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why iptables could not be asked or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The programs are not installed.
    #[error("no {program} in {} or PATH; the package iptables brings it", FOLDERS.join(", "))]
    Missing {
        /// The program looked for.
        program: String,
    },
    /// The program could not be run, or did not end.
    #[error("{program}: {detail}")]
    NotRun {
        /// The program.
        program: String,
        /// What went wrong.
        detail: String,
    },
    /// The program said no. A restore changed nothing in the table that it failed in; tables before
    /// it in the input are changed.
    #[error("{program} failed{}{}: {said}", place(.line), status(.code))]
    Refused {
        /// The program.
        program: String,
        /// Its exit status; `None`: ended by a signal. 1: not there or refused by the kernel, 2: bad
        /// input, 4: a resource is busy (also: the lock was not free in time).
        code: Option<i32>,
        /// The first line of the input, from 1, that it names. It may be the `COMMIT` behind the
        /// line that is wrong.
        line: Option<usize>,
        /// What it said, at most 4 KiB.
        said: String,
    },
    /// The input or the listing is longer than anything sensible.
    #[error("{program}: more than {LIMIT} bytes")]
    TooLong {
        /// The program.
        program: String,
    },
}

impl Error {
    /// The line of a restore's input that is to blame, from 1, where the program named one.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::Refused { line, .. } => *line,
            _ => None,
        }
    }
}

fn place(line: &Option<usize>) -> String {
    line.map(|line| format!(" at line {line}"))
        .unwrap_or_default()
}

fn status(code: &Option<i32>) -> String {
    code.map_or_else(|| " (killed)".to_owned(), |code| format!(" ({code})"))
}

/// The programs of one family and variant.
#[derive(Clone, Debug)]
pub struct Xtables {
    family: Family,
    variant: Variant,
    command: PathBuf,
    restore: PathBuf,
    save: PathBuf,
    #[cfg(feature = "faulty")]
    faults: Option<crate::faulty::Faults>,
}

impl Xtables {
    /// The programs of `family` in the variant that this node uses: see [`Variant::detect`].
    ///
    /// # Errors
    /// [`Error::Missing`] where neither variant is installed.
    pub fn find(family: Family) -> Result<Self, Error> {
        Self::of(family, Variant::detect()?.variant)
    }

    /// The programs of `family` in `variant`.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn of(family: Family, variant: Variant) -> Result<Self, Error> {
        let program = |suffix: &str| variant.program(family, suffix);
        Ok(Self {
            family,
            variant,
            command: program("")?,
            restore: program("-restore")?,
            save: program("-save")?,
            #[cfg(feature = "faulty")]
            faults: None,
        })
    }

    /// The same programs, which fail as `faults` says.
    #[cfg(feature = "faulty")]
    #[must_use]
    pub fn with_faults(mut self, faults: crate::faulty::Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Which packets.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Which kernel interface.
    #[must_use]
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    /// Applies `input` in the words of `iptables-restore(8)`: one process, `--noflush`, so that
    /// chains that it does not declare stay as they are. Each table in it changes at once or not at
    /// all. What deleted rules held, as counters and sets, nobody holds any more then.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn restore(&self, input: &str) -> Result<(), Error> {
        self.run_restore(input, &[], &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Xtables::restore`], but the end of the process is not waited for if it says before that it has
    /// come to the end of its input: packets meet the new rules, and what deleted ones held may be held
    /// for a moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn restore_early(&self, input: &str) -> Result<(), Error> {
        // Else the program is to say that the table's COMMIT is missing.
        let said = if input.ends_with("COMMIT\n") {
            &[APPLIED, "\n"][..]
        } else {
            &[]
        };
        self.run_restore(input, said, &mut |line| {
            if line == APPLIED {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
    }

    fn run_restore(
        &self,
        input: &str,
        more: &[&str],
        each: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        #[cfg(feature = "faulty")]
        if let Some(faults) = &self.faults {
            faults.restore(&self.restore.display().to_string(), input)?;
        }
        let arguments = ["--noflush", "--verbose", "--wait", LOCK_SECONDS];
        let input = [&[input], more].concat();
        feed(&self.restore, &arguments, &input, LIMIT, each)?.success()
    }

    /// Hands every line of the listing of `table`, or of all tables that are there, to `each`: rules
    /// as `-A CHAIN …`, chains as `:CHAIN …`, tables as `*TABLE`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn save(&self, table: Option<Table>, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        #[cfg(feature = "faulty")]
        if let Some(faults) = &self.faults {
            faults.listing(&self.save.display().to_string())?;
        }
        let words: Vec<&str> = table
            .iter()
            .flat_map(|table| ["-t", table.name()])
            .collect();
        ask(&self.save, &words, LIMIT, each)?.success()
    }

    /// The chains of `table`, built-in ones included.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn chains(&self, table: Table) -> Result<Vec<String>, Error> {
        let mut chains = Vec::new();
        self.save(Some(table), &mut |line| {
            let name = line
                .strip_prefix(':')
                .and_then(|rest| rest.split(' ').next());
            chains.extend(name.map(str::to_owned));
        })?;
        Ok(chains)
    }

    /// The rules of one chain as `-A CHAIN …`; `None`: there is no such chain.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn rules(&self, table: Table, chain: &str) -> Result<Option<Vec<String>>, Error> {
        #[cfg(feature = "faulty")]
        if let Some(faults) = &self.faults {
            faults.listing(&self.command.display().to_string())?;
        }
        let mut rules = Vec::new();
        let words = ["--wait", LOCK_SECONDS, "-t", table.name(), "-S", chain];
        let finished = ask(&self.command, &words, LIMIT, &mut |line| {
            rules.extend(line.starts_with("-A ").then(|| line.to_owned()));
        })?;
        // Both variants answer 1 for a chain or table that is not there.
        if finished.code() == Some(1) {
            return Ok(None);
        }
        finished.success().map(|()| Some(rules))
    }
}
