//! What becomes of single connections that are answered directly.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use causeway_tests::packet_bed::{Host, Site, ask, ask_udp, ask_udp_with};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use socket2::{Domain, Socket, Type};

use super::site::{Watch, balancer, daemons, on_a_site};
use super::{BOTH, PATIENCE, serve};

/// A port on pods where the bed has nobody listen.
const FREE_PORT: u16 = 9_000;

/// Connections of the client that stay open, each with the pod that it is with.
fn kept(site: &Site) -> Vec<(TcpStream, usize)> {
    let connect = |family| {
        let mut stream = site.client.connect(balancer(family)).unwrap();
        let pod = ask(&mut stream).unwrap().pod;
        (stream, pod)
    };
    let all = Family::ALL.into_iter().cycle();
    all.take(24).map(connect).collect()
}

fn still(kept: &mut [(TcpStream, usize)]) {
    for (stream, pod) in kept {
        assert_eq!(ask(stream).unwrap().pod, *pod);
    }
}

#[test]
fn connections_stay_when_endpoints_daemons_and_the_option_change() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        serve(&mut both, &[2, 3]);
        let mut before = kept(site);
        let watch = Watch::over(site);
        // Others are chosen by the table now.
        serve(&mut both, &[1, 3]);
        still(&mut before);
        serve(&mut both, &[1]);
        still(&mut before);
        for direct in [false, true] {
            for daemon in &mut both {
                daemon.restart();
                still(&mut before);
                daemon.direct = direct;
                daemon.serve(&[3]);
                still(&mut before);
            }
        }
        assert!(watch.sent() > 0);
        assert_eq!(watch.answers(), 0);
        still(&mut kept(site));
    });
}

/// Either node may be the one, as long as the other stays.
#[test]
fn connections_stay_when_nftables_takes_over_on_one_node() {
    for leaving in [0, 1] {
        on_a_site(|site| {
            let mut both = daemons(site, BOTH);
            serve(&mut both, &[2, 3]);
            let mut before = kept(site);
            let flows = Family::ALL.map(|family| site.client.udp_socket(balancer(family)));
            let pods = flows.each_ref().map(|flow| ask_udp(flow).unwrap().pod);
            assert!(both[0].events("direct_connection") > 0);
            both[leaving].leave_for_nftables();
            still(&mut before);
            let after = flows.each_ref().map(|flow| ask_udp(flow).unwrap().pod);
            assert_eq!(after, pods);
            still(&mut kept(site));
        });
    }
}

/// One direction at a time, over a link that takes less than the others do: who sends must hear that.
#[test]
fn a_lot_of_bytes_arrive_and_who_sends_too_large_packets_hears_of_it() {
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    on_a_site(|site| {
        let narrow = || {
            let mut ip = Command::new("ip");
            ip.args(["link", "set", "eth1", "mtu", "1300"]).status()
        };
        let narrowed = site.router.netns.run(narrow).unwrap();
        assert!(narrowed.unwrap().success());
        let mut both = daemons(site, BOTH);
        for daemon in &mut both {
            daemon.port = FREE_PORT;
        }
        serve(&mut both, &[2]);
        let watch = Watch::over(site);
        for family in Family::ALL {
            let pod = site.pod(2);
            let at = SocketAddr::from((pod.ip(family), FREE_PORT));
            let listener = pod.netns.run(|| TcpListener::bind(at).unwrap()).unwrap();
            let echoed = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).unwrap();
                    stream.write_all(&got).unwrap();
                });
                let mut stream = site.client.connect(balancer(family)).unwrap();
                stream.set_read_timeout(Some(6 * PATIENCE)).unwrap();
                stream.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut echoed = Vec::new();
                stream.read_to_end(&mut echoed).unwrap();
                echoed
            });
            assert!(echoed == data, "{family:?}");
        }
        assert_eq!(watch.answers(), 0);
        let [first, second] = &both;
        for daemon in [first, second] {
            assert!(daemon.events("icmp_error") > 0, "{}", daemon.name);
        }
    });
}

/// A refusal of the endpoint itself comes back as an answer does.
#[test]
fn who_is_refused_hears_it_at_once() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        for daemon in &mut both {
            daemon.port = FREE_PORT;
        }
        serve(&mut both, &[2]);
        for family in Family::ALL {
            let to = balancer(family);
            for refused in [site.client.tcp(to), site.client.udp(to)] {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
            }
        }
    });
}

/// A connection from this port, which is reset when it is closed.
fn from_port(client: &Host, port: u16, to: SocketAddr) -> TcpStream {
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        let from = SocketAddr::new(client.towards(to), port);
        socket.bind(&from.into()).unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    };
    client.netns.run(connect).unwrap()
}

#[test]
fn a_port_is_used_again_as_soon_as_its_connection_is_over() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        for family in Family::ALL {
            // Another pod each time.
            for pod in [2, 3, 2, 3] {
                serve(&mut both, &[pod]);
                let mut stream = from_port(&site.client, 20_000, balancer(family));
                assert_eq!(ask(&mut stream).unwrap().pod, pod);
                drop(stream);
                let is_over = || {
                    let tracks = both[0].shown("tracks");
                    tracks.iter().all(|track| track["state"] == "closed")
                };
                wait_until("the end", PATIENCE, is_over).unwrap();
            }
        }
        assert_eq!(both[0].events("direct_connection"), 8);
    });
}

#[test]
fn a_flow_of_datagrams_leaves_an_endpoint_that_left() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        serve(&mut both, &[2, 3]);
        for family in Family::ALL {
            let socket: UdpSocket = site.client.udp_socket(balancer(family));
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let first = ask_udp(&socket).unwrap();
            assert_eq!(ask_udp(&socket).unwrap(), first);
            let other = 5 - first.pod;
            serve(&mut both, &[other]);
            let seen = ask_udp(&socket).unwrap();
            assert_eq!((seen.pod, seen.client), (other, site.client.ip(family)));
            serve(&mut both, &[2, 3]);
        }
    });
}

/// Each fragment goes to the endpoint's node as it came, and so do those of the answer to the client.
#[test]
fn datagrams_in_fragments_are_answered_directly() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        serve(&mut both, &[2, 3]);
        let watch = Watch::over(site);
        for family in Family::ALL {
            let before = watch.sent();
            let socket = site.client.udp_socket(balancer(family));
            for bytes in [1, 4_000, 20_000] {
                let seen = ask_udp_with(&socket, bytes).unwrap();
                assert_eq!(seen.client, site.client.ip(family), "{bytes}");
            }
            // Of 1,500 bytes at most each.
            assert!(watch.sent() >= before + 1 + 3 + 14);
        }
        assert_eq!(watch.answers(), 0);
    });
}

/// Whoever forgets what is over soon has nothing left.
#[test]
fn what_is_over_is_forgotten() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        for daemon in &mut both {
            // Not so soon that an answer on a busy machine comes too late.
            daemon.remembers = Duration::from_secs(2);
        }
        serve(&mut both, &[2, 3]);
        let mut stays = site.client.connect(balancer(Family::V4)).unwrap();
        let pod = ask(&mut stays).unwrap().pod;
        for family in Family::ALL {
            site.client.tcp(balancer(family)).unwrap();
            site.client.udp(balancer(family)).unwrap();
        }
        for daemon in &both {
            let alone = || daemon.shown("tracks").len() == 1;
            wait_until("forgotten", 6 * PATIENCE, alone).unwrap();
        }
        assert_eq!(ask(&mut stays).unwrap().pod, pod);
    });
}

/// A pod's own packets, as those of a machine that no socket here stands for, go as they did.
#[test]
fn pods_are_no_clients_from_outside() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        serve(&mut both, &[2]);
        for family in Family::ALL {
            for (pod, node) in [(1, 0), (3, 1), (2, 1)] {
                let seen = site.pod(pod).tcp(balancer(family)).unwrap();
                assert_eq!(seen.pod, 2);
                let own = site.pod(pod).ip(family);
                assert_ne!(seen.client, own, "masqueraded by node {node}");
            }
        }
        assert_eq!(both[0].events("direct_connection"), 0);
    });
}
