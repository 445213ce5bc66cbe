//! Sockets of a namespace, listed and ended.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nodekit::netns::NetNs;
use nodekit::route::Handle;
use nodekit::sock_diag::SockDiag;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Runs `test` in a namespace of its own, whose loopback is up.
fn alone(test: impl FnOnce() + Send) {
    let netns = NetNs::anonymous().unwrap();
    Handle::open_in(&netns).unwrap().set_up(1).unwrap();
    netns.run(test).unwrap();
}

fn udp(bind: &str, to: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    socket
}

#[test]
fn connected_udp_sockets_of_every_kind_are_listed_and_ended() {
    alone(|| {
        let mut diag = SockDiag::open().unwrap();
        for (bind, to, peer) in [
            ("127.0.0.1:0", "127.0.0.1:5300", "127.0.0.1:5300"),
            ("[::1]:0", "[::1]:5301", "[::1]:5301"),
            ("[::]:0", "[::ffff:127.0.0.1]:5302", "127.0.0.1:5302"),
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            let _server = UdpSocket::bind(peer).unwrap();
            let socket = udp(bind, to);
            let other = udp(bind, to);
            let port = socket.local_addr().unwrap().port();
            let mine = |one: &nodekit::sock_diag::Peered| one.local.port() == port;
            let found = diag.peered(UDP, mine).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].peer, peer);
            assert!(diag.end(&found[0]).unwrap());
            assert!(!diag.end(&found[0]).unwrap());
            let error = socket.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            assert!(socket.send(b"?").is_err());
            assert_eq!(other.send(b"?").unwrap(), 1);
            // It can be used again.
            socket.connect(to).unwrap();
            assert_eq!(socket.send(b"?").unwrap(), 1);
        }
        // An unconnected one is not listed.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let found = diag.peered(UDP, |one| one.local.port() == port).unwrap();
        assert!(found.is_empty());
    });
}

#[test]
fn a_tcp_connection_is_ended_for_both_sides() {
    alone(|| {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut diag = SockDiag::open().unwrap();
        let to_server = |one: &nodekit::sock_diag::Peered| one.peer.port() == port;
        let found = diag.peered(TCP, to_server).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].local, client.local_addr().unwrap());
        assert!(diag.end(&found[0]).unwrap());
        for (side, error) in [
            (client, ErrorKind::ConnectionAborted),
            (server, ErrorKind::ConnectionReset),
        ] {
            assert_eq!(side.peek(&mut [0]).unwrap_err().kind(), error);
        }
    });
}

#[test]
fn this_kernel_ends_udp_sockets_also_where_no_link_is_up() {
    let netns = NetNs::anonymous().unwrap();
    let ends = || SockDiag::open().unwrap().ends_udp().unwrap();
    assert!(netns.run(ends).unwrap());
}

#[test]
fn a_namespace_sees_only_its_own() {
    alone(|| {
        let _server = UdpSocket::bind("127.0.0.1:5300").unwrap();
        let _mine = udp("127.0.0.1:0", "127.0.0.1:5300");
        alone(|| {
            let mut diag = SockDiag::open().unwrap();
            assert!(diag.peered(UDP, |_| true).unwrap().is_empty());
        });
    });
}
