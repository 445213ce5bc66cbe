//! A small blocking netlink socket: one request at a time, every answer checked.
//!
//! It never guesses an outcome: a request succeeds only with the kernel's own acknowledgement for
//! that very sequence number, an interrupted dump is taken again and never handed out half, and an
//! error carries the kernel's own words where it gave any (`NETLINK_EXT_ACK`).
//!
//! A socket belongs to the network namespace its thread was in when it was opened, whatever that
//! thread does later. Constants and layouts: `linux/netlink.h`.

mod attr;
mod error;
mod events;
mod generic;
mod message;
mod typed;

#[cfg(test)]
pub(crate) use attr::anything;
pub use attr::{Attr, AttrTooLong, AttrWriter, Attrs, attrs};
pub use error::Error;
pub use events::{Events, Told};
pub use generic::generic_request;
pub use message::{HEADER_LEN, Header, Message, Messages, Reply, messages, push_message};
pub use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_EXCL,
    NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};

use std::fmt::Display;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, sendmsg, setsockopt, sockopt};

/// How often an interrupted dump is taken again before [`Error::Interrupted`].
pub const DUMP_ATTEMPTS: u32 = 20;

/// The receive buffer asked for, in bytes; the kernel doubles it. Tens of thousands of
/// acknowledgements of one transaction must fit. Route netlink has no transactions.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The largest datagram taken from the kernel, in bytes. The kernel fills a dump's datagrams up to
/// 32 KiB, a little more where one object needs it.
const DATAGRAM: usize = 128 << 10;

/// How many requests of [`Socket::request_each`] go into a datagram: more would gain little, and the
/// send buffer is some hundred kilobytes unless it was raised.
const TOGETHER: usize = 128;

/// The netlink protocols used here (`linux/netlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `NETLINK_ROUTE`: links, addresses, routes, neighbours.
    Route,
    /// `NETLINK_NETFILTER`: nftables and conntrack.
    Netfilter,
    /// `NETLINK_XFRM`: IPsec.
    Xfrm,
    /// `NETLINK_SOCK_DIAG`: sockets.
    SockDiag,
    /// `NETLINK_GENERIC`: families found by name.
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Self::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
            Self::Xfrm => netlink_sys::protocols::NETLINK_XFRM,
            Self::SockDiag => netlink_sys::protocols::NETLINK_SOCK_DIAG,
            Self::Generic => netlink_sys::protocols::NETLINK_GENERIC,
        }
    }
}

/// A blocking netlink socket, connected to the kernel and to nobody else.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] where the kernel doesn't know the protocol (`EPROTONOSUPPORT`) or a limit
    /// is reached (`EMFILE`, `ENOMEM`).
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let failed =
            |error| Error::socket(&format_args!("open a {protocol:?} netlink socket"), error);
        let socket = netlink_sys::Socket::new(protocol.number()).map_err(|e| failed(errno(&e)))?;
        // Connecting binds, too. A connected netlink socket takes datagrams from its peer only:
        // no other process can slip an answer in.
        let kernel = netlink_sys::SocketAddr::new(0, 0);
        socket.connect(&kernel).map_err(|e| failed(errno(&e)))?;
        socket.set_ext_ack(true).map_err(|e| failed(errno(&e)))?;
        // Errors then echo the failed message's header, not its up to 64 KiB of payload.
        socket.set_cap_ack(true).map_err(|e| failed(errno(&e)))?;
        if protocol == Protocol::Route {
            // The kernel then filters dumps by what the request says, and refuses what it can't.
            socket
                .set_netlink_get_strict_chk(true)
                .map_err(|e| failed(errno(&e)))?;
        } else if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            // Without CAP_NET_ADMIN the plain option gives what net.core.rmem_max permits.
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(failed)?;
        }
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Sends one message and waits for its acknowledgement.
    ///
    /// `what` describes the operation in errors, `kind` is the message's type, `payload` all that
    /// follows the netlink header. `NLM_F_REQUEST | NLM_F_ACK` are added to `flags`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the kernel's errno and words; the other variants where the exchange
    /// itself failed.
    pub fn request(
        &mut self,
        what: &dyn Display,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<(), Error> {
        self.get(what, kind, flags, payload, |_| Ok(()))
    }

    /// Sends many messages of one type, each of which the kernel does or refuses by itself, without
    /// waiting for one after the other. Gives those that it refused, by their place, each with its
    /// reason. The payloads are written as they are needed.
    ///
    /// # Errors
    /// The exchange itself failed, or a payload is an error: some may be done.
    pub fn request_each(
        &mut self,
        what: &dyn Display,
        kind: u16,
        flags: u16,
        payloads: impl Iterator<Item = Result<Vec<u8>, Error>>,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let mut refused = Vec::new();
        let mut payloads = payloads.peekable();
        let mut place = 0;
        while payloads.peek().is_some() {
            let (mut bytes, mut sequences) = (Vec::new(), Vec::with_capacity(TOGETHER));
            while sequences.len() < TOGETHER
                && let Some(payload) = payloads.next().transpose()?
            {
                // A refusal is told in any case; that the last one was done says that all were seen.
                let last = sequences.len() + 1 == TOGETHER || payloads.peek().is_none();
                let flags = flags | NLM_F_REQUEST | if last { NLM_F_ACK } else { 0 };
                let sequence = self.next_sequence();
                push_message(&mut bytes, kind, flags, sequence, &payload);
                sequences.push(sequence);
            }
            self.send(what, &[&bytes])?;
            self.refusals(what, &sequences, |index, error| {
                refused.push((place + index, error));
            })?;
            place += sequences.len();
        }
        Ok(refused)
    }

    /// Takes the answers to these messages, of which the last one asks for one.
    fn refusals(
        &mut self,
        what: &dyn Display,
        sequences: &[u32],
        mut refused: impl FnMut(usize, Error),
    ) -> Result<(), Error> {
        loop {
            let length = self.receive(what, true)?.unwrap_or_default();
            for message in messages(&self.buffer[..length]) {
                let sequence = message.header.sequence;
                let Some(index) = sequences.iter().position(|one| *one == sequence) else {
                    continue;
                };
                match message.reply() {
                    Reply::Ack => {}
                    Reply::Error { errno, message } => {
                        refused(index, Error::kernel(what, errno, message));
                    }
                    Reply::Data | Reply::Noop => continue,
                    Reply::Done { .. } => return Err(Error::malformed(what, "DONE for a request")),
                    Reply::Malformed => return Err(Error::malformed(what, "a cut message")),
                }
                if index + 1 == sequences.len() {
                    return Ok(());
                }
            }
        }
    }

    /// As [`Socket::request`], handing every message that the kernel answers before its
    /// acknowledgement to `answer`.
    ///
    /// # Errors
    /// As [`Socket::request`], and whatever `answer` returns.
    pub fn get(
        &mut self,
        what: &dyn Display,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut answer: impl FnMut(&Message<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let sequence = self.send_one(what, kind, flags | NLM_F_REQUEST | NLM_F_ACK, payload)?;
        loop {
            let length = self.receive(what, true)?.unwrap_or_default();
            for message in messages(&self.buffer[..length]) {
                if message.header.sequence != sequence {
                    continue;
                }
                match message.reply() {
                    Reply::Ack => return Ok(()),
                    Reply::Error { errno, message } => {
                        return Err(Error::kernel(what, errno, message));
                    }
                    Reply::Data => answer(&message)?,
                    // The end of a dump isn't an acknowledgement of anything.
                    Reply::Done { .. } => return Err(Error::malformed(what, "DONE for a request")),
                    Reply::Noop => {}
                    Reply::Malformed => return Err(Error::malformed(what, "a cut message")),
                }
            }
        }
    }

    /// Asks for one object, whose answer is the acknowledgement: one datagram less to take than
    /// with [`Socket::get`].
    ///
    /// # Errors
    /// As [`Socket::get`].
    pub fn get_one<T>(
        &mut self,
        what: &dyn Display,
        kind: u16,
        payload: &[u8],
        read: impl FnOnce(&Message<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let sequence = self.send_one(what, kind, NLM_F_REQUEST, payload)?;
        loop {
            let length = self.receive(what, true)?.unwrap_or_default();
            for message in messages(&self.buffer[..length]) {
                if message.header.sequence != sequence {
                    continue;
                }
                match message.reply() {
                    Reply::Data => return read(&message),
                    Reply::Error { errno, message } => {
                        return Err(Error::kernel(what, errno, message));
                    }
                    Reply::Noop => {}
                    Reply::Ack | Reply::Done { .. } => {
                        return Err(Error::malformed(
                            what,
                            "an acknowledgement without an object",
                        ));
                    }
                    Reply::Malformed => return Err(Error::malformed(what, "a cut message")),
                }
            }
        }
    }

    /// Dumps: `parse` is called with each message of the dump and pushes what it finds.
    ///
    /// A dump that the kernel marks as interrupted (`NLM_F_DUMP_INTR`: the objects changed
    /// meanwhile, so that some may be missing or twice) is thrown away and taken again, up to
    /// [`DUMP_ATTEMPTS`] times; so is one that overran the receive buffer (`ENOBUFS`).
    ///
    /// # Errors
    /// [`Error::Interrupted`] when every attempt was; [`Error::Kernel`] with the kernel's errno;
    /// whatever `parse` returns.
    pub fn dump<T>(
        &mut self,
        what: &dyn Display,
        kind: u16,
        payload: &[u8],
        mut parse: impl FnMut(&Message<'_>, &mut Vec<T>) -> Result<(), Error>,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            match self.dump_once(what, kind, payload, &mut |m| parse(m, &mut found)) {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                // nf_tables ends an inconsistent dump with EINTR; a lost datagram can't be asked
                // for again.
                Err(e) if matches!(e.errno(), Some(Errno::EINTR | Errno::ENOBUFS)) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Interrupted {
            operation: what.to_string(),
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// One attempt at a dump; `false` when it was interrupted.
    fn dump_once(
        &mut self,
        what: &dyn Display,
        kind: u16,
        payload: &[u8],
        each: &mut dyn FnMut(&Message<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let sequence = self.send_one(what, kind, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
        let mut whole = true;
        // The first failure of `each`; the rest of the dump is still read, so that the socket is
        // ready for the next request.
        let mut failed = None;
        loop {
            let length = self.receive(what, true)?.unwrap_or_default();
            for message in messages(&self.buffer[..length]) {
                if message.header.sequence != sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.reply() {
                    Reply::Data if whole && failed.is_none() => failed = each(&message).err(),
                    Reply::Data | Reply::Noop => {}
                    Reply::Done { errno: None, .. } | Reply::Ack => {
                        return failed.map_or(Ok(whole), Err);
                    }
                    Reply::Done {
                        errno: Some(errno),
                        message,
                    }
                    | Reply::Error { errno, message } => {
                        return Err(Error::kernel(what, errno, message));
                    }
                    Reply::Malformed => return Err(Error::malformed(what, "a cut message")),
                }
            }
        }
    }

    /// A sequence number for the next message; never 0, which the kernel uses for notifications.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    fn send_one(
        &mut self,
        what: &dyn Display,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<u32, Error> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        push_message(&mut bytes, kind, flags, sequence, payload);
        self.send(what, &[&bytes])?;
        Ok(sequence)
    }

    /// Sends bytes that together are whole netlink messages, as one datagram.
    ///
    /// # Errors
    /// [`Error::Socket`]; `EMSGSIZE` when they exceed the send buffer
    /// ([`Socket::set_send_buffer`]).
    pub fn send(&mut self, what: &dyn Display, parts: &[&[u8]]) -> Result<(), Error> {
        let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        loop {
            let fd = self.socket.as_raw_fd();
            match sendmsg::<()>(fd, &parts, &[], MsgFlags::empty(), None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::socket(what, errno)),
            }
        }
    }

    /// Raises the send buffer so that one datagram of `bytes` fits; gives what was granted.
    ///
    /// # Errors
    /// [`Error::Socket`] when the kernel refuses both `SO_SNDBUFFORCE` and `SO_SNDBUF`.
    pub fn set_send_buffer(&mut self, bytes: usize) -> Result<usize, Error> {
        let failed = |errno| Error::socket(&"set the send buffer", errno);
        if setsockopt(&self.socket, sockopt::SndBufForce, &bytes).is_err() {
            setsockopt(&self.socket, sockopt::SndBuf, &bytes).map_err(failed)?;
        }
        nix::sys::socket::getsockopt(&self.socket, sockopt::SndBuf).map_err(failed)
    }

    /// Takes the next datagram; `None` when `wait` is false and there is none. Its bytes are
    /// [`Socket::datagram`].
    ///
    /// # Errors
    /// [`Error::Socket`]: `ENOBUFS` when the kernel had to drop answers.
    pub fn receive(&mut self, what: &dyn Display, wait: bool) -> Result<Option<usize>, Error> {
        let mut flags = MsgFlags::MSG_TRUNC;
        if !wait {
            flags |= MsgFlags::MSG_DONTWAIT;
        }
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
                Ok(length) if length > self.buffer.len() => {
                    return Err(Error::malformed(what, "a datagram above 128 KiB"));
                }
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !wait => return Ok(None),
                Err(errno) => return Err(Error::socket(what, errno)),
            }
        }
    }

    /// The first `length` bytes of the datagram that [`Socket::receive`] took last.
    #[must_use]
    pub fn datagram(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or_default()
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
