//! Another data plane takes over from mode ebpf, by a changed file or a new start: connections that
//! were translated at interfaces go on, and so do those that were translated at sockets.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use causeway_ebpf_abi::maps;
use causeway_proxy::backend::ebpf::map_pin;
use causeway_tests::packet_bed::{Bed, POD_PORT, Seen, ask, ask_udp};
use causeway_tests::proxy_bed::{Proxy, get, wait_until};
use lb_model::Family;
use netns_lab::apiserver::Resource;
use nodekit::conntrack::{self, ConntrackSocket, Entry, Transport};
use serde_json::json;

use crate::cluster::Cluster;
use crate::node::{Node, on_a_node};
use crate::presence::hooked;
use crate::world::{at, vip};

/// For what takes milliseconds: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The node ports of the Service of each policy.
const CLUSTER: u16 = 30_001;
pub(crate) const LOCAL: u16 = 30_002;
/// The longest time that connection tracking keeps what is over, in seconds
/// (`nf_conntrack_tcp_timeout_time_wait` and others).
pub(crate) const OVER: u64 = 120;

/// A Service of both families and protocols, with this port of pod 1 behind it, and of pod 3 of
/// another node.
pub(crate) fn put(cluster: &Cluster, bed: &Bed, number: u8, policy: &str, port: u16) {
    let name = format!("s{number}");
    let ips = Family::ALL.map(|family| vip(family, number).to_string());
    let ports = ["TCP", "UDP"].map(|protocol| {
        json!({
            "name": protocol.to_lowercase(), "protocol": protocol, "port": 80,
            "nodePort": 30_000 + u16::from(number),
        })
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "NodePort", "clusterIP": ips[0], "clusterIPs": ips,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": policy,
            "sessionAffinity": "None", "ports": ports,
        },
    });
    let slices = Family::ALL.map(|family| {
        let endpoints = [(1, "node-0"), (3, "node-1")].map(|(pod, node): (usize, &str)| {
            json!({
                "addresses": [bed.pod(pod).ip(family).to_string()], "nodeName": node,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        });
        let ports = ["TCP", "UDP"].map(
            |protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port}),
        );
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{family:?}").to_lowercase(), "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": match family { Family::V4 => "IPv4", Family::V6 => "IPv6" },
            "endpoints": endpoints,
            "ports": ports,
        })
    });
    cluster.store.seed(Resource::Service, [service]).unwrap();
    cluster.store.seed(Resource::EndpointSlice, slices).unwrap();
}

/// Connections, each with what its endpoint saw of it.
struct Kept {
    streams: Vec<(TcpStream, Seen)>,
    /// Nothing is said by them while the data plane changes.
    silent: Vec<(TcpStream, Seen)>,
    flows: Vec<(UdpSocket, Seen)>,
}

impl Kept {
    fn new(node: &Node<'_>) -> Self {
        let bed = node.bed;
        let anywhere = places(bed, CLUSTER).map(|to| both_pods(bed, to));
        let here = places(bed, LOCAL).map(|to| connect(bed, to));
        for (_, seen) in &here {
            let client = bed.client.ip(Family::of(seen.client));
            assert_eq!((seen.pod, seen.client), (1, client), "the source stays");
        }
        let pod = bed.pod(2);
        let inside = Family::ALL.map(|family| {
            let call = || TcpStream::connect_timeout(&at(family, 1), PATIENCE);
            patient(node.inside(pod, call).unwrap())
        });
        let silent = [CLUSTER, LOCAL].map(|port| places(bed, port).map(|to| connect(bed, to)));
        let targets = [CLUSTER, LOCAL].map(|port| places(bed, port));
        let flows = targets.as_flattened().iter().map(|to| {
            let socket = bed.client.udp_socket(*to);
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let seen = ask_udp(&socket).unwrap();
            (socket, seen)
        });
        Self {
            flows: flows.collect(),
            streams: anywhere
                .into_iter()
                .flatten()
                .chain(here)
                .chain(inside)
                .collect(),
            silent: silent.into_iter().flatten().collect(),
        }
    }

    /// Everybody but the silent ones says something, and gets the answer of before.
    fn go_on(&mut self) {
        for (stream, seen) in &mut self.streams {
            assert_eq!(ask(stream).unwrap(), *seen);
        }
        for (socket, seen) in &self.flows {
            assert_eq!(ask_udp(socket).unwrap(), *seen);
        }
    }

    /// All connections end as they should, by a FIN from both sides.
    fn end(mut self) {
        self.streams.append(&mut self.silent);
        self.go_on();
        for (stream, _) in &mut self.streams {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        }
    }
}

/// A node port in both families.
pub(crate) fn places(bed: &Bed, port: u16) -> [SocketAddr; 2] {
    Family::ALL.map(|family| SocketAddr::new(bed.node.ip(family), port))
}

fn patient(mut stream: TcpStream) -> (TcpStream, Seen) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let seen = ask(&mut stream).unwrap();
    (stream, seen)
}

fn connect(bed: &Bed, to: SocketAddr) -> (TcpStream, Seen) {
    patient(bed.client.connect(to).unwrap())
}

/// Connections to the pod of this node and to that of the other one.
fn both_pods(bed: &Bed, to: SocketAddr) -> Vec<(TcpStream, Seen)> {
    let mut found = BTreeMap::new();
    for _ in 0..100 {
        let (stream, seen) = connect(bed, to);
        assert_ne!(seen.client, bed.client.ip(Family::of(seen.client)));
        found.entry(seen.pod).or_insert((stream, seen));
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 3]);
    found.into_values().collect()
}

/// The entries of TCP connections to node ports.
pub(crate) fn tracked(node: &Node<'_>) -> Vec<Entry> {
    let to_node_port = |entry: &Entry| {
        let Transport::Ports { destination, .. } = entry.original.transport else {
            return false;
        };
        [CLUSTER, LOCAL].contains(&destination)
    };
    let list = || {
        let mut socket = ConntrackSocket::open().unwrap();
        let families = [conntrack::Family::Ip, conntrack::Family::Ip6];
        families.map(|family| socket.list(family, Some(6), to_node_port).unwrap())
    };
    node.bed.node.netns.run(list).unwrap().concat()
}

fn serves(bed: &Bed) -> bool {
    [CLUSTER, LOCAL].iter().all(|port| {
        let mut places = places(bed, *port).into_iter();
        places.all(|to| bed.client.tcp(to).is_ok() && bed.client.udp(to).is_ok())
    })
}

/// Another data plane runs, and nothing of this one is left.
pub(crate) fn is_gone(node: &Node<'_>, mode: &str) -> bool {
    let page = ([127, 0, 0, 1], 10249).into();
    let now = get(&node.bed.node.netns, page, "/proxyMode").map(|answer| answer.2);
    now.is_ok_and(|now| now == mode)
        && !node.cell.options().pins.exists()
        && hooked(node).is_empty()
}

/// With all connections: were one refused, the log would say so instead.
pub(crate) fn has_left(node: &Node<'_>, proxy: &Proxy, mode: &str) -> bool {
    let log = proxy.log().unwrap();
    is_gone(node, mode) && log.contains("go on by connection tracking")
}

/// Another mode: by the changed file alone, or by a new start.
fn leave_for(mode: &str, restarts: bool) {
    on_a_node(|node| {
        let cluster = Cluster::new(node.bed);
        put(&cluster, node.bed, 1, "Cluster", POD_PORT);
        put(&cluster, node.bed, 2, "Local", POD_PORT);
        let config = cluster.configure("ebpf");
        let mut proxy = cluster.start(node, &[&config]);
        wait_until("node ports", PATIENCE, || serves(node.bed)).unwrap();
        let mut kept = Kept::new(node);
        assert!(!hooked(node).is_empty());
        assert_eq!(tracked(node).len(), 0, "by programs, not by the kernel");

        if restarts {
            assert!(proxy.terminate().unwrap().success());
            cluster.configure(mode);
            proxy = cluster.start(node, &[&config]);
        } else {
            cluster.configure(mode);
        }
        wait_until(mode, PATIENCE, || {
            kept.go_on();
            has_left(node, &proxy, mode)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
        kept.go_on();
        assert!(serves(node.bed));
        kept.end();
        wait_until("the end of connections", PATIENCE, || {
            let mut entries = tracked(node).into_iter();
            entries.all(|entry| entry.timeout.as_secs() <= OVER)
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", tracked(node)));
        assert!(proxy.terminate().unwrap().success());
    });
}

#[test]
fn nftables_takes_over_by_a_changed_file() {
    leave_for("nftables", false);
}

#[test]
fn iptables_takes_over_by_a_changed_file() {
    leave_for("iptables", false);
}

#[test]
fn nftables_takes_over_at_a_new_start() {
    leave_for("nftables", true);
}

#[test]
fn iptables_takes_over_at_a_new_start() {
    leave_for("iptables", true);
}

#[test]
fn connections_of_another_versions_layout_are_warned_of() {
    on_a_node(|node| {
        let cluster = Cluster::new(node.bed);
        put(&cluster, node.bed, 1, "Cluster", POD_PORT);
        put(&cluster, node.bed, 2, "Local", POD_PORT);
        let config = cluster.configure("ebpf");
        let proxy = cluster.start(node, &[&config]);
        wait_until("node ports", PATIENCE, || serves(node.bed)).unwrap();
        assert!(proxy.terminate().unwrap().success());

        let pins = node.cell.options().pins.clone();
        let tracks = map_pin(&pins, maps::TRACKS);
        fs::rename(tracks.parent().unwrap(), pins.join("connections-0")).unwrap();
        cluster.configure("nftables");
        let proxy = cluster.start(node, &[&config]);
        wait_until("no program", PATIENCE, || {
            !pins.exists() && hooked(node).is_empty()
        })
        .unwrap();
        let log = proxy.log().unwrap();
        let warned = "connections from outside that another version translated end";
        assert!(log.contains(warned), "{log}");
        assert!(log.contains("connections-0/tracks"), "{log}");
        assert!(serves(node.bed));
    });
}
