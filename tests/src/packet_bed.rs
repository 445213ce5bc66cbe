//! A node with three pods and two outside clients, each a network namespace of its own, for tests
//! that send packets through a data plane.

#![expect(clippy::unwrap_used, reason = "what a bed cannot do fails its test")]

mod server;
mod site;

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lb_model::Family;
use nodekit::netns::{NetNs, Worker};
use nodekit::route::{Address, Handle, Route, VethEnd, VethPair};
use nodekit::sysctl;
use socket2::{Domain, Socket, Type};
use std::os::fd::AsFd;

use crate::settle;
use server::Server;
pub use site::Site;

/// The port that every pod serves, TCP and UDP.
pub const POD_PORT: u16 = 8080;
/// Another port that every pod serves, TCP and UDP.
pub const OTHER_POD_PORT: u16 = 9090;
/// An answer says what it says in so many bytes.
const SHORT: usize = 64;
/// For an answer that must come: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an endpoint saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Which pod, from 1.
    pub pod: usize,
    /// On which of its ports.
    pub port: u16,
    /// The client as the pod saw it.
    pub client: IpAddr,
}

/// A namespace beside the node.
#[derive(Debug)]
pub struct Host {
    /// The namespace.
    pub netns: NetNs,
    v4: IpAddr,
    v6: IpAddr,
    /// A thread inside, by which the namespace is found as a pod's is by its processes.
    _inhabitant: Worker,
}

impl Host {
    /// Its own address; the node's is the one that its Node object says.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// A TCP connection to `to`: what the endpoint saw.
    ///
    /// # Errors
    /// Refused, or not answered.
    pub fn tcp(&self, to: SocketAddr) -> Result<Seen> {
        self.netns.run(|| tcp(to, PATIENCE)).unwrap()
    }

    /// A TCP connection to `to` that stays open.
    ///
    /// # Errors
    /// As [`Host::tcp`].
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.netns.run(|| connect(to, PATIENCE)).unwrap()
    }

    /// A UDP socket that talks to `to` only.
    ///
    /// # Panics
    /// There are no sockets left.
    pub fn udp_socket(&self, to: SocketAddr) -> UdpSocket {
        let from = self.towards(to);
        let socket = self.netns.run(|| udp_socket(from, to, PATIENCE));
        socket.unwrap().unwrap()
    }

    /// One UDP exchange with `to` from a new port.
    ///
    /// # Errors
    /// As [`Host::tcp`].
    pub fn udp(&self, to: SocketAddr) -> Result<Seen> {
        ask_udp(&self.udp_socket(to))
    }

    /// Its address that it uses for UDP towards `to`.
    pub fn towards(&self, to: SocketAddr) -> IpAddr {
        match to.ip() {
            loopback if loopback.is_loopback() => loopback,
            other => self.ip(Family::of(other)),
        }
    }
}

/// A TCP connection to `to` from the calling thread's namespace: what the endpoint saw, unless
/// nobody answers for so long.
///
/// # Errors
/// Refused, or not answered.
pub fn tcp(to: SocketAddr, patience: Duration) -> Result<Seen> {
    ask(&mut connect(to, patience)?)
}

/// One UDP exchange with `to`, in datagrams of so many bytes, from a new port of address `from` of the
/// calling thread's namespace.
///
/// # Errors
/// As [`tcp`].
pub fn udp(from: IpAddr, to: SocketAddr, patience: Duration, bytes: usize) -> Result<Seen> {
    ask_udp_with(&udp_socket(from, to, patience)?, bytes)
}

/// An ICMP echo to the address of `to` from the calling thread's namespace; who answers it is not
/// known.
///
/// # Errors
/// As [`tcp`]; an unreachable port counts as refused.
pub fn ping(to: SocketAddr, patience: Duration) -> Result<Seen> {
    let output = Command::new("ping")
        .args([
            "-n",
            "-c",
            "1",
            "-W",
            &format!("{:.1}", patience.as_secs_f32()),
        ])
        .arg(to.ip().to_string())
        .env("LC_ALL", "C")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
    Err(if output.status.success() {
        return Ok(Seen {
            pod: 0,
            port: 0,
            client: to.ip(),
        });
    } else if said.contains("port unreachable") {
        ErrorKind::ConnectionRefused.into()
    } else if said.contains("filtered") || said.contains("prohibited") {
        ErrorKind::PermissionDenied.into()
    } else {
        ErrorKind::TimedOut.into()
    })
}

fn connect(to: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    let anywhere: IpAddr = match Family::of(to.ip()) {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    with_a_new_port(|port| socket.bind(&SocketAddr::new(anywhere, port).into()))?;
    socket.connect_timeout(&to.into(), patience)?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket.into())
}

/// Calls `bind` with a port that nobody had in this process for some thousand ports. The kernel's
/// own choice may come again soon, and a node remembers for two minutes where a connection from a
/// port went, even if it was refused.
fn with_a_new_port<T>(bind: impl Fn(u16) -> Result<T>) -> Result<T> {
    const PORTS: Range<u16> = 33_000..61_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        let port = PORTS.start + u16::try_from(next).unwrap();
        match bind(port) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
}

/// A UDP socket that talks to `to` only, from a new port of address `from` of the calling thread's
/// namespace.
///
/// # Errors
/// The kernel, or who stands in for `to`, refuses.
pub fn udp_socket(from: IpAddr, to: SocketAddr, patience: Duration) -> Result<UdpSocket> {
    let socket = with_a_new_port(|port| UdpSocket::bind((from, port)))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// Asks over an open connection.
///
/// # Errors
/// As [`Host::tcp`].
pub fn ask(stream: &mut TcpStream) -> Result<Seen> {
    stream.write_all(b"?")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    seen(&answer[..length])
}

/// Asks over a connected socket.
///
/// # Errors
/// As [`Host::tcp`].
pub fn ask_udp(socket: &UdpSocket) -> Result<Seen> {
    ask_udp_with(socket, 1)
}

/// The same with a datagram of so many bytes; if they are many, the answer has as many.
///
/// # Errors
/// As [`Host::tcp`].
///
/// # Panics
/// The answer has other bytes.
pub fn ask_udp_with(socket: &UdpSocket, bytes: usize) -> Result<Seen> {
    let question: Vec<u8> = (b'!'..=b'~').cycle().take(bytes).collect();
    let mut answer = vec![0; bytes.max(SHORT)];
    // A busy machine may lose a fragment, or have one overtake another.
    let again = if bytes > SHORT { 2 } else { 0 };
    let mut exchange = || {
        socket.send(&question)?;
        socket.recv(&mut answer)
    };
    let mut outcome = exchange();
    for _ in 0..again {
        match &outcome {
            Err(error) if error.kind() == ErrorKind::WouldBlock => outcome = exchange(),
            _ => break,
        }
    }
    let length = outcome?;
    let same = answer.get(SHORT..length) == question.get(SHORT..);
    assert!(bytes <= SHORT || same, "{length} other bytes than {bytes}");
    seen(&answer[..length])
}

/// The answer to a datagram, and whom it is from.
///
/// # Errors
/// As [`Host::tcp`].
pub fn answer_udp(socket: &UdpSocket) -> Result<(Seen, SocketAddr)> {
    let mut answer = [0; SHORT];
    let (length, from) = socket.recv_from(&mut answer)?;
    Ok((seen(&answer[..length])?, from))
}

fn seen(answer: &[u8]) -> Result<Seen> {
    let text = std::str::from_utf8(answer).unwrap_or_default();
    let mut words = text.split(' ');
    let mut parse = || {
        Some(Seen {
            pod: words.next()?.parse().ok()?,
            port: words.next()?.parse().ok()?,
            client: words.next()?.parse().ok()?,
        })
    };
    parse().ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// All namespaces; gone when dropped.
#[derive(Debug)]
pub struct Bed {
    /// Its Node object says 192.0.2.1 and 2001:db8:2::1; towards the pods it has addresses of
    /// their networks.
    pub node: Host,
    /// 1, 2 and 3; the third counts as another node's.
    pub pods: Vec<Host>,
    /// In 192.0.2.0/24 and 2001:db8:2::/64.
    pub client: Host,
    /// In 198.51.100.0/24 and 2001:db8:51::/64.
    pub stranger: Host,
    _uplink: Host,
    _server: Server,
}

impl Bed {
    /// Makes everything.
    ///
    /// # Panics
    /// A namespace or a link cannot be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "nothing about it is a default")]
    pub fn new() -> Self {
        let node = NetNs::anonymous().unwrap();
        let mut links = Handle::open_in(&node).unwrap();
        links.set_up(1).unwrap();
        node.run(|| {
            set(["net", "ipv4", "ip_forward"], "1");
            set(["net", "ipv6", "conf/all/forwarding"], "1");
        })
        .unwrap();
        hurry(&node);
        let beside = |name: &str, v4: &str, v6: &str| neighbour(&node, name, v4, v6);
        let pods: Vec<Host> = (1..=3)
            .map(|n| {
                let (v4, v6) = (format!("10.244.{n}"), format!("fd00:244:{n}:"));
                beside(&format!("veth{n}"), &v4, &v6)
            })
            .collect();
        let client = beside("eth0", "192.0.2", "2001:db8:2:");
        let stranger = beside("eth1", "198.51.100", "2001:db8:51:");
        let uplink = beside("eth2", "203.0.112", "2001:db8:112:");
        let beside_node = pods.iter().chain([&client, &stranger, &uplink]);
        for netns in beside_node.map(|host| &host.netns).chain([&node]) {
            settle(netns).unwrap();
        }
        refuse_vips(&uplink);
        for gateway in [uplink.v4, uplink.v6] {
            links.add_route(&Route::default_by(gateway)).unwrap();
        }
        let server = Server::start(&pods);
        let (v4, v6) = (
            "192.0.2.1".parse().unwrap(),
            "2001:db8:2::1".parse().unwrap(),
        );
        let node = Host {
            _inhabitant: Worker::start(&node).unwrap(),
            netns: node,
            v4,
            v6,
        };
        Self {
            node,
            pods,
            client,
            stranger,
            _uplink: uplink,
            _server: server,
        }
    }

    /// Pod `n`, from 1.
    pub fn pod(&self, n: usize) -> &Host {
        &self.pods[n - 1]
    }
}

fn set(key: [&str; 3], value: &str) {
    let segments = key.iter().flat_map(|part| part.split('/'));
    sysctl::write(&sysctl::Key::new(segments).unwrap(), value).unwrap();
}

/// What is aimed at a VIP and not translated ends here, with an answer. (By rules: the kernel limits
/// how often a route without a way answers.)
fn refuse_vips(uplink: &Host) {
    const RULES: &str = "table inet vips {
        chain forward {
            type filter hook forward priority 0;
            ip daddr { 10.96.0.0/16, 203.0.113.0/24 } reject with icmp admin-prohibited
            ip6 daddr { fd00:96::/32, 2001:db8:113::/48 } reject with icmpv6 admin-prohibited
        }
    }";
    let refuse = || {
        set(["net", "ipv4", "ip_forward"], "1");
        set(["net", "ipv6", "conf/all/forwarding"], "1");
        Command::new("nft").arg(RULES).status().unwrap()
    };
    assert!(uplink.netns.run(refuse).unwrap().success());
}

/// Links to come use their addresses at once, and every refusal is told at once.
fn hurry(netns: &NetNs) {
    let at_once = || {
        set(["net", "ipv6", "conf/default/accept_dad"], "0");
        set(["net", "ipv4", "icmp_ratelimit"], "0");
        set(["net", "ipv6", "icmp/ratelimit"], "0");
    };
    netns.run(at_once).unwrap();
}

/// A host behind the node's link `name`: the node is .1, the host .2 and its default route the node.
fn neighbour(node: &NetNs, name: &str, v4: &str, v6: &str) -> Host {
    let netns = NetNs::anonymous().unwrap();
    hurry(&netns);
    let mut near = Handle::open_in(node).unwrap();
    let mut far = Handle::open_in(&netns).unwrap();
    let pair = VethPair {
        near: VethEnd::named(name),
        far: VethEnd {
            netns: Some(netns.as_fd()),
            ..VethEnd::named("eth0")
        },
        near_up: false,
        near_master: None,
    };
    near.create_veth(&pair).unwrap();
    far.set_up(1).unwrap();
    for (handle, name, last) in [(&mut near, name, 1), (&mut far, "eth0", 2)] {
        let link = handle.link_by_name(name).unwrap().index;
        handle.set_up(link).unwrap();
        for address in [format!("{v4}.{last}/24"), format!("{v6}:{last}/64")] {
            handle
                .add_address(&Address::new(link, address.parse().unwrap()))
                .unwrap();
        }
    }
    for gateway in [format!("{v4}.1"), format!("{v6}:1")] {
        far.add_route(&Route::default_by(gateway.parse().unwrap()))
            .unwrap();
    }
    let ip = |text: String| text.parse().unwrap();
    Host {
        _inhabitant: Worker::start(&netns).unwrap(),
        netns,
        v4: ip(format!("{v4}.2")),
        v6: ip(format!("{v6}:2")),
    }
}
