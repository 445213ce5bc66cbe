//! Sockets that talk to somebody: list them, and end them.
//!
//! It never ends a socket that its caller didn't list, and takes the absence of one that should
//! end for success. Source: `linux/sock_diag.h`, `linux/inet_diag.h`.

mod entry;

pub use entry::Peered;

use std::net::{Ipv4Addr, UdpSocket};

use nix::errno::Errno;

use crate::netlink::{Error, Protocol, Socket};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`
const DESTROY: u16 = 21;

/// The network protocols of sockets (`AF_INET`, `AF_INET6`); one of IPv6 may talk IPv4.
const FAMILIES: [u8; 2] = [2, 10];

const UDP: u8 = 17;

/// The states (`net/tcp_states.h`) of a socket that somebody holds and that has a peer:
/// established, connecting, shut down on this side or the other. UDP knows the first one only.
const PEERED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8;

/// A connection to the socket monitor of the network namespace it was opened in.
#[derive(Debug)]
pub struct SockDiag {
    socket: Socket,
}

impl SockDiag {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::SockDiag)?,
        })
    }

    /// The sockets of one transport protocol (`IPPROTO_TCP` or `IPPROTO_UDP`) that have a peer and
    /// that `keep` wants.
    ///
    /// # Errors
    /// As [`Socket::dump`], with `ENOENT` where the kernel cannot list that protocol.
    pub fn peered(
        &mut self,
        protocol: u8,
        mut keep: impl FnMut(&Peered) -> bool,
    ) -> Result<Vec<Peered>, Error> {
        let what = "list sockets with a peer";
        let mut all = Vec::new();
        for family in FAMILIES {
            let request = entry::request(family, protocol, PEERED, &[0; entry::ID]);
            let found = self
                .socket
                .dump(&what, BY_FAMILY, &request, |message, found| {
                    let one = Peered::read(protocol, message.payload);
                    found.extend(one.filter(&mut keep));
                    Ok(())
                })?;
            all.extend(found);
        }
        Ok(all)
    }

    /// Ends a socket as listed, not a later one of the same addresses: its owner gets
    /// `ECONNABORTED` from the next call that waits for something, and its peer, by TCP, a reset.
    /// A UDP socket is not connected any more. Gives whether it was there.
    ///
    /// # Errors
    /// As [`Socket::request`], except `ENOENT`; `EOPNOTSUPP` where the kernel cannot
    /// (`CONFIG_INET_DIAG_DESTROY`), `EPERM` without `CAP_NET_ADMIN` over the namespace.
    pub fn end(&mut self, socket: &Peered) -> Result<bool, Error> {
        let what = format!("end the socket {socket}");
        gone_is_fine(self.socket.request(&what, DESTROY, 0, &socket.request()))
    }

    /// Whether the kernel ends UDP sockets (`CONFIG_INET_UDP_DIAG`, `CONFIG_INET_DIAG_DESTROY`):
    /// tried with one of our own.
    ///
    /// # Errors
    /// As [`Socket::request`], except for those that mean no.
    pub fn ends_udp(&mut self) -> Result<bool, Error> {
        let what = "end a UDP socket of our own";
        let failed = |error: std::io::Error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Error::socket(&what, errno)
        };
        let own = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
        let port = own.local_addr().map_err(failed)?.port();
        let request = entry::request(FAMILIES[0], UDP, u32::MAX, &entry::bound_to(port));
        match gone_is_fine(self.socket.request(&what, DESTROY, 0, &request)) {
            // It says so as well of a socket that it should have found, where it has no udp_diag.
            Ok(found) => Ok(found && own.take_error().map_err(failed)?.is_some()),
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn gone_is_fine(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        // Of TCP and of a cookie that is another one's by now.
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ESTALE)) => Ok(false),
        Err(error) => Err(error),
    }
}
