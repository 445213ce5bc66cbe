//! Commits and dumps.

use nix::errno::Errno;

use super::batch::Batch;
use super::error::{Error, Failure};
use super::kernel::{GENERATION_ID, GET_GENERATION, generic_header};
use crate::netlink::{self, Protocol, Reply, Socket, attrs, messages};

#[cfg(feature = "faulty")]
use crate::faulty::Faults;

/// The most bytes of one transaction. The send buffer is raised towards it as needed; the kernel
/// copies a transaction into one buffer of its size.
pub const TRANSACTION_LIMIT: usize = 64 << 20;

/// How often a commit is sent again that the kernel was kept from doing.
const COMMIT_ATTEMPTS: u32 = 10;

/// What the kernel keeps of a socket's send buffer for itself, in bytes (`netlink_sendmsg`).
const SEND_RESERVE: usize = 32;

/// A connection to nf_tables of the network namespace it was opened in.
#[derive(Debug)]
pub struct NftSocket {
    pub(super) socket: Socket,
    /// The largest transaction that is sure to fit, in bytes.
    send_limit: usize,
    #[cfg(feature = "faulty")]
    faults: Option<Faults>,
}

impl NftSocket {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
            send_limit: 0,
            #[cfg(feature = "faulty")]
            faults: None,
        })
    }

    /// As [`NftSocket::open`], with operations that fail as `faults` says.
    ///
    /// # Errors
    /// As [`NftSocket::open`].
    #[cfg(feature = "faulty")]
    pub fn with_faults(faults: Faults) -> Result<Self, Error> {
        Ok(Self {
            faults: Some(faults),
            ..Self::open()?
        })
    }

    /// Commits a transaction: all of it is in the kernel then, or, on an error, nothing.
    ///
    /// A commit that the kernel was kept from doing (`EAGAIN`, `EINTR`, and `ERESTART` unless
    /// [`Batch::only_at`] was asked for) is sent again, a few times.
    ///
    /// # Errors
    /// [`Error::Refused`] with every refused operation; [`Error::Invalid`] and [`Error::TooLarge`]
    /// before anything is sent; [`Error::GenerationChanged`]; [`Error::Netlink`] where the exchange
    /// failed, on receiving (`ENOBUFS`) with unknown outcome.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        let bytes = batch.encoded()?;
        if batch.is_empty() {
            return Ok(());
        }
        #[cfg(feature = "faulty")]
        if let Some(faults) = &self.faults {
            faults.commit(batch)?;
        }
        self.make_room(batch.size())?;
        let end = Batch::end();
        let whole = [bytes, &end];
        let mut outcome = self.commit_once(batch, &whole);
        for _ in 1..COMMIT_ATTEMPTS {
            match &outcome {
                Err(error) if kept_from(error) => outcome = self.commit_once(batch, &whole),
                _ => break,
            }
        }
        outcome
    }

    fn commit_once(&mut self, batch: &Batch, whole: &[&[u8]]) -> Result<(), Error> {
        let what = format!(
            "commit {} operations on {} {}",
            batch.len(),
            batch.family().word(),
            batch.table()
        );
        // Answers that nobody waited for must not be taken for this transaction's.
        while self.socket.receive(&what, false)?.is_some() {}
        self.socket.send(&what, whole)?;
        // The kernel works within the send call: every answer is there by now.
        let mut answers = Answers::default();
        loop {
            match self.socket.receive(&what, false) {
                Ok(Some(length)) => answers.read(batch, self.socket.datagram(length)),
                Ok(None) => break,
                Err(error) if error.errno() == Some(Errno::ENOBUFS) => answers.lost = true,
                Err(error) => return Err(error.into()),
            }
        }
        answers.outcome(batch, &what)
    }

    /// Raises the send buffer for a transaction of `size` bytes.
    fn make_room(&mut self, size: usize) -> Result<(), Error> {
        if size > TRANSACTION_LIMIT {
            return Err(Error::TooLarge {
                size,
                limit: TRANSACTION_LIMIT,
            });
        }
        if size > self.send_limit {
            // The kernel doubles what is asked for; where it doesn't grant it, that shows here.
            let granted = self
                .socket
                .set_send_buffer(size.max(1 << 20) + SEND_RESERVE)?;
            self.send_limit = granted.saturating_sub(SEND_RESERVE);
        }
        if size > self.send_limit {
            return Err(Error::TooLarge {
                size,
                limit: self.send_limit,
            });
        }
        Ok(())
    }

    /// Waits until nobody's transaction is being committed any more: a transaction of nothing has the
    /// kernel wait for its turn (`nf_tables_valid_genid`), and leaves the generation as it is.
    pub(super) fn wait_for_commit(&mut self, what: &str) -> Result<(), Error> {
        Ok(self.socket.send(&what, &[&Batch::begin(), &Batch::end()])?)
    }

    /// The rule set's generation: a number that every commit of anyone in the network namespace
    /// raises.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        self.may_read("read the generation")?;
        self.current_generation()
    }

    pub(super) fn current_generation(&mut self) -> Result<u32, Error> {
        let what = "read the nf_tables generation";
        let mut generation = None;
        self.socket
            .get(&what, GET_GENERATION, 0, &generic_header(0, 0), |answer| {
                let payload = answer.payload.get(4..).unwrap_or_default();
                generation = attrs(payload)
                    .find(GENERATION_ID)
                    .and_then(|attr| attr.u32_be());
                Ok(())
            })?;
        generation
            .ok_or_else(|| netlink::Error::malformed(&what, "no generation in the answer").into())
    }

    /// Asks the injected faults before a read.
    #[cfg_attr(
        not(feature = "faulty"),
        expect(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "without faults nothing is asked"
        )
    )]
    pub(super) fn may_read(&self, what: &str) -> Result<(), Error> {
        #[cfg(feature = "faulty")]
        if let Some(faults) = &self.faults {
            faults.read(what)?;
        }
        #[cfg(not(feature = "faulty"))]
        let _ = what;
        Ok(())
    }
}

/// Whether the kernel would do the same transaction when asked again.
fn kept_from(error: &Error) -> bool {
    let again = |errno| matches!(errno, Errno::EAGAIN | Errno::EINTR | Errno::ERESTART);
    match error {
        Error::Refused { failures, .. } => failures.iter().any(|failure| again(failure.errno)),
        _ => false,
    }
}

/// What the kernel answered to a transaction so far.
#[derive(Debug, Default)]
struct Answers {
    failures: Vec<Failure>,
    acknowledged: bool,
    lost: bool,
}

impl Answers {
    /// Every error counts, whichever message of the transaction it answers.
    fn read(&mut self, batch: &Batch, datagram: &[u8]) {
        for message in messages(datagram) {
            let sequence = message.header.sequence;
            if !Batch::owns(sequence) {
                continue;
            }
            match message.reply() {
                Reply::Ack => self.acknowledged |= sequence == Batch::ACKNOWLEDGED,
                Reply::Error { errno, message } => {
                    let operation = batch.operation(sequence);
                    self.failures.push(Failure {
                        tag: operation.map(|known| known.tag),
                        operation: operation
                            .map_or_else(|| "commit".to_owned(), |known| known.words.to_string()),
                        errno,
                        message,
                    });
                }
                Reply::Done { .. } | Reply::Data | Reply::Noop | Reply::Malformed => {}
            }
        }
    }

    fn outcome(self, batch: &Batch, what: &str) -> Result<(), Error> {
        let Self {
            failures,
            acknowledged,
            lost,
        } = self;
        let restart = failures.iter().any(|f| f.errno == Errno::ERESTART);
        match batch.generation() {
            Some(generation) if restart => return Err(Error::GenerationChanged(generation)),
            _ => {}
        }
        if !failures.is_empty() {
            return Err(Error::Refused {
                failures,
                incomplete: lost,
            });
        }
        match (acknowledged, lost) {
            (true, false) => Ok(()),
            (_, true) => Err(netlink::Error::socket(&what, Errno::ENOBUFS).into()),
            (false, false) => Err(netlink::Error::malformed(&what, "no acknowledgement").into()),
        }
    }
}

#[cfg(test)]
mod tests;
