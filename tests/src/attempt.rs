//! Connections that are tried again and again until there is a rule for them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Below those that the kernel gives to clients (`net.ipv4.ip_local_port_range`, from 32768 on), and
/// above those at which something listens in a test.
const PORTS: Range<u16> = 10_000..30_000;

/// A TCP connection to `to`, which need not be there yet, from a port that the kernel gives to nobody:
/// connection tracking may have seen the attempt and found no rule, and for two minutes it takes the
/// next connection from that port for the same one, so that it isn't translated either.
///
/// # Errors
/// Refused, or not answered within `patience`; the port is somebody's.
pub fn attempt(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.end.abs_diff(PORTS.start);
    let any = match to {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(any, PORTS.start + number).into())?;
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}
