//! Tracked connections, made by real packets in a network namespace of their own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what these helpers can't do fails the test"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nodekit::Errno;
use nodekit::conntrack::{ConntrackSocket, Entry, Family, NewEntry, TcpState, Transport, Tuple};
use nodekit::netlink::Error;
use nodekit::netns::NetNs;
use nodekit::sysctl;

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
        let listener = TcpListener::bind("10.0.0.2:80").unwrap();
        let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
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

/// Loopback up with these three addresses, and connections translated that have an entry, and no
/// others.
fn translating(addresses: &[IpAddr; 3]) {
    run("ip", &["link", "set", "lo", "up"]);
    for address in addresses {
        let address = address.to_string();
        run("ip", &["address", "add", &address, "dev", "lo", "nodad"]);
    }
    addresses.iter().for_each(wait_for_route);
    let rules = "add table inet t
        add chain inet t out { type nat hook output priority -100; }
        add rule inet t out ct state new counter";
    run("nft", &[rules]);
}

/// The kernel adds the local route to an IPv6 address of its own in the background; until then there
/// is one that leads nowhere.
fn wait_for_route(address: &IpAddr) {
    let start = Instant::now();
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let route = format!("local {address} dev lo");
    loop {
        let mut ip = Command::new("ip");
        let listed = ip.args([family, "route", "show", "table", "local"]);
        let routes = String::from_utf8(listed.output().unwrap().stdout).unwrap();
        if routes.contains(&route) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "no {route:?} in {routes}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const V4: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
const V6: [&str; 3] = ["fd00::1", "fd00::2", "fd00::3"];

/// Those of the client, who talks to itself as it believes, of the server, and the one under which
/// the server sees the client.
fn addresses(texts: [&str; 3]) -> [IpAddr; 3] {
    texts.map(|text| text.parse().unwrap())
}

/// The only port that the kernel gives to a client.
const CLIENT: u16 = 40_000;
const SEEN: u16 = 61_000;
/// For a packet that must come: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the client says to port 80 of its own address goes to port 8080 of the server.
fn new_entry(protocol: u8, addresses: &[IpAddr; 3]) -> NewEntry {
    let [own, server, seen] = *addresses;
    let ports = |source, destination| Transport::Ports {
        source,
        destination,
    };
    NewEntry {
        original: Tuple {
            source: own,
            destination: own,
            protocol,
            transport: ports(CLIENT, 80),
        },
        reply: Tuple {
            source: server,
            destination: seen,
            protocol,
            transport: ports(8080, SEEN),
        },
        answered: true,
        tcp: None,
        timeout: Duration::from_secs(100),
    }
}

fn errnos(refused: &[(usize, Error)]) -> Vec<(usize, Option<Errno>)> {
    let all = refused.iter().map(|(place, error)| (*place, error.errno()));
    all.collect()
}

/// In a namespace for each family, with a socket.
fn told_of(test: impl Fn(&mut ConntrackSocket, [IpAddr; 3]) + Send + Sync) {
    for texts in [V4, V6] {
        in_namespace(|| {
            let all_three = addresses(texts);
            translating(&all_three);
            test(&mut ConntrackSocket::open().unwrap(), all_three);
        });
    }
}

#[test]
fn a_flow_that_the_kernel_is_told_of_is_translated_both_ways() {
    told_of(|socket, addresses| {
        let [own, server, seen] = addresses;
        let client = UdpSocket::bind((own, CLIENT)).unwrap();
        let server = UdpSocket::bind((server, 8080)).unwrap();
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let entry = new_entry(UDP, &addresses);
        assert_eq!(errnos(&socket.create(&[entry]).unwrap()), []);

        client.connect((own, 80)).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 16];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(from, SocketAddr::new(seen, SEEN));
        server.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
    });
}

#[test]
fn a_connection_that_the_kernel_is_told_of_goes_on() {
    told_of(|socket, addresses| {
        let [own, server, seen] = addresses;
        let key: sysctl::Key = "net/ipv4/ip_local_port_range".parse().unwrap();
        sysctl::write(&key, &format!("{CLIENT} {CLIENT}")).unwrap();
        let listener = TcpListener::bind((server, 8080)).unwrap();
        let begun = NewEntry {
            answered: false,
            tcp: Some(TcpState::SynSent),
            ..new_entry(TCP, &addresses)
        };
        assert_eq!(errnos(&socket.create(&[begun]).unwrap()), []);
        let mut stream = TcpStream::connect((own, 80)).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from, SocketAddr::new(seen, SEEN));

        // Its history is lost, and it is entered once more as one in its middle.
        let family = Family::of(&begun.original);
        let found = all(socket, family, Some(TCP));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(socket.delete(&found[0]).unwrap());
        let amid = NewEntry {
            tcp: Some(TcpState::Established),
            ..new_entry(TCP, &addresses)
        };
        assert_eq!(errnos(&socket.create(&[amid]).unwrap()), []);
        let mut buffer = [0; 4];
        accepted.write_all(b"ping").unwrap();
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
        accepted.read_exact(&mut buffer).unwrap();
        drop(accepted);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    });
}

#[test]
fn what_is_told_is_listed_changed_and_refused_one_by_one() {
    told_of(|socket, addresses| {
        let with_ports = |client, seen| {
            let mut entry = new_entry(TCP, &addresses);
            entry.tcp = Some(TcpState::Established);
            let Transport::Ports { source, .. } = &mut entry.original.transport else {
                unreachable!("it has ports");
            };
            *source = client;
            let Transport::Ports { destination, .. } = &mut entry.reply.transport else {
                unreachable!("it has ports");
            };
            *destination = seen;
            entry
        };
        // More than one datagram takes.
        let count = 300;
        let mut entries: Vec<_> = (0..count)
            .map(|n| with_ports(1_000 + n, 61_000 + n))
            .collect();
        // One that is there already, and one whose answers would be another one's.
        entries[10] = entries[9];
        entries[299] = with_ports(1_299, 61_000);
        let exists = Some(Errno::EEXIST);
        let refused = socket.create(&entries).unwrap();
        assert_eq!(errnos(&refused), [(10, exists), (299, exists)]);
        let refused = socket.create(&entries[..9]).unwrap();
        assert!(refused.iter().all(|(_, e)| e.errno() == exists));
        assert_eq!(refused.len(), 9);

        let family = Family::of(&entries[0].original);
        let listed = |socket: &mut ConntrackSocket| {
            let first = entries[0].original;
            let kept = socket.list(family, Some(TCP), |one| one.original == first);
            kept.unwrap().pop().unwrap()
        };
        assert_eq!(all(socket, family, Some(TCP)).len(), 298);
        let found = listed(socket);
        assert_eq!(found.reply, entries[0].reply);
        assert!(found.is_destination_translated(), "{:#x}", found.status);
        // A moment may have passed, on a busy machine a long one.
        assert!(found.timeout.as_secs() <= 100, "{:?}", found.timeout);
        let changed = NewEntry {
            tcp: Some(TcpState::TimeWait),
            timeout: Duration::from_secs(1_000),
            ..entries[0]
        };
        let nobody = with_ports(999, 60_999);
        let refused = socket.change(&[nobody, changed]).unwrap();
        assert_eq!(errnos(&refused), [(0, Some(Errno::ENOENT))]);
        let again = listed(socket);
        assert!(again.timeout.as_secs() > 100, "{:?}", again.timeout);
        assert_eq!((again.id, again.reply), (found.id, found.reply));
    });
}
