//! What can go wrong between us and the kernel.

use std::fmt::Display;

use nix::errno::Errno;

/// A failed netlink exchange, with the operation it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refused the operation.
    #[error("{operation}: {errno}{}", words(.message))]
    Kernel {
        /// What was asked for.
        operation: String,
        /// The kernel's answer.
        errno: Errno,
        /// The kernel's extended acknowledgement text (`NLMSGERR_ATTR_MSG`), where it gave one.
        message: Option<String>,
    },
    /// The socket failed: nothing is known of the operation's outcome.
    #[error("{operation}: netlink socket: {errno}")]
    Socket {
        /// What was asked for.
        operation: String,
        /// The socket call's error.
        errno: Errno,
    },
    /// The objects kept changing while they were dumped.
    #[error("{operation}: interrupted by changes in each of {attempts} attempts")]
    Interrupted {
        /// What was asked for.
        operation: String,
        /// How many dumps were begun.
        attempts: u32,
    },
    /// The kernel's answer, or what should be sent to it, can't be put in netlink's form.
    #[error("{operation}: {detail}")]
    Malformed {
        /// What was asked for.
        operation: String,
        /// What doesn't fit.
        detail: String,
    },
}

impl Error {
    /// The kernel's or the socket's error number.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } | Self::Socket { errno, .. } => Some(*errno),
            Self::Interrupted { .. } => Some(Errno::EINTR),
            Self::Malformed { .. } => None,
        }
    }

    /// An error the kernel gave for `operation`.
    #[must_use]
    pub fn kernel(operation: &dyn Display, errno: Errno, message: Option<String>) -> Self {
        Self::Kernel {
            operation: operation.to_string(),
            errno,
            message,
        }
    }

    /// An error of the socket itself while doing `operation`.
    #[must_use]
    pub fn socket(operation: &dyn Display, errno: Errno) -> Self {
        Self::Socket {
            operation: operation.to_string(),
            errno,
        }
    }

    /// Bytes that aren't what netlink or the message's family says they should be.
    #[must_use]
    pub fn malformed(operation: &dyn Display, detail: &str) -> Self {
        Self::Malformed {
            operation: operation.to_string(),
            detail: detail.to_owned(),
        }
    }
}

fn words(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}
