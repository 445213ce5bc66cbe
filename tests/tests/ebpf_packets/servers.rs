//! What listens in the pods: says who it is and whom it sees.

use std::io::{ErrorKind, Write};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::bed::Host;

/// The port of all servers, TCP and UDP.
pub(crate) const PORT: u16 = 8080;
/// How often they look whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// Servers on threads of their own; they end when it is dropped.
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    pub(crate) fn start<'a>(hosts: impl IntoIterator<Item = (&'static str, &'a Host)>) -> Self {
        let mut servers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (name, host) in hosts {
            let listen = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
            let tcp = host.netns.run(listen).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let stop = Arc::clone(&servers.stop);
            let serve = move || serve_tcp(name, &tcp, &stop);
            servers.threads.push(thread::spawn(serve));
            // Each by its own address: an answer comes from where the question went.
            for address in [host.v4, host.v6] {
                let udp = host.netns.run(|| UdpSocket::bind((address, PORT)).unwrap());
                let udp = udp.unwrap();
                udp.set_read_timeout(Some(LOOK)).unwrap();
                let stop = Arc::clone(&servers.stop);
                let serve = move || serve_udp(name, &udp, &stop);
                servers.threads.push(thread::spawn(serve));
            }
        }
        servers
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn serve_tcp(name: &str, listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, from)) => {
                let from = from.ip().to_canonical();
                // A client that is gone is the test's matter.
                drop(stream.write_all(format!("{name} {from}").as_bytes()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK / 10),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

fn serve_udp(name: &str, socket: &UdpSocket, stop: &AtomicBool) {
    let mut datagram = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut datagram) {
            let seen = from.ip().to_canonical();
            drop(socket.send_to(format!("{name} {seen}").as_bytes(), from));
        }
    }
}
