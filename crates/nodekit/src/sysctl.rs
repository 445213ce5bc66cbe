//! Kernel parameters under `/proc/sys`, read and written in the network namespace of the
//! calling thread: what `/proc/sys/net` shows is decided by the task that looks, at every
//! look-up (`fs/proc/proc_sysctl.c`), not by where `/proc` was mounted.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;

use nix::errno::Errno;

/// Where the kernel's parameters are.
const ROOT: &str = "/proc/sys";

/// Why a parameter was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no parameter's name.
    #[error(
        "sysctl {key:?}: {reason}; accepted: segments as net.ipv4.ip_forward or net/ipv4/ip_forward"
    )]
    Key {
        /// The text as given.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refused to show the value; `ENOENT`: no such parameter, or no such device.
    #[error("cannot read sysctl {key}: {}", errno.desc())]
    Read {
        /// Which parameter.
        key: Key,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel refused the value; `EINVAL`: not a value it accepts.
    #[error("cannot set sysctl {key} to {value:?}: {}", errno.desc())]
    Write {
        /// Which parameter.
        key: Key,
        /// What should have been written.
        value: String,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl Error {
    /// The kernel's answer, where it was asked.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Key { .. } => None,
            Self::Read { errno, .. } | Self::Write { errno, .. } => Some(*errno),
        }
    }
}

/// A parameter's name: the segments of its path. Device names keep their dots
/// (`net/ipv4/conf/eth0.100/forwarding`); a segment can't climb out of `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Vec<String>);

impl Key {
    /// A name from its segments, taken literally.
    ///
    /// # Errors
    /// [`Error::Key`] for an empty segment, `.`, `..`, or one with a slash or NUL in it.
    pub fn new<S: AsRef<str>>(segments: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let segments: Vec<String> = segments
            .into_iter()
            .map(|segment| segment.as_ref().to_owned())
            .collect();
        let bad = segments.iter().find_map(|segment| match segment.as_str() {
            "" => Some("an empty segment"),
            "." | ".." => Some("a segment that leads elsewhere"),
            text if text.contains(['/', '\0']) => Some("a slash or NUL inside a segment"),
            _ => None,
        });
        match bad.or(segments.is_empty().then_some("no segment")) {
            Some(reason) => Err(Error::Key {
                key: segments.join("/"),
                reason,
            }),
            None => Ok(Self(segments)),
        }
    }

    /// A device's parameter of IPv4, `net/ipv4/conf/DEVICE/NAME`. The device may also be
    /// `all` or `default`.
    ///
    /// # Errors
    /// [`Error::Key`] as [`Key::new`].
    pub fn ipv4_conf(device: &str, name: &str) -> Result<Self, Error> {
        Self::new(["net", "ipv4", "conf", device, name])
    }

    /// A device's parameter of IPv6, `net/ipv6/conf/DEVICE/NAME`.
    ///
    /// # Errors
    /// [`Error::Key`] as [`Key::new`].
    pub fn ipv6_conf(device: &str, name: &str) -> Result<Self, Error> {
        Self::new(["net", "ipv6", "conf", device, name])
    }

    /// The segments of its path, outermost first.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from(ROOT);
        path.extend(&self.0);
        path
    }
}

impl FromStr for Key {
    type Err = Error;

    /// Reads a name as sysctl(8) does: whichever of `.` and `/` comes first separates, and
    /// the other one, standing for itself's opposite, is part of a segment when the name is
    /// written with slashes; written with dots, a slash stands for a dot in a device's name
    /// (`net.ipv4.conf.eth0/100.forwarding`).
    fn from_str(text: &str) -> Result<Self, Error> {
        let named = |error| match error {
            Error::Key { reason, .. } => Error::Key {
                key: text.to_owned(),
                reason,
            },
            other => other,
        };
        match text.find(['.', '/']).map(|at| &text[at..=at]) {
            Some(".") => Self::new(text.split('.').map(|segment| segment.replace('/', "."))),
            _ => Self::new(text.split('/')),
        }
        .map_err(named)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// Reads a parameter, without the final line break.
///
/// # Errors
/// [`Error::Read`] with the errno.
pub fn read(key: &Key) -> Result<String, Error> {
    let failed = |error: io::Error| Error::Read {
        key: key.clone(),
        errno: errno(&error),
    };
    let mut file = fs::File::open(key.path()).map_err(failed)?;
    // Most are numbers; the kernel hands a value out whole, its line break at the end.
    let mut buffer = [0; 128];
    let length = file.read(&mut buffer).map_err(failed)?;
    let mut bytes = buffer[..length].to_vec();
    if bytes.last() != Some(&b'\n') {
        file.read_to_end(&mut bytes).map_err(failed)?;
    }
    let text = String::from_utf8(bytes).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Writes a parameter.
///
/// # Errors
/// [`Error::Write`] with the errno.
pub fn write(key: &Key, value: &str) -> Result<(), Error> {
    // Not fs::write: creating a file is nothing /proc/sys offers, and the value must arrive in
    // one write(2).
    let failed = |error: io::Error| Error::Write {
        key: key.clone(),
        value: value.to_owned(),
        errno: errno(&error),
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(key.path())
        .map_err(failed)?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(failed)
}

/// Writes a parameter unless it has the value already; true when it was written. Saves the
/// side effects of a write (`forwarding` flushes the route cache) and works where `/proc/sys`
/// is read-only but already right.
///
/// # Errors
/// [`Error::Read`] or [`Error::Write`].
pub fn ensure(key: &Key, value: &str) -> Result<bool, Error> {
    if read(key)? == value {
        return Ok(false);
    }
    write(key, value)?;
    Ok(true)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_name_keep_the_dots_of_devices() {
        let wanted = Key::ipv4_conf("eth0.100", "forwarding").unwrap();
        for text in [
            "net/ipv4/conf/eth0.100/forwarding",
            "net.ipv4.conf.eth0/100.forwarding",
        ] {
            assert_eq!(text.parse::<Key>().unwrap(), wanted, "{text}");
        }
        assert_eq!(
            wanted.path(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
    }

    #[test]
    fn a_name_never_leaves_the_folder() {
        for text in [
            "",
            "/etc/passwd",
            "net/../../etc/passwd",
            "net..ipv4",
            "net/./x",
            "a/b\0",
        ] {
            let error = text.parse::<Key>().unwrap_err();
            assert!(matches!(error, Error::Key { .. }), "{text}: {error}");
        }
        assert!(Key::ipv6_conf("a/b", "x").is_err());
        assert!(Key::ipv6_conf("..", "x").is_err());
    }
}
