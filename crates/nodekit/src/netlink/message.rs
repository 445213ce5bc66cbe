//! Netlink messages inside a datagram, and what the kernel's answers among them mean.

use nix::errno::Errno;

use super::attrs;
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN};

/// Bytes of a netlink header (`struct nlmsghdr`).
pub const HEADER_LEN: usize = 16;

/// An error message echoes the failed message's header only (`NLM_F_CAPPED`).
const CAPPED: u16 = 0x100;
/// An error message carries attributes (`NLM_F_ACK_TLVS`).
const ACK_TLVS: u16 = 0x200;
/// The kernel's words (`NLMSGERR_ATTR_MSG`).
const ATTR_MSG: u16 = 1;

/// A netlink header as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message's type.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The sequence number of the request it answers.
    pub sequence: u32,
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// All that follows the header, without padding.
    pub payload: &'a [u8],
}

/// What a message from the kernel means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The request was done: an error message that says 0.
    Ack,
    /// The request failed.
    Error {
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's words, where it gave any.
        message: Option<String>,
    },
    /// The end of a dump: no acknowledgement of anything.
    Done {
        /// An error that ended the dump.
        errno: Option<Errno>,
        /// The kernel's words, where it gave any.
        message: Option<String>,
    },
    /// An object of the family.
    Data,
    /// Nothing.
    Noop,
    /// A message too short for its kind.
    Malformed,
}

impl Message<'_> {
    /// Says what the message means.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self.header.kind {
            NLMSG_ERROR => match self.code() {
                None => Reply::Malformed,
                Some(0) => Reply::Ack,
                Some(code) => Reply::Error {
                    errno: named(code),
                    message: self.error_words(),
                },
            },
            NLMSG_DONE => match self.code() {
                None | Some(0) => Reply::Done {
                    errno: None,
                    message: None,
                },
                Some(code) => Reply::Done {
                    errno: Some(named(code)),
                    message: self.words_at(4),
                },
            },
            NLMSG_NOOP | NLMSG_OVERRUN => Reply::Noop,
            _ => Reply::Data,
        }
    }

    fn code(&self) -> Option<i32> {
        self.payload
            .first_chunk()
            .map(|bytes| i32::from_ne_bytes(*bytes))
    }

    fn error_words(&self) -> Option<String> {
        let echoed: [u8; 4] = *self.payload.get(4..)?.first_chunk()?;
        let echoed = match self.header.flags & CAPPED {
            0 => usize::try_from(u32::from_ne_bytes(echoed)).ok()?,
            _ => HEADER_LEN,
        };
        self.words_at(echoed.checked_next_multiple_of(4)?.checked_add(4)?)
    }

    fn words_at(&self, offset: usize) -> Option<String> {
        if self.header.flags & ACK_TLVS == 0 {
            return None;
        }
        let attr = attrs(self.payload.get(offset..)?).find(ATTR_MSG)?;
        attr.text().map(str::to_owned)
    }
}

fn named(code: i32) -> Errno {
    Errno::from_raw(code.saturating_neg())
}

/// Reads the messages of a datagram. Reading ends at the first one whose length can't be.
#[must_use]
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// The messages of a datagram, in order.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER_LEN] = self.rest.first_chunk()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let payload = self.rest.get(HEADER_LEN..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        let header = Header {
            kind: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
            sequence: u32::from_ne_bytes([i, j, k, l]),
        };
        Some(Message { header, payload })
    }
}

/// Appends a whole message to `out`, padded to 4 bytes.
///
/// A payload that can't be said in the header's `u32` length becomes a message the kernel refuses;
/// no send buffer is that large.
pub fn push_message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = u32::try_from(HEADER_LEN + payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::AttrWriter;
    use proptest::prelude::*;

    fn datagram(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_message(&mut bytes, kind, flags, 7, payload);
        bytes
    }

    fn reply(bytes: &[u8]) -> Reply {
        messages(bytes).next().unwrap().reply()
    }

    #[test]
    fn an_error_message_that_says_zero_is_the_only_acknowledgement() {
        let ack = datagram(NLMSG_ERROR, CAPPED, &[0; 20]);
        assert_eq!(reply(&ack), Reply::Ack);
        let done = datagram(NLMSG_DONE, 0, &[0; 4]);
        assert_eq!(
            reply(&done),
            Reply::Done {
                errno: None,
                message: None
            }
        );
        assert_eq!(reply(&datagram(NLMSG_ERROR, 0, &[])), Reply::Malformed);
    }

    #[test]
    fn the_kernels_words_are_read_from_capped_and_whole_errors() {
        let mut words = AttrWriter::default();
        words.string(ATTR_MSG, "no such thing");
        let words = words.finish().unwrap();
        let expected = Reply::Error {
            errno: Errno::ENOENT,
            message: Some("no such thing".into()),
        };
        let failed = datagram(0x1234, 0, &[1, 2, 3, 4, 5]);
        let code = (-2i32).to_ne_bytes();
        let capped = [&code[..], &failed[..HEADER_LEN], &words].concat();
        assert_eq!(
            reply(&datagram(NLMSG_ERROR, CAPPED | ACK_TLVS, &capped)),
            expected
        );
        let whole = [&code[..], &failed, &words].concat();
        assert_eq!(reply(&datagram(NLMSG_ERROR, ACK_TLVS, &whole)), expected);
    }

    #[test]
    fn several_messages_of_a_datagram_are_read_in_order() {
        let mut bytes = datagram(20, 2, &[1, 2, 3]);
        bytes.extend(datagram(21, 2, &[]));
        let read: Vec<_> = messages(&bytes)
            .map(|m| (m.header.kind, m.payload.to_vec()))
            .collect();
        assert_eq!(read, [(20, vec![1, 2, 3]), (21, vec![])]);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u16..5) {
            for message in messages(&bytes) {
                let _ = message.reply();
            }
            for flags in [0, CAPPED, ACK_TLVS, CAPPED | ACK_TLVS] {
                let _ = reply(&datagram(kind, flags, &bytes));
            }
        }
    }
}
