//! Tracked connections, made by real packets in a network namespace of their own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what these helpers can't do fails the test"
)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use nodekit::conntrack::{ConntrackSocket, Entry, Family, Transport, Tuple};
use nodekit::netns::NetNs;

const UDP: u8 = 17;
const TCP: u8 = 6;

fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let namespace = NetNs::anonymous().expect("a network namespace needs CAP_SYS_ADMIN");
    namespace.run(test).expect("the test panicked")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program is installed");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

/// Loopback up, its packets of both families tracked, and the port 53 of 10.0.0.1 translated to
/// 10.0.0.2:5353.
fn tracked() {
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["address", "add", "10.0.0.1/32", "dev", "lo"]);
    run("ip", &["address", "add", "10.0.0.2/32", "dev", "lo"]);
    let rules = "add table inet t
        add chain inet t out { type nat hook output priority -100; }
        add rule inet t out ip daddr 10.0.0.1 udp dport 53 dnat ip to 10.0.0.2:5353
        add rule inet t out ct state new counter";
    run("nft", &[rules]);
}

/// A UDP exchange both ways; gives the client's address.
fn exchange(server: &str, to: &str) -> SocketAddr {
    let server = UdpSocket::bind(server).unwrap();
    let local = if to.starts_with('[') {
        "[::1]:0"
    } else {
        "10.0.0.1:0"
    };
    let client = UdpSocket::bind(local).unwrap();
    client.connect(to).unwrap();
    client.send(b"question").unwrap();
    let mut buffer = [0; 16];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"answer", from).unwrap();
    client.recv(&mut buffer).unwrap();
    client.local_addr().unwrap()
}

fn all(socket: &mut ConntrackSocket, family: Family, protocol: Option<u8>) -> Vec<Entry> {
    socket.list(family, protocol, |_| true).unwrap()
}

#[test]
fn a_translated_flow_is_listed_deleted_and_gone() {
    in_namespace(|| {
        tracked();
        let client = exchange("10.0.0.2:5353", "10.0.0.1:53");
        let mut socket = ConntrackSocket::open().unwrap();
        let found = all(&mut socket, Family::Ip, Some(UDP));
        assert_eq!(found.len(), 1, "{found:?}");
        let entry = &found[0];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ports = |source, destination| Transport::Ports {
            source,
            destination,
        };
        let (source, destination) = (ip("10.0.0.1"), ip("10.0.0.1"));
        let transport = ports(client.port(), 53);
        assert_eq!(
            entry.original,
            Tuple {
                source,
                destination,
                protocol: UDP,
                transport
            }
        );
        let reply = Tuple {
            source: ip("10.0.0.2"),
            transport: ports(5353, client.port()),
            ..entry.original
        };
        assert_eq!(entry.reply, reply);
        assert!(entry.is_destination_translated(), "{:#x}", entry.status);
        assert_eq!((entry.zone, entry.mark), (0, 0));
        assert!(entry.timeout.as_secs() > 5, "{:?}", entry.timeout);

        let other = Entry {
            id: entry.id ^ 1,
            ..entry.clone()
        };
        assert!(
            !socket.delete(&other).unwrap(),
            "of the same tuple but another connection"
        );
        assert!(socket.delete(entry).unwrap());
        assert!(
            !socket.delete(entry).unwrap(),
            "a missing entry is no error"
        );
        assert!(all(&mut socket, Family::Ip, None).is_empty());
    });
}

#[test]
fn families_and_protocols_are_told_apart() {
    in_namespace(|| {
        tracked();
        exchange("10.0.0.2:5353", "10.0.0.1:53");
        exchange("[::1]:5353", "[::1]:5353");
        let listener = std::net::TcpListener::bind("10.0.0.2:80").unwrap();
        let _stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut socket = ConntrackSocket::open().unwrap();
        let mut protocols = |family, filter| {
            let mut found: Vec<_> = all(&mut socket, family, filter)
                .iter()
                .map(|e| e.original.protocol)
                .collect();
            found.sort_unstable();
            found
        };
        assert_eq!(protocols(Family::Ip, None), [TCP, UDP]);
        assert_eq!(protocols(Family::Ip, Some(TCP)), [TCP]);
        assert_eq!(protocols(Family::Ip, Some(UDP)), [UDP]);
        assert_eq!(protocols(Family::Ip6, None), [UDP]);
        assert_eq!(protocols(Family::Ip6, Some(TCP)), [] as [u8; 0]);
        let kept = socket
            .list(Family::Ip, None, |e| e.original.protocol == TCP)
            .unwrap();
        assert_eq!(kept.len(), 1);
        let v6 = all(&mut socket, Family::Ip6, Some(UDP));
        assert!(socket.delete_tuple(&v6[0].original, 0, None).unwrap());
        assert!(all(&mut socket, Family::Ip6, None).is_empty());
    });
}

#[test]
fn a_flow_of_a_zone_is_deleted_in_its_zone_only() {
    in_namespace(|| {
        tracked();
        let zone = "add chain inet t raw { type filter hook output priority -300; }
            add rule inet t raw udp dport 5353 ct zone set 7
            add chain inet t raw-in { type filter hook prerouting priority -300; }
            add rule inet t raw-in udp sport 5353 ct zone set 7
            add rule inet t raw-in udp dport 5353 ct zone set 7
            add rule inet t raw udp sport 5353 ct zone set 7";
        run("nft", &[zone]);
        exchange("10.0.0.2:5353", "10.0.0.2:5353");
        let mut socket = ConntrackSocket::open().unwrap();
        let found = all(&mut socket, Family::Ip, Some(UDP));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].zone, 7);
        assert!(!socket.delete_tuple(&found[0].original, 0, None).unwrap());
        assert!(socket.delete(&found[0]).unwrap());
        assert!(all(&mut socket, Family::Ip, None).is_empty());
    });
}
