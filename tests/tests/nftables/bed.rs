//! A node with three pods and two outside clients, each a network namespace of its own.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_model::Family;
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Route, RouteKind, VethEnd, VethPair};
use nodekit::sysctl;
use std::os::fd::AsFd;

/// The port that every pod serves, TCP and UDP.
pub(crate) const POD_PORT: u16 = 8080;
/// How long a packet that nobody answers is waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What an endpoint saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// Which pod, from 1.
    pub(crate) pod: usize,
    /// The client as the pod saw it.
    pub(crate) client: IpAddr,
}

/// A namespace beside the node.
pub(crate) struct Host {
    pub(crate) netns: NetNs,
    v4: IpAddr,
    v6: IpAddr,
}

impl Host {
    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// A TCP connection to `to`: what the endpoint saw.
    pub(crate) fn tcp(&self, to: SocketAddr) -> Result<Seen> {
        ask(&mut self.connect(to)?)
    }

    /// A TCP connection to `to` that stays open.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let stream = self.netns.run(connect).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// A UDP socket that talks to `to` only.
    pub(crate) fn udp_socket(&self, to: SocketAddr) -> UdpSocket {
        let ip = self.ip(Family::of(to.ip()));
        let socket = self
            .netns
            .run(|| UdpSocket::bind((ip, 0)))
            .unwrap()
            .unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// One UDP exchange with `to` from a new port.
    pub(crate) fn udp(&self, to: SocketAddr) -> Result<Seen> {
        ask_udp(&self.udp_socket(to))
    }
}

/// Asks over an open connection.
pub(crate) fn ask(stream: &mut TcpStream) -> Result<Seen> {
    stream.write_all(b"?")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    seen(&answer[..length])
}

/// Asks over a connected socket.
pub(crate) fn ask_udp(socket: &UdpSocket) -> Result<Seen> {
    socket.send(b"?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    seen(&answer[..length])
}

fn seen(answer: &[u8]) -> Result<Seen> {
    let text = std::str::from_utf8(answer).unwrap_or_default();
    let parsed = text
        .split_once(' ')
        .and_then(|(pod, ip)| Some((pod.parse().ok()?, ip.parse().ok()?)));
    let (pod, client) = parsed.ok_or(ErrorKind::UnexpectedEof)?;
    Ok(Seen { pod, client })
}

/// All namespaces; gone when dropped.
pub(crate) struct Bed {
    pub(crate) node: Host,
    /// 1, 2 and 3; the third counts as another node's.
    pub(crate) pods: Vec<Host>,
    /// In 192.0.2.0/24 and 2001:db8:2::/64.
    pub(crate) client: Host,
    /// In 198.51.100.0/24 and 2001:db8:51::/64.
    pub(crate) stranger: Host,
    _uplink: Host,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

impl Bed {
    pub(crate) fn new() -> Self {
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
        refuse_vips(&uplink);
        for gateway in [uplink.v4, uplink.v6] {
            links.add_route(&Route::default_by(gateway)).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut servers = Vec::new();
        for (pod, host) in (1..).zip(&pods) {
            for family in Family::ALL {
                servers.extend(serve(pod, host, family, &stop));
            }
        }
        let (v4, v6) = (
            "192.0.2.1".parse().unwrap(),
            "2001:db8:2::1".parse().unwrap(),
        );
        let node = Host {
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
            stop,
            servers,
        }
    }

    pub(crate) fn pod(&self, n: usize) -> &Host {
        &self.pods[n - 1]
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            // A server that panicked has failed its test already.
            let _ = server.join();
        }
    }
}

fn set(key: [&str; 3], value: &str) {
    let segments = key.iter().flat_map(|part| part.split('/'));
    sysctl::write(&sysctl::Key::new(segments).unwrap(), value).unwrap();
}

/// What is aimed at a VIP and not translated ends here, with an answer.
fn refuse_vips(uplink: &Host) {
    let forward = || {
        set(["net", "ipv4", "ip_forward"], "1");
        set(["net", "ipv6", "conf/all/forwarding"], "1");
    };
    uplink.netns.run(forward).unwrap();
    let mut routes = Handle::open_in(&uplink.netns).unwrap();
    for vips in ["10.96.0.0/16", "fd00:96::/32"] {
        let route = Route {
            kind: RouteKind::Prohibit,
            ..Route::to(vips.parse().unwrap())
        };
        routes.add_route(&route).unwrap();
    }
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
        netns,
        v4: ip(format!("{v4}.2")),
        v6: ip(format!("{v6}:2")),
    }
}

/// TCP and UDP servers of one pod that say who they are and whom they see.
fn serve(pod: usize, host: &Host, family: Family, stop: &Arc<AtomicBool>) -> [JoinHandle<()>; 2] {
    let at = SocketAddr::new(host.ip(family), POD_PORT);
    let bind = || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
    let (listener, socket) = host.netns.run(bind).unwrap();
    let (tcp_stop, udp_stop) = (Arc::clone(stop), Arc::clone(stop));
    let tcp = thread::spawn(move || serve_tcp(pod, &listener, &tcp_stop));
    let udp = thread::spawn(move || serve_udp(pod, &socket, &udp_stop));
    [tcp, udp]
}

fn serve_tcp(pod: usize, listener: &TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    let mut streams: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            streams.push(stream);
        }
        streams.retain_mut(|stream| {
            let mut question = [0; 1];
            match stream.read(&mut question) {
                Ok(0) => false,
                Ok(_) => answer(pod, stream).is_ok(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
        thread::sleep(Duration::from_millis(1));
    }
}

fn answer(pod: usize, stream: &mut TcpStream) -> Result<()> {
    let client = stream.peer_addr()?.ip();
    stream.write_all(format!("{pod} {client}").as_bytes())
}

fn serve_udp(pod: usize, socket: &UdpSocket, stop: &AtomicBool) {
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut question = [0; 1];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, client)) = socket.recv_from(&mut question) {
            // A client that left does not want its answer.
            let _ = socket.send_to(format!("{pod} {}", client.ip()).as_bytes(), client);
        }
    }
}
