//! Sockets that are connected, and what they hear when their endpoint leaves.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;

use aya::maps::{Array, Map, MapData};
use causeway_ebpf_abi::maps;
use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::{EbpfBackend, HeldSocket, HeldSockets, Options, map_pin};
use causeway_tests::packet_bed::{self, Host, Seen, ask, ask_udp};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use lb_model::said::Event;

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{Proxy, World, at, node_port, node_port_service, service};

/// A UDP socket of a process of `host` that is connected to `to`.
fn connect(node: &Node<'_>, host: &Host, to: SocketAddr) -> UdpSocket {
    let from = match to.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Ipv6Addr::UNSPECIFIED.into(),
        _ => host.towards(to),
    };
    let open = || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    node.inside(host, open)
}

/// A pass, and more while one is due: whoever looks for a namespace by threads may miss one while
/// others come and go (proc(5) promises no more).
fn bring(node: &Node<'_>, proxy: &mut Proxy<'_, EbpfBackend>, world: &mut World) {
    wait_until("nothing due", PATIENCE, || {
        proxy.sync(world);
        let check = || proxy.backend.check().unwrap();
        !node.bed.node.netns.run(check).unwrap()
    })
    .unwrap();
}

/// What the maps remember of sockets.
fn held(node: &Node<'_>) -> Vec<HeldSocket> {
    let held = HeldSockets::read(&node.cell.options().pins).unwrap();
    held.iter().cloned().collect()
}

/// How many sockets with entries the cells of their cookies count.
fn shared(node: &Node<'_>) -> u64 {
    let pin = map_pin(&node.cell.options().pins, maps::SHARING);
    let data = MapData::from_pin(pin).and_then(Map::from_map_data);
    let cells: Array<_, u64> = data.and_then(Array::try_from).unwrap();
    cells.iter().map(Result::unwrap).sum()
}

/// `to`, as an IPv6 socket says it.
fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), to.port()).into(),
        IpAddr::V6(_) => to,
    }
}

/// The ClusterIPs of Service 1, as every kind of socket says them.
fn all_kinds() -> [SocketAddr; 3] {
    let [v4, v6] = Family::ALL.map(|family| at(family, 1));
    [v4, v6, mapped(v4)]
}

#[test]
fn a_connected_socket_talks_to_an_endpoint_and_believes_in_the_frontend() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2, 3]);
        let _proxy = node.start_for_sockets_only(&mut world);
        let node_ports = Family::ALL.map(|family| node_port(node.bed, family, 1));
        for to in all_kinds().into_iter().chain(node_ports) {
            for host in [node.bed.pod(1), &node.bed.node] {
                let socket = connect(node, host, to);
                assert_eq!(socket.peer_addr().unwrap(), to);
                socket.send(b"?").unwrap();
                let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
                assert_eq!(from, to);
            }
            let seen = ask_udp(&connect(node, node.bed.pod(1), to)).unwrap();
            assert!([2, 3].contains(&seen.pod));
            let family = Family::of(to.ip().to_canonical());
            assert_eq!(seen.client, node.bed.pod(1).ip(family));
        }
    });
}

#[test]
fn a_socket_is_remembered_until_it_closes_or_connects_elsewhere() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let _proxy = node.start_for_sockets_only(&mut world);
        let pod = node.bed.pod(1);
        for family in Family::ALL {
            let to = at(family, 1);
            assert_eq!(held(node), []);
            let udp = connect(node, pod, to);
            let stream = || std::net::TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            let tcp = node.inside(pod, stream);
            let found = held(node);
            let protocols: Vec<&str> = found.iter().map(|one| one.protocol.as_str()).collect();
            assert_eq!(protocols, ["tcp", "udp"]);
            assert_eq!(shared(node), 2);
            for one in &found {
                assert_eq!(one.frontend, to);
                assert_eq!(one.backend.ip(), node.bed.pod(2).ip(family));
            }
            drop(tcp);
            assert_eq!(held(node).len(), 1);
            udp.connect((node.bed.pod(2).ip(family), packet_bed::POD_PORT))
                .unwrap();
            assert_eq!(held(node), []);
            assert_eq!(shared(node), 0);
            for _ in 0..2 {
                udp.connect(to).unwrap();
                assert_eq!(held(node).len(), 1);
                assert_eq!(shared(node), 1, "once, however often it connects");
            }
            drop(udp);
            assert_eq!(shared(node), 0);
        }
    });
}

/// So many sockets of `host` that every endpoint has some, with the pods that they reached.
fn crowd(node: &Node<'_>, host: &Host, to: SocketAddr) -> Vec<(UdpSocket, usize)> {
    let ask_one = || {
        let socket = connect(node, host, to);
        let pod = ask_udp(&socket).unwrap().pod;
        (socket, pod)
    };
    (0..12).map(|_| ask_one()).collect()
}

/// The socket hears of it, and finds another endpoint when it is connected anew.
#[track_caller]
fn hears_of_it(socket: &UdpSocket, to: SocketAddr, other: usize) {
    let error = socket.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{to}");
    assert!(socket.send(b"?").is_err(), "{to}");
    socket.connect(to).unwrap();
    assert_eq!(ask_udp(socket).unwrap().pod, other, "{to}");
    assert_eq!(socket.peer_addr().unwrap(), to);
}

#[test]
fn a_socket_whose_endpoint_left_gets_an_error_and_no_other_one_does() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2, 3]);
        world.serve(node.bed, &service(2), &[2]);
        let mut proxy = node.start_for_sockets_only(&mut world);
        let mut ended = 0;
        for to in all_kinds() {
            for host in [node.bed.pod(1), &node.bed.node] {
                let sockets = crowd(node, host, to);
                let family = Family::of(to.ip().to_canonical());
                let stays = connect(node, host, at(family, 2));
                // One that never was translated.
                let there = (node.bed.pod(2).ip(family), packet_bed::POD_PORT).into();
                let direct = connect(node, host, there);
                world.endpoints(node.bed, &service(1), &[3]);
                bring(node, &mut proxy, &mut world);
                node.clear_packets();
                for (socket, pod) in &sockets {
                    if *pod == 2 {
                        ended += 1;
                        hears_of_it(socket, to, 3);
                    } else {
                        assert_eq!(ask_udp(socket).unwrap().pod, 3);
                    }
                }
                assert_eq!(ask_udp(&stays).unwrap().pod, 2);
                assert_eq!(ask_udp(&direct).unwrap().pod, 2);
                world.endpoints(node.bed, &service(1), &[2, 3]);
                bring(node, &mut proxy, &mut world);
                node.clear_packets();
            }
        }
        assert!(ended > 0);
        let counts = proxy.backend.ebpf_counts().unwrap();
        let counted = counts.events().find(|one| one.what == "ended");
        assert_eq!(counted.unwrap().count, ended);
    });
}

#[test]
fn who_waits_for_an_answer_is_woken() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let mut proxy = node.start_for_sockets_only(&mut world);
        for family in Family::ALL {
            let socket = connect(node, node.bed.pod(1), at(family, 1));
            socket.set_read_timeout(None).unwrap();
            thread::scope(|scope| {
                let waits = scope.spawn(|| socket.recv(&mut [0; 64]));
                world.endpoints(node.bed, &service(1), &[]);
                bring(node, &mut proxy, &mut world);
                let error = waits.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            });
            // Now nobody is there.
            let error = socket.connect(at(family, 1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            world.endpoints(node.bed, &service(1), &[2]);
            bring(node, &mut proxy, &mut world);
        }
    });
}

#[test]
fn a_removed_service_ends_its_sockets() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let mut proxy = node.start_for_sockets_only(&mut world);
        let sockets = all_kinds().map(|to| connect(node, node.bed.pod(1), to));
        world.gone(&service(1));
        bring(node, &mut proxy, &mut world);
        for socket in &sockets {
            let error = socket.recv(&mut [0; 64]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        }
        assert_eq!(held(node), []);
    });
}

#[test]
fn a_restart_keeps_sockets_and_ends_those_whose_endpoint_left_meanwhile() {
    on_a_node(|node| {
        let mut before = World::empty();
        before.serve(node.bed, &service(1), &[2, 3]);
        let proxy = node.start_for_sockets_only(&mut before);
        let pod = node.bed.pod(1);
        let sockets = crowd(node, pod, at(Family::V4, 1));
        drop(proxy);
        let all_answer = |sockets: &[(UdpSocket, usize)]| {
            for (socket, pod) in sockets {
                assert_eq!(ask_udp(socket).unwrap().pod, *pod);
            }
        };
        all_answer(&sockets);
        let mut same = World::empty();
        same.serve(node.bed, &service(1), &[2, 3]);
        drop(node.start_for_sockets_only(&mut same));
        all_answer(&sockets);
        assert_eq!(held(node).len(), sockets.len());

        let mut after = World::empty();
        after.serve(node.bed, &service(1), &[3]);
        let _proxy = node.start_for_sockets_only(&mut after);
        for (socket, pod) in &sockets {
            if *pod == 2 {
                hears_of_it(socket, at(Family::V4, 1), 3);
            } else {
                assert_eq!(ask_udp(socket).unwrap().pod, 3);
            }
        }
        // Of those that were there before, it is told as well that they close.
        drop(sockets);
        assert_eq!(held(node), []);
        assert_eq!(shared(node), 0, "also of those that were ended");
    });
}

#[test]
fn without_the_option_packets_are_translated_and_move_on() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let options = Options {
            connect_udp: false,
            ..node.cell.options()
        };
        let mut proxy = node.start_with(&world, &options);
        bring(node, &mut proxy, &mut world);
        let sockets = all_kinds().map(|to| connect(node, node.bed.pod(1), to));
        assert_eq!(held(node), []);
        for pod in [2, 3] {
            world.endpoints(node.bed, &service(1), &[pod]);
            bring(node, &mut proxy, &mut world);
            for socket in &sockets {
                let seen = ask_udp(socket).unwrap_or_else(|error| panic!("{socket:?}: {error}"));
                assert_eq!(seen.pod, pod);
            }
        }
    });
}

/// Endpoints 2 and 3, the second of which is not ready.
fn the_second_is_unready(node: &Node<'_>, world: &mut World) {
    for family in Family::ALL {
        let mut slice = world.slice(node.bed, &service(1), family, &[2, 3]);
        slice.endpoints[0].ready = Some(false);
        world.say(Event::Slice(slice));
    }
}

#[test]
fn tcp_ends_where_it_is_asked_for_when_the_endpoint_is_removed() {
    on_a_node(|node| {
        for end_tcp in [false, true] {
            let mut world = World::empty();
            world.serve(node.bed, &service(1), &[2]);
            let options = Options {
                end_tcp,
                ..node.cell.options()
            };
            let mut proxy = node.start_with(&world, &options);
            bring(node, &mut proxy, &mut world);
            for to in all_kinds() {
                for host in [node.bed.pod(1), &node.bed.node] {
                    let stream = || std::net::TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                    let mut stream = node.inside(host, stream);
                    let mut asked = || ask(&mut stream).map(|seen: Seen| seen.pod);
                    assert_eq!(asked().unwrap(), 2);
                    the_second_is_unready(node, &mut world);
                    bring(node, &mut proxy, &mut world);
                    assert_eq!(asked().unwrap(), 2, "{to}");
                    world.endpoints(node.bed, &service(1), &[3]);
                    bring(node, &mut proxy, &mut world);
                    if end_tcp {
                        asked().unwrap_err();
                    } else {
                        assert_eq!(asked().unwrap(), 2, "{to}");
                    }
                    world.endpoints(node.bed, &service(1), &[2]);
                    bring(node, &mut proxy, &mut world);
                }
            }
        }
    });
}
