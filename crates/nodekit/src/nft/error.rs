//! What can go wrong with a transaction.

use nix::errno::Errno;

use crate::netlink;

/// One message of a transaction that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {errno}{}", message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
pub struct Failure {
    /// The tag the caller gave the operation; `None` where the commit as a whole was refused.
    pub tag: Option<usize>,
    /// The operation in words.
    pub operation: String,
    /// The kernel's answer.
    pub errno: Errno,
    /// The kernel's extended acknowledgement text, where it gave one.
    pub message: Option<String>,
}

/// A failed operation on nf_tables. Unless said otherwise nothing of the transaction is in the
/// kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The exchange with the kernel failed. For a commit that is [`netlink::Error::Socket`] on
    /// receiving, its outcome is unknown.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The kernel refused operations of the transaction, and with them all of it.
    #[error("transaction refused: {}", listed(.failures, *.incomplete))]
    Refused {
        /// Every operation that was refused; an operation's elements are told by one failure.
        failures: Vec<Failure>,
        /// The kernel had more to say than the receive buffer holds.
        incomplete: bool,
    },
    /// The transaction doesn't fit the send buffer. Split it.
    #[error(
        "the transaction has {size} bytes, more than the {limit} that the socket takes at once"
    )]
    TooLarge {
        /// The transaction's size in bytes.
        size: usize,
        /// The most the socket takes, in bytes.
        limit: usize,
    },
    /// An operation can't be said to the kernel; nothing was sent.
    #[error("{operation}: {detail}")]
    Invalid {
        /// The tag the caller gave the operation.
        tag: usize,
        /// The operation in words.
        operation: String,
        /// The field, its value and what is accepted.
        detail: String,
    },
    /// The rule set changed since the generation that [`super::Batch::only_at`] named.
    #[error("the rule set changed since generation {0}")]
    GenerationChanged(u32),
}

impl Error {
    /// The error number, where the kernel or the socket gave one; of several failures the first's.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Netlink(error) => error.errno(),
            Self::Refused { failures, .. } => failures.first().map(|failure| failure.errno),
            Self::TooLarge { .. } => Some(Errno::EMSGSIZE),
            Self::Invalid { .. } => Some(Errno::EINVAL),
            Self::GenerationChanged(_) => Some(Errno::ERESTART),
        }
    }

    /// The refused operations; empty where the failure isn't any single operation's.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        match self {
            Self::Refused { failures, .. } => failures,
            _ => &[],
        }
    }
}

/// The first failures in words: a transaction may have thousands.
fn listed(failures: &[Failure], incomplete: bool) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = failures
        .iter()
        .take(SHOWN)
        .map(Failure::to_string)
        .collect();
    if failures.len() > SHOWN {
        text.push(format!("and {} more", failures.len() - SHOWN));
    }
    if incomplete {
        text.push("and others whose answers were lost".to_owned());
    }
    text.join("; ")
}
