//! Pods with something that listens, and who reaches it.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nodekit::netns::NetNs;
use nodekit::nft::{Element, Family, NftSocket};
use nodekit::sysctl::{self, Key};
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, Pod, SILENCE};

/// The container port.
pub(super) const PORT: u16 = 80;

/// The sets of host ports.
const SETS: [&str; 6] = [
    "host-ports",
    "host-ports-of-address",
    "host-port-targets",
    "host-port-targets-of-address",
    "host-port-pods",
    "host-port-connections",
];

/// A pod that listens, by TCP and UDP, in both families.
pub(super) struct Served {
    pub(super) pod: Pod,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Served {
    pub(super) fn new(id: &str) -> Self {
        let pod = Pod::new(id);
        let any: IpAddr = "::".parse().unwrap();
        let bind = || {
            (
                TcpListener::bind((any, PORT)).unwrap(),
                UdpSocket::bind((any, PORT)).unwrap(),
            )
        };
        let (tcp, udp) = pod.netns.run(bind).unwrap();
        Self { pod, tcp, udp }
    }

    /// Whom the pod sees when `from` connects to `to`; `None` where nothing comes of it.
    pub(super) fn by_tcp(&self, from: &NetNs, to: &str) -> Option<IpAddr> {
        self.connect(from, to, PATIENCE)
    }

    /// That nobody comes through.
    pub(super) fn is_closed(&self, from: &NetNs, to: &str) -> bool {
        self.connect(from, to, SILENCE).is_none()
    }

    fn connect(&self, from: &NetNs, to: &str, patience: Duration) -> Option<IpAddr> {
        let to: SocketAddr = to.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, patience);
        // The kernel answers for the listener; whose it is shows in accepting.
        let stream = from.run(connect).unwrap();
        let connected = stream.is_ok();
        // The listener hears of it with the handshake's last segment, which another processor may
        // still have in hand when `connect` returns.
        let patience = if connected { patience } else { Duration::ZERO };
        let accepted = self.accept(patience);
        assert!(connected || accepted.is_none(), "half a connection to {to}");
        accepted
    }

    /// Who has come to the pod, or comes within this time.
    fn accept(&self, patience: Duration) -> Option<IpAddr> {
        let mut listener = [PollFd::new(self.tcp.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap();
        if poll(&mut listener, patience).unwrap() == 0 {
            return None;
        }
        let (_, peer) = self.tcp.accept().unwrap();
        Some(peer.ip().to_canonical())
    }

    /// Whom the pod sees when `client` sends to `to`, if the answer comes back.
    pub(super) fn by_udp(&self, client: &UdpSocket, to: &str) -> Option<IpAddr> {
        let to: SocketAddr = to.parse().unwrap();
        let wait = Some(PATIENCE);
        self.udp.set_read_timeout(wait).unwrap();
        client.set_read_timeout(wait).unwrap();
        client.send_to(b"?", to).ok()?;
        let mut buffer = [0; 8];
        let (_, peer) = self.udp.recv_from(&mut buffer).ok()?;
        self.udp.send_to(b"!", peer).unwrap();
        // An answer from elsewhere than asked is none.
        let (_, answering) = client.recv_from(&mut buffer).ok()?;
        assert_eq!(answering, to);
        Some(peer.ip().to_canonical())
    }
}

/// A client of UDP in a namespace.
pub(super) fn client(of: &NetNs, ipv4: bool) -> UdpSocket {
    let any: IpAddr = if ipv4 { "0.0.0.0" } else { "::" }.parse().unwrap();
    of.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap()
}

/// Host port 8080 to the pods' port, of TCP and UDP.
pub(super) fn both_protocols() -> Value {
    json!([
        {"hostPort": 8080, "containerPort": PORT, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": PORT, "protocol": "udp"},
    ])
}

/// A network of the combined type, in both families, with these host ports and further keys.
pub(super) fn network(node: &Node, ports: &Value, more: &Value) -> Value {
    let mut config = node.config(&["10.1.0.0/24", "fd01::/64"], more);
    config["runtimeConfig"] = json!({"portMappings": ports});
    config
}

/// Whether the bridge hands its frames to the hooks of IP (br_netfilter), as nodes of Kubernetes
/// often have it.
pub(super) fn bridge_calls(node: &Node, on: bool) {
    let set = |name: &str| {
        let key: Key = format!("net/bridge/bridge-nf-call-{name}").parse().unwrap();
        sysctl::ensure(&key, if on { "1" } else { "0" }).unwrap();
    };
    let set = || ["iptables", "ip6tables"].iter().for_each(|name| set(name));
    node.netns.run(set).unwrap();
}

/// All elements of host ports, of both families.
pub(super) fn elements(node: &Node) -> Vec<Element> {
    let read = || {
        let mut nft = NftSocket::open().unwrap();
        let mut all = Vec::new();
        for family in [Family::Ip, Family::Ip6] {
            for set in SETS {
                all.extend(
                    nft.elements(family, "causeway-cni", set)
                        .unwrap_or_default(),
                );
            }
        }
        all
    };
    node.netns.run(read).unwrap()
}

/// The number of commits so far.
pub(super) fn generation(node: &Node) -> u32 {
    let read = || NftSocket::open().unwrap().generation().unwrap();
    node.netns.run(read).unwrap()
}

/// Runs nft(8) on the node and gives what it prints.
pub(super) fn nft(node: &Node, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new("nft");
    command.args(arguments);
    let output = node.netns.run(|| command.output().unwrap()).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
