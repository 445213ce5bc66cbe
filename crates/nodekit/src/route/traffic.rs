//! The header that all messages of traffic control begin with (`struct tcmsg`,
//! linux/rtnetlink.h), and the attributes they share.

use std::fmt::Display;

use super::Error;
use crate::netlink::{AttrWriter, Attrs, Message, attrs};

/// Bytes of `struct tcmsg`.
const HEADER: usize = 20;
/// The discipline's or filter's name, and its own options (linux/rtnetlink.h).
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;

/// Where a queue discipline or filter is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// The link's index.
    pub(super) link: u32,
    /// Its own handle, major number in the upper half; 0: unknown, or the kernel's choice.
    pub(super) handle: u32,
    /// What it hangs on.
    pub(super) parent: u32,
    /// Of a filter: its priority and protocol.
    pub(super) info: u32,
}

impl Place {
    /// The beginning of a message about this place.
    pub(super) fn begin(self) -> AttrWriter {
        let mut bytes = vec![0; 4];
        for field in [self.link, self.handle, self.parent, self.info] {
            bytes.extend_from_slice(&field.to_ne_bytes());
        }
        AttrWriter::onto(bytes)
    }

    /// A message's place and attributes.
    pub(super) fn read<'a>(
        what: &dyn Display,
        message: &Message<'a>,
    ) -> Result<(Self, Attrs<'a>), Error> {
        let Some((header, rest)) = message.payload.split_first_chunk::<HEADER>() else {
            return Err(Error::malformed(what, "a message shorter than its header"));
        };
        let field = |at: usize| {
            let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
        };
        let place = Self {
            link: field(4),
            handle: field(8),
            parent: field(12),
            info: field(16),
        };
        Ok((place, attrs(rest)))
    }
}

/// The bytes of a message.
pub(super) fn finished(what: &dyn Display, writer: AttrWriter) -> Result<Vec<u8>, Error> {
    writer
        .finish()
        .map_err(|error| Error::malformed(what, &error.to_string()))
}
