//! Named packet counters that rules of iptables count with (`-m nfacct`).
//!
//! It never sets a counter back. Source: `linux/netfilter/nfnetlink_acct.h`.

use nix::errno::Errno;

use crate::netlink::{AttrWriter, Error, Message, NLM_F_CREATE, Protocol, Socket, attrs};

/// `NFNL_SUBSYS_ACCT` in a message type's upper byte.
const SUBSYSTEM: u16 = 7 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 3;

const NAME: u16 = 1;
const PACKETS: u16 = 2;
const BYTES: u16 = 3;

/// The longest name, in bytes (`NFACCT_NAME_MAX`, less its end).
pub const LONGEST_NAME: usize = 31;

/// What was counted since the counter was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A connection to the counters of the network namespace it was opened in.
#[derive(Debug)]
pub struct Counters {
    socket: Socket,
}

impl Counters {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
        })
    }

    /// Makes the counter `name` (at most [`LONGEST_NAME`] bytes), unless it is there.
    ///
    /// # Errors
    /// As [`Socket::request`]; `EINVAL` where the kernel has no such counters
    /// (`CONFIG_NETFILTER_NETLINK_ACCT`).
    pub fn ensure(&mut self, name: &str) -> Result<(), Error> {
        let what = format!("make the packet counter {name}");
        let mut writer = request();
        writer
            .string(NAME, name)
            .u64_be(PACKETS, 0)
            .u64_be(BYTES, 0);
        let request = encoded(&what, writer)?;
        match self.socket.request(&what, NEW, NLM_F_CREATE, &request) {
            // It is there.
            Err(error) if matches!(error.errno(), Some(Errno::EBUSY | Errno::EEXIST)) => Ok(()),
            done => done,
        }
    }

    /// What the counter `name` has counted; `None`: there is none.
    ///
    /// # Errors
    /// As [`Socket::request`], except `ENOENT`.
    pub fn read(&mut self, name: &str) -> Result<Option<Count>, Error> {
        let what = format!("read the packet counter {name}");
        let mut writer = request();
        writer.string(NAME, name);
        let request = encoded(&what, writer)?;
        let read = |message: &Message<'_>| {
            count(message.payload).ok_or_else(|| Error::malformed(&what, "no numbers"))
        };
        match self.socket.get_one(&what, GET, &request, read) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the counter `name`. Gives whether it was there; one that a rule counts with stays.
    ///
    /// # Errors
    /// As [`Socket::request`], except `ENOENT`; `EBUSY`: a rule counts with it.
    pub fn delete(&mut self, name: &str) -> Result<bool, Error> {
        let what = format!("delete the packet counter {name}");
        let mut writer = request();
        writer.string(NAME, name);
        let request = encoded(&what, writer)?;
        match self.socket.request(&what, DELETE, 0, &request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// `struct nfgenmsg` of no family: one counter may count packets of both.
fn request() -> AttrWriter {
    AttrWriter::onto(vec![0; 4])
}

fn encoded(what: &str, writer: AttrWriter) -> Result<Vec<u8>, Error> {
    writer
        .finish()
        .map_err(|too_long| Error::malformed(&what, &too_long.to_string()))
}

fn count(payload: &[u8]) -> Option<Count> {
    let attributes = payload.get(4..)?;
    let number = |kind| attrs(attributes).find(kind)?.u64_be();
    Some(Count {
        packets: number(PACKETS)?,
        bytes: number(BYTES)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::anything;

    proptest! {
        #[test]
        fn random_attributes_never_panic(attributes in anything::attributes()) {
            let _ = (count(&attributes), count(&[&[0; 4], &attributes[..]].concat()));
        }
    }
}
