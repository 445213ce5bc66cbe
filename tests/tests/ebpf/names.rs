//! What a socket believes to talk to.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use lb_model::Family;

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, at, service};

#[test]
fn the_peer_of_a_connection_is_the_frontend() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let _proxy = node.start_for_sockets_only(&mut world);
        for family in Family::ALL {
            let to = at(family, 1);
            let peer = || {
                let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                stream.peer_addr().unwrap()
            };
            assert_eq!(node.inside(node.bed.pod(1), peer), to);
        }
    });
}

/// A socket of pod 1 that is not connected.
fn unconnected(node: &Node<'_>, family: Family) -> UdpSocket {
    let pod = node.bed.pod(1);
    let open = || {
        let socket = UdpSocket::bind((pod.ip(family), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    node.inside(pod, open)
}

/// The pod that answers from `to`.
#[track_caller]
fn exchange(node: &Node<'_>, socket: &UdpSocket, to: SocketAddr) -> usize {
    let ask = || {
        socket.send_to(b"?", to).unwrap();
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        (
            String::from_utf8_lossy(&answer[..length]).into_owned(),
            from,
        )
    };
    let (text, from) = node.inside(node.bed.pod(1), ask);
    assert_eq!(from, to);
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn datagrams_come_from_the_frontend_and_stay_with_an_endpoint_until_it_leaves() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        let mut proxy = node.start_for_sockets_only(&mut world);
        for family in Family::ALL {
            let to = at(family, 1);
            let socket = unconnected(node, family);
            let first = exchange(node, &socket, to);
            for _ in 0..12 {
                assert_eq!(exchange(node, &socket, to), first);
            }
            let other = 5 - first;
            world.endpoints(node.bed, &service(1), &[other]);
            proxy.sync(&mut world);
            node.clear_packets();
            assert_eq!(exchange(node, &socket, to), other);
            world.endpoints(node.bed, &service(1), &[2, 3]);
            proxy.sync(&mut world);
            node.clear_packets();
            assert_eq!(exchange(node, &socket, to), other, "it stays");
        }
    });
}
