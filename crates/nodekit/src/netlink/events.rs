//! What the kernel tells whoever listens to a group (multicast).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::{Error, Protocol, errno, messages};

/// Bytes of the largest datagram that is read in whole: the kernel tells of several objects in one of at most
/// 32 KiB, but of a larger object in one of its own.
const DATAGRAM: usize = 64 << 10;

/// Hears what is told to groups of a protocol, in the network namespace in which it was opened.
pub struct Events {
    socket: netlink_sys::Socket,
}

/// One thing that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A message of this type.
    Kind(u16),
    /// There was no room for more, or it was too long: anything may have been told.
    Lost,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl AsFd for Events {
    /// Readable while there is something that was not taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Events {
    /// Listens from now on, in the calling thread's network namespace. `groups`: the kernel's numbers, not
    /// bits.
    ///
    /// # Errors
    /// [`Error::Socket`]: `EPROTONOSUPPORT` where the kernel has no such protocol, `EPERM` without
    /// `CAP_NET_ADMIN`, which all but route netlink want.
    pub fn open(protocol: Protocol, groups: &[u32]) -> Result<Self, Error> {
        let failed =
            |error| Error::socket(&format_args!("hear what {protocol:?} netlink tells"), error);
        let mut socket =
            netlink_sys::Socket::new(protocol.number()).map_err(|e| failed(errno(&e)))?;
        let any = netlink_sys::SocketAddr::new(0, 0);
        socket.bind(&any).map_err(|e| failed(errno(&e)))?;
        for group in groups {
            let joined = socket.add_membership(*group);
            joined.map_err(|e| failed(errno(&e)))?;
        }
        Ok(Self { socket })
    }

    /// Hands over all that was told since the last time. Waits for nothing.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn take(&self, each: &mut dyn FnMut(Told)) -> Result<(), Error> {
        let mut buffer = vec![0; DATAGRAM];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, flags) {
                Ok(length) if length > buffer.len() => each(Told::Lost),
                Ok(length) => {
                    let told = messages(buffer.get(..length).unwrap_or_default());
                    told.for_each(|message| each(Told::Kind(message.header.kind)));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => each(Told::Lost),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(Error::socket(&"hear what netlink tells", errno)),
            }
        }
    }
}
