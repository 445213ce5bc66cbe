//! What is sent: blocking sockets, one connection at a time in each thread.

use std::io::{ErrorKind, Read, Result, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use nodekit::netns::NetNs;
use socket2::{SockRef, Socket};

/// Sends back what it gets, by TCP and UDP.
pub(crate) const ECHO: u16 = 8080;
/// Takes what it gets, by TCP.
pub(crate) const SINK: u16 = 8081;
/// A datagram that is not answered for so long is lost.
const LOST: Duration = Duration::from_millis(200);
/// Bytes of one call, where only the amount matters.
const CHUNK: usize = 128 << 10;

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Connect, one byte there and back, close.
    Connection,
    /// One byte there and back, on one connection.
    Request,
    /// One datagram there and back, from a socket that is not connected.
    Datagram,
    /// One byte, of many on one connection.
    Bulk,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::Request => "requests",
            Self::Datagram => "datagrams",
            Self::Bulk => "bulk",
        }
    }

    /// The port that serves it.
    pub(crate) fn port(self) -> u16 {
        if self == Self::Bulk { SINK } else { ECHO }
    }
}

/// What was done in a stretch of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Operations in a second of processor time, of client and server together.
    pub(crate) per_processor_second: f64,
}

/// How the load is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long a slice is.
    pub(crate) length: Duration,
    /// Clients at a time.
    pub(crate) threads: usize,
    /// The processor of clients and servers; none: any.
    pub(crate) processor: Option<usize>,
}

impl Manner {
    /// Does as many operations as fit, from the calling thread's namespace and cgroup.
    pub(crate) fn run(self, kind: Kind, to: SocketAddr) -> Result<Slice> {
        let (begin, processor) = (Instant::now(), processor_time()?);
        let done = thread::scope(|scope| {
            let client = || -> Result<f64> {
                pin(self.processor)?;
                client(kind, to, self.length)
            };
            let clients: Vec<_> = (0..self.threads).map(|_| scope.spawn(client)).collect();
            let done = clients.into_iter().map(|client| match client.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            done.sum::<Result<f64>>()
        })?;
        let used = processor_time()?.saturating_sub(processor);
        Ok(Slice {
            per_second: done / begin.elapsed().as_secs_f64(),
            per_processor_second: done / used.as_secs_f64(),
        })
    }

    /// Serves everything in a namespace, as the calling thread's cgroup.
    pub(crate) fn serve(self, netns: &NetNs) -> anyhow::Result<Server> {
        let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let (echo, sink, datagrams) = netns.run(|| -> Result<_> {
            let (echo, sink) = (TcpListener::bind(any(ECHO))?, TcpListener::bind(any(SINK))?);
            Ok((echo, sink, UdpSocket::bind(any(ECHO))?))
        })??;
        let mut server = Server::default();
        for _ in 0..self.threads {
            let own = [echo.try_clone()?, sink.try_clone()?];
            server.ends.extend(own.map(Socket::from));
            server.ends.push(datagrams.try_clone()?.into());
            let (echo, sink) = (echo.try_clone()?, sink.try_clone()?);
            let datagrams = datagrams.try_clone()?;
            server.start(self, move || accept(&echo, echo_back))?;
            server.start(self, move || accept(&sink, swallow))?;
            server.start(self, move || answer(&datagrams))?;
        }
        Ok(server)
    }
}

/// Threads that serve until this is dropped.
#[derive(Default)]
pub(crate) struct Server {
    ends: Vec<Socket>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(&mut self, manner: Manner, serve: impl FnOnce() + Send + 'static) -> Result<()> {
        let serve = move || {
            // Refused only where there is no such processor, which the clients tell.
            drop(pin(manner.processor));
            serve();
        };
        let thread = thread::Builder::new().name("server".into()).spawn(serve)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever waits for a connection or a datagram is told that there will be none; that of
        // datagrams also says that nobody is connected.
        for end in &self.ends {
            drop(end.shutdown(Shutdown::Both));
        }
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn pin(processor: Option<usize>) -> Result<()> {
    let Some(processor) = processor else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Of this process: its clients and servers, and what the kernel does for their packets.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn client(kind: Kind, to: SocketAddr, length: Duration) -> Result<f64> {
    let end = Instant::now() + length;
    match kind {
        Kind::Connection => repeat(end, 1.0, || ask(&mut TcpStream::connect(to)?)),
        Kind::Request => {
            let mut stream = TcpStream::connect(to)?;
            repeat(end, 1.0, || ask(&mut stream))
        }
        Kind::Datagram => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(LOST))?;
            repeat(end, 1.0, || ask_by_datagram(&socket, to))
        }
        Kind::Bulk => {
            let mut stream = TcpStream::connect(to)?;
            let chunk = vec![0; CHUNK];
            let bytes = f64::from(u32::try_from(CHUNK).unwrap_or(u32::MAX));
            repeat(end, bytes, || stream.write_all(&chunk))
        }
    }
}

fn repeat(end: Instant, each: f64, mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut done = 0.0;
    while Instant::now() < end {
        act()?;
        done += each;
    }
    Ok(done)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// A lost datagram costs its time, and is sent again.
fn ask_by_datagram(socket: &UdpSocket, to: SocketAddr) -> Result<()> {
    loop {
        socket.send_to(b"?", to)?;
        match socket.recv_from(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return done.map(drop),
        }
    }
}

/// One connection after the other; what happens to one is its client's to tell.
fn accept(listener: &TcpListener, serve: impl Fn(TcpStream) -> Result<()>) {
    while let Ok((stream, _)) = listener.accept() {
        drop(serve(stream));
    }
}

fn echo_back(mut stream: TcpStream) -> Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn swallow(mut stream: TcpStream) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk)? > 0 {}
    Ok(())
}

fn answer(socket: &UdpSocket) {
    // The standard library's call panics at the end, which comes from no address.
    let socket = SockRef::from(socket);
    let mut byte = [MaybeUninit::uninit()];
    while let Ok((1.., from)) = socket.recv_from(&mut byte) {
        drop(socket.send_to(b"!", &from));
    }
}
