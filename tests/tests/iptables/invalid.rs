//! Packets that connection tracking finds invalid, and what is counted.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use causeway_proxy::backend::{DataPlane, IptablesBackend};
use causeway_tests::packet_bed::{Bed, Host, POD_PORT, ask, tcp};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use lb_plan::iptables::Counter;
use nodekit::faulty::Faults;
use nodekit::nfacct::Counters;
use nodekit::sysctl;
use nodekit::xtables::Variant;
use socket2::{Domain, Protocol, Socket, Type};

use crate::proxy::{cleanup, each_variant, rules};
use crate::world::{Proxy, World, at, node_port, node_port_service};

const PATIENCE: Duration = Duration::from_secs(60);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The parts of a TCP header that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    from: u16,
    to: u16,
    sequence: u32,
    acknowledges: u32,
    flags: u8,
}

impl Segment {
    /// With the checksum that its way demands.
    fn bytes(self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledges.to_be_bytes());
        // Five words of header, a window, no checksum yet, nothing urgent.
        bytes.extend([5 << 4, self.flags, 0x10, 0, 0, 0, 0, 0]);
        let mut summed = bytes.clone();
        for ip in [source, destination] {
            match ip {
                IpAddr::V4(ip) => summed.extend(ip.octets()),
                IpAddr::V6(ip) => summed.extend(ip.octets()),
            }
        }
        summed.extend([0, 6, 0, 20]);
        let words = summed.chunks(2);
        let words = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = !u16::try_from(sum).unwrap();
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Out of what a raw socket of `family` gives.
    fn read(family: Family, packet: &[u8]) -> Self {
        let header = match family {
            Family::V4 => usize::from(packet[0] & 15) * 4,
            Family::V6 => 0,
        };
        let bytes = &packet[header..];
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from(short(at)) << 16 | u32::from(short(at + 2));
        Self {
            from: short(0),
            to: short(2),
            sequence: long(4),
            acknowledges: long(8),
            flags: bytes[13],
        }
    }
}

/// Takes and sends TCP segments past the kernel's own TCP.
struct Raw {
    socket: Socket,
    family: Family,
    own: IpAddr,
}

impl Raw {
    fn of(host: &Host, family: Family) -> Self {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let open = || Socket::new(domain, Type::RAW, Some(Protocol::TCP));
        let socket = host.netns.run(open).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            family,
            own: host.ip(family),
        }
    }

    fn send(&self, to: IpAddr, segment: Segment) {
        let address = SocketAddr::new(to, 0).into();
        let bytes = segment.bytes(self.own, to);
        self.socket.send_to(&bytes, &address).unwrap();
    }

    /// Every segment that came since.
    fn take(&self) -> Vec<Segment> {
        let mut taken = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => taken.push(Segment::read(self.family, &buffer[..length])),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    return taken;
                }
            }
        }
    }
}

/// What the node counted.
fn counted(bed: &Bed, counter: Counter) -> Option<u64> {
    let read = || Counters::open().unwrap().read(counter.name()).unwrap();
    let count = bed.node.netns.run(read).unwrap();
    count.map(|count| count.packets)
}

/// A pod's answers that belong to no connection any more, or never did: what becomes of them.
struct Strays<'a> {
    bed: &'a Bed,
    family: Family,
    client: Raw,
    server: Raw,
    /// Far beyond the window of a connection from the client to a Service.
    late: Segment,
    /// The same at the client, if it is translated.
    translated: Segment,
    /// Of no connection.
    lost: Segment,
}

impl<'a> Strays<'a> {
    /// Over a connection that lives on with `stream`.
    fn of(bed: &'a Bed, family: Family) -> (Self, std::net::TcpStream) {
        let (client, server) = (Raw::of(bed.pod(2), family), Raw::of(bed.pod(1), family));
        let stream = bed.pod(2).connect(at(family, 1)).unwrap();
        let port = stream.local_addr().unwrap().port();
        let heard = client.take().into_iter();
        let mut heard = heard.filter(|one| one.to == port && one.flags == SYN | ACK);
        let answer = heard.next().unwrap();
        assert_eq!(answer.from, 80, "translated");
        let translated = Segment {
            sequence: answer.sequence.wrapping_add(1 << 30),
            flags: ACK,
            ..answer
        };
        let late = Segment {
            from: POD_PORT,
            ..translated
        };
        let lost = Segment {
            to: 9,
            flags: SYN | ACK,
            ..late
        };
        let strays = Self {
            bed,
            family,
            client,
            server,
            late,
            translated,
            lost,
        };
        (strays, stream)
    }

    fn send(&self, segment: Segment) {
        self.server.send(self.bed.pod(2).ip(self.family), segment);
    }

    #[track_caller]
    fn dropped(&self, segment: Segment) {
        let count = || counted(self.bed, Counter::InvalidDropped).unwrap();
        let before = count();
        self.send(segment);
        wait_until("a count", PATIENCE, || count() == before + 1).unwrap();
        let came = self.client.take();
        let stray = |one: &Segment| one.sequence == segment.sequence;
        assert!(!came.iter().any(stray), "{came:?}");
    }

    #[track_caller]
    fn passes(&self, segment: Segment, as_seen: Segment) {
        self.send(segment);
        let came = || self.client.take().contains(&as_seen);
        wait_until("the stray segment", PATIENCE, came).unwrap();
    }
}

fn proxy<'a>(
    bed: &'a Bed,
    world: &World,
    variant: Variant,
    liberal: bool,
) -> Proxy<'a, IptablesBackend> {
    let mut proxy = Proxy::start(bed, world, variant);
    for mut settings in world.settings(bed) {
        settings.tcp_be_liberal = liberal;
        proxy.backend.set_settings(settings);
    }
    proxy
}

fn be_liberal(bed: &Bed) {
    let segments = ["net", "netfilter", "nf_conntrack_tcp_be_liberal"];
    let key = sysctl::Key::new(segments).unwrap();
    bed.node
        .netns
        .run(|| sysctl::write(&key, "1"))
        .unwrap()
        .unwrap();
}

fn served(bed: &Bed) -> World {
    let mut world = World::empty();
    world.serve(bed, &node_port_service(1), &[1]);
    world
}

#[test]
fn what_belongs_to_no_connection_is_dropped_and_counted() {
    each_variant(|bed, variant| {
        let mut world = served(bed);
        proxy(bed, &world, variant, false).sync(&mut world);
        for family in Family::ALL {
            let (strays, mut stream) = Strays::of(bed, family);
            strays.dropped(strays.late);
            strays.dropped(strays.lost);
            // The client never met them, so that its connection lives.
            assert_eq!(ask(&mut stream).unwrap().pod, 1);
        }
    });
}

#[test]
fn it_passes_where_connection_tracking_is_liberal() {
    each_variant(|bed, variant| {
        let mut world = served(bed);
        be_liberal(bed);
        proxy(bed, &world, variant, true).sync(&mut world);
        for family in Family::ALL {
            let (strays, mut stream) = Strays::of(bed, family);
            strays.passes(strays.late, strays.translated);
            strays.passes(strays.lost, strays.lost);
            assert_eq!(ask(&mut stream).unwrap().pod, 1);
        }
        assert_eq!(counted(bed, Counter::InvalidDropped), Some(0));
    });
}

#[test]
fn connections_to_node_ports_on_localhost_are_counted() {
    each_variant(|bed, variant| {
        let mut world = served(bed);
        let mut proxy = Proxy::start(bed, &world, variant);
        proxy.sync(&mut world);
        let count = || counted(bed, Counter::LocalhostAccepted).unwrap();
        let localhost = SocketAddr::from(([127, 0, 0, 1], 30_001));
        let connect = |to| {
            bed.node
                .netns
                .run(move || tcp(to, PATIENCE))
                .unwrap()
                .unwrap()
        };
        connect(localhost);
        connect(localhost);
        assert_eq!(count(), 2);
        connect(node_port(bed, Family::V4, 1));
        assert_eq!(count(), 2);
        // Its rules change and go like any others.
        world.endpoints(bed, &node_port_service(1), &[]);
        proxy.sync(&mut world);
        assert!(
            !rules(bed, variant)
                .iter()
                .any(|rule| rule.contains("localhost_nps"))
        );
        world.endpoints(bed, &node_port_service(1), &[2]);
        proxy.sync(&mut world);
        assert_eq!(connect(localhost).pod, 2);
        assert_eq!(count(), 3);
        assert!(!proxy.drifted(bed));
        cleanup(bed);
        assert_eq!(Counter::ALL.map(|counter| counted(bed, counter)), [None; 2]);
    });
}

/// As where the kernel has no xt_nfacct.
#[test]
fn without_counters_everything_else_is_there() {
    each_variant(|bed, variant| {
        let mut world = served(bed);
        let faults = Faults::default();
        faults.refuse_input("nfacct", true);
        let mut proxy = Proxy::start_faulty(bed, &world, variant, &faults);
        proxy.sync(&mut world);
        assert!(
            !rules(bed, variant)
                .iter()
                .any(|rule| rule.contains("nfacct"))
        );
        for family in Family::ALL {
            assert!(bed.client.tcp(node_port(bed, family, 1)).is_ok());
        }
        assert!(!proxy.drifted(bed));
        world.endpoints(bed, &node_port_service(1), &[2]);
        let report = proxy.sync(&mut world);
        assert!(
            report.families.values().all(|family| !family.full),
            "{report:?}"
        );
    });
}

/// CVE-2020-8558: with route_localnet, what listens on the node's loopback only would be open to its
/// neighbours.
#[test]
fn what_comes_for_localhost_from_outside_is_dropped() {
    each_variant(|bed, variant| {
        let way = "ip addr flush dev lo && sysctl -qw net.ipv4.conf.all.route_localnet=1 && \
                   ip route add 127.0.0.0/8 via 192.0.2.1";
        let open = || Command::new("sh").args(["-c", way]).status().unwrap();
        assert!(bed.client.netns.run(open).unwrap().success());
        let listen = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = bed.node.netns.run(listen).unwrap();
        server.set_nonblocking(true).unwrap();
        let to = server.local_addr().unwrap();
        let send = || {
            let send = || UdpSocket::bind("192.0.2.2:0").unwrap().send_to(b"?", to);
            bed.client.netns.run(send).unwrap().unwrap();
        };
        let heard = || server.recv(&mut [0; 8]).is_ok();
        let key: sysctl::Key = "net/ipv4/conf/all/route_localnet".parse().unwrap();
        let allow = || sysctl::write(&key, "1").unwrap();
        bed.node.netns.run(allow).unwrap();
        wait_until("a packet without the proxy", PATIENCE, || {
            send();
            heard()
        })
        .unwrap();
        let mut world = served(bed);
        Proxy::start(bed, &world, variant).sync(&mut world);
        while heard() {}
        send();
        let program = format!("iptables-{variant}");
        let list = || {
            Command::new(&program)
                .args(["-vxnL", "KUBE-FIREWALL"])
                .output()
        };
        wait_until("a count at the drop", PATIENCE, || {
            let listed = bed.node.netns.run(list).unwrap().unwrap().stdout;
            let listed = String::from_utf8(listed).unwrap();
            let rule = listed.lines().find(|line| line.contains(" DROP ")).unwrap();
            // One of those before the rules may still have been under way.
            let count = rule.split_whitespace().next().unwrap();
            count.parse::<u64>().unwrap() > 0
        })
        .unwrap();
        assert!(!heard());
    });
}
