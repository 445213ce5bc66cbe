//! The connections the kernel tracks: list, delete, and tell it of some that it did not see.
//!
//! It never changes how an entry is translated, and takes the absence of one that should go for
//! success. Source: `linux/netfilter/nfnetlink_conntrack.h`.

mod entry;
mod new_entry;

pub use entry::{Entry, Transport, Tuple};
pub use new_entry::{NewEntry, TcpState};

use std::fmt::Display;

use nix::errno::Errno;

use crate::netlink::{AttrWriter, Error, NLM_F_CREATE, NLM_F_EXCL, Protocol, Socket};

/// `NFNL_SUBSYS_CTNETLINK` in a message type's upper byte.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// Compare the protocol's number (`CTA_FILTER_F_CTA_PROTO_NUM`, `nf_internals.h`).
const FILTER_PROTO_NUM: u32 = 1 << 3;

/// The network protocol of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// `AF_*`.
    fn number(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    /// That of a connection.
    #[must_use]
    pub fn of(tuple: &Tuple) -> Self {
        if tuple.source.is_ipv4() {
            Self::Ip
        } else {
            Self::Ip6
        }
    }
}

/// A connection to the connection tracker of the network namespace it was opened in.
#[derive(Debug)]
pub struct ConntrackSocket {
    socket: Socket,
}

impl ConntrackSocket {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
        })
    }

    /// The entries of `family` that `keep` wants, of one transport protocol (`IPPROTO_*`) where
    /// given: the kernel leaves the others out (Linux 5.8 and later).
    ///
    /// # Errors
    /// As [`Socket::dump`].
    pub fn list(
        &mut self,
        family: Family,
        protocol: Option<u8>,
        mut keep: impl FnMut(&Entry) -> bool,
    ) -> Result<Vec<Entry>, Error> {
        let what = "list tracked connections";
        let mut writer = AttrWriter::onto(vec![family.number(), 0, 0, 0]);
        if let Some(number) = protocol {
            writer.nested(TUPLE_ORIG, |tuple| {
                tuple.nested(TUPLE_PROTO, |w| {
                    w.u8(PROTO_NUM, number);
                });
            });
            // Flags of the machine's order, unlike all else here.
            writer.nested(FILTER, |w| {
                w.u32_ne(FILTER_ORIG_FLAGS, FILTER_PROTO_NUM)
                    .u32_ne(FILTER_REPLY_FLAGS, 0);
            });
        }
        let request = encoded(&what, writer)?;
        self.socket.dump(&what, GET, &request, |message, found| {
            let entry = Entry::read(message.payload.get(4..).unwrap_or_default());
            found.extend(entry.filter(|entry| {
                protocol.is_none_or(|number| number == entry.original.protocol) && keep(entry)
            }));
            Ok(())
        })
    }

    /// Tells the kernel of connections of which it saw no packet: the next one finds its entry, and
    /// is translated as that says, as long as something in the network namespace translates (a chain
    /// of type nat). Gives those that were refused, by their place, each with its reason: `EEXIST`
    /// where there is one already of the same original, or with the same answers; `ENOMEM` where
    /// the table is full (`net.netfilter.nf_conntrack_max`).
    ///
    /// # Errors
    /// As [`Socket::request_each`]: some may be there.
    pub fn create(&mut self, entries: &[NewEntry]) -> Result<Vec<(usize, Error)>, Error> {
        let what = "enter a connection";
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.write_each(what, flags, entries, NewEntry::write)
    }

    /// Has entries be as far, and stay as long, as these say, whose translation is not looked at.
    /// One that was answered stays so. Gives those that were refused, by their place, each with its
    /// reason: `ENOENT` where there is none.
    ///
    /// # Errors
    /// As [`ConntrackSocket::create`].
    pub fn change(&mut self, entries: &[NewEntry]) -> Result<Vec<(usize, Error)>, Error> {
        let what = "change a tracked connection";
        self.write_each(what, 0, entries, NewEntry::write_change)
    }

    fn write_each(
        &mut self,
        what: &'static str,
        flags: u16,
        entries: &[NewEntry],
        write: impl Fn(&NewEntry, &mut AttrWriter),
    ) -> Result<Vec<(usize, Error)>, Error> {
        let requests = entries.iter().map(|entry| {
            let family = Family::of(&entry.original).number();
            let mut writer = AttrWriter::onto(vec![family, 0, 0, 0]);
            write(entry, &mut writer);
            encoded(&what, writer)
        });
        self.socket.request_each(&what, NEW, flags, requests)
    }

    /// Deletes an entry as listed: the same connection, not a later one of the same tuple. Gives
    /// whether it was there.
    ///
    /// # Errors
    /// As [`Socket::request`], except `ENOENT`.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, Error> {
        self.delete_tuple(&entry.original, entry.zone, Some(entry.id))
    }

    /// Deletes the entry whose first packet was of `original` in `zone` (0 where none is set), only
    /// if the kernel's `id` for it is the one given. Gives whether it was there.
    ///
    /// # Errors
    /// As [`Socket::request`], except `ENOENT`.
    pub fn delete_tuple(
        &mut self,
        original: &Tuple,
        zone: u16,
        id: Option<u32>,
    ) -> Result<bool, Error> {
        let what = format!("delete the tracked connection {original}");
        let mut writer = AttrWriter::onto(vec![Family::of(original).number(), 0, 0, 0]);
        writer.nested(TUPLE_ORIG, |w| original.write(w));
        if zone != 0 {
            writer.u16_be(ZONE, zone);
        }
        if let Some(id) = id {
            writer.u32_be(ID, id);
        }
        let request = encoded(&what, writer)?;
        match self.socket.request(&what, DELETE, 0, &request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn encoded(what: &dyn Display, writer: AttrWriter) -> Result<Vec<u8>, Error> {
    writer
        .finish()
        .map_err(|too_long| Error::malformed(what, &too_long.to_string()))
}
