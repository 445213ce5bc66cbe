//! Connections and flows that stay open from step to step.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, UdpSocket};

use causeway_proxy::config::Mode;
use causeway_tests::packet_bed::{self, Seen};
use nodekit::Errno;

use super::{Sender, endpoint, patience};
use crate::file::{Endpoint, Expected, Transport};

/// One connection, or one UDP socket.
pub(super) struct Flow<'a> {
    sender: Sender<'a>,
    socket: Socket,
    /// Whom it reached last.
    last: Option<Endpoint>,
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl<'a> Flow<'a> {
    pub(super) fn open(sender: Sender<'a>) -> Self {
        let socket = match sender.transport {
            Transport::Udp => Socket::Udp(sender.there(|| sender.host.udp_socket(sender.to))),
            _ => Socket::Tcp(sender.there(|| sender.host.connect(sender.to)).unwrap()),
        };
        Self {
            sender,
            socket,
            last: None,
        }
    }

    fn ask(&mut self, expected: &Expected) -> io::Result<Seen> {
        let patience = Some(patience(expected));
        match &mut self.socket {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                packet_bed::ask(stream)
            }
            Socket::Udp(socket) => {
                socket.set_read_timeout(patience)?;
                match packet_bed::ask_udp_with(socket, self.sender.bytes) {
                    Err(error) if is_ended(&error) => {
                        *socket = self.sender.anew(expected)?;
                        packet_bed::ask_udp_with(socket, self.sender.bytes)
                    }
                    Err(error) if self.sender.mode == Mode::Ipvs && is_lost(&error) => {
                        packet_bed::ask_udp_with(socket, self.sender.bytes)
                    }
                    outcome => outcome,
                }
            }
        }
    }

    #[track_caller]
    pub(super) fn expects(&mut self, expected: &Expected, context: &str) {
        let context = format!("{}, {context}", self.sender);
        let outcome = self.ask(expected);
        let Expected::Answered(answered) = expected else {
            return self.sender.fails(&outcome, expected, &context);
        };
        let seen = outcome.unwrap_or_else(|error| panic!("{error}, {context}"));
        self.sender.check(&seen, answered, &context);
        let reached = endpoint(&seen);
        assert!(answered.reaches.contains(&reached), "{seen:?}, {context}");
        if answered.stays {
            assert_eq!(Some(reached), self.last, "{context}");
        }
        self.last = Some(reached);
    }
}

/// IPVS drops the packet by which it notices that a flow's destination is gone
/// (`expire_nodest_conn`), unless it has forgotten the flow by then.
fn is_lost(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

/// Mode ebpf ends sockets that are connected to an endpoint which left: their owners open new ones.
fn is_ended(error: &io::Error) -> bool {
    let ended = [Errno::ECONNABORTED, Errno::EDESTADDRREQ];
    ended
        .map(|errno| Some(errno as i32))
        .contains(&error.raw_os_error())
}
