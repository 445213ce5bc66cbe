//! What listens in the pods: says who it is and whom it sees.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use lb_model::Family;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Host, OTHER_POD_PORT, POD_PORT};

/// How long the end may take to be noticed, in milliseconds.
const LOOK: u16 = 20;

/// The servers of all pods, on one thread; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on both ports of every pod, in both families.
    pub(super) fn start(pods: &[Host]) -> Self {
        let mut sockets = Sockets {
            datagram: vec![0; usize::from(u16::MAX)],
            ..Sockets::default()
        };
        for (pod, host) in (1..).zip(pods) {
            for family in Family::ALL {
                for port in [POD_PORT, OTHER_POD_PORT] {
                    let at = SocketAddr::new(host.ip(family), port);
                    let bind = || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
                    let (listener, socket) = host.netns.run(bind).unwrap();
                    listener.set_nonblocking(true).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let name = format!("{pod} {port}");
                    sockets.listeners.push((name.clone(), listener));
                    sockets.datagrams.push((name, socket));
                }
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                sockets.wait();
                sockets.serve();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A server that panicked has failed its test already.
            let _ = thread.join();
        }
    }
}

/// Everything that may become readable, with the words of who it is.
#[derive(Default)]
struct Sockets {
    listeners: Vec<(String, TcpListener)>,
    datagrams: Vec<(String, UdpSocket)>,
    streams: Vec<(String, TcpStream)>,
    /// Room for the largest one.
    datagram: Vec<u8>,
}

impl Sockets {
    fn wait(&self) {
        let listeners = self.listeners.iter().map(|(_, socket)| socket.as_fd());
        let datagrams = self.datagrams.iter().map(|(_, socket)| socket.as_fd());
        let streams = self.streams.iter().map(|(_, socket)| socket.as_fd());
        let all = listeners.chain(datagrams).chain(streams);
        let mut all: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Interrupted or not: what is readable is found by reading.
        let _ = poll(&mut all, PollTimeout::from(LOOK));
    }

    fn serve(&mut self) {
        for (name, listener) in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                self.streams.push((name.clone(), stream));
            }
        }
        let mut question = [0; 1];
        self.streams
            .retain_mut(|(name, stream)| match stream.read(&mut question) {
                Ok(0) => false,
                Ok(_) => answer(name, stream).is_ok(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            });
        for (name, socket) in &self.datagrams {
            while let Ok((length, client)) = socket.recv_from(&mut self.datagram) {
                let said = format!("{name} {} ", client.ip()).into_bytes();
                // As many bytes as were asked with, and the same ones, if they are enough.
                let rest = self.datagram[..length]
                    .get(said.len()..)
                    .unwrap_or_default();
                // A client that left does not want its answer.
                let _ = socket.send_to(&[&said, rest].concat(), client);
            }
        }
    }
}

fn answer(name: &str, stream: &mut TcpStream) -> Result<()> {
    let client = stream.peer_addr()?.ip();
    stream.write_all(format!("{name} {client}").as_bytes())
}
