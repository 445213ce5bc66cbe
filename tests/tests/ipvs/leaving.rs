//! Mode nftables takes over: connections go on.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use causeway_proxy::backend::ipvs::Options;
use causeway_proxy::backend::{IpvsBackend, NftablesBackend};
use causeway_tests::packet_bed::{Bed, Host, Seen, ask, ask_udp};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;

use crate::changes::PATIENCE;
use crate::proxy::{cleanup, listing};
use crate::world::{Proxy, World, at, node_port, node_port_service};

/// A connection, and what its endpoint sees of it.
fn connect(host: &Host, to: std::net::SocketAddr) -> (TcpStream, Seen) {
    let mut stream = host.connect(to).unwrap();
    let seen = ask(&mut stream).unwrap();
    (stream, seen)
}

#[test]
fn connections_go_on_while_they_speak_and_while_they_are_silent() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &node_port_service(1), &[1, 2, 3]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let mut silent = Vec::new();
    for family in Family::ALL {
        for host in [&bed.client, bed.pod(2)] {
            silent.extend((0..3).map(|_| connect(host, at(family, 1))));
        }
        silent.extend((0..3).map(|_| connect(&bed.client, node_port(&bed, family, 1))));
    }
    let mut flows = Family::ALL.map(|family| {
        let socket = bed.client.udp_socket(at(family, 1));
        let seen = ask_udp(&socket).unwrap();
        (socket, seen)
    });
    let speaking: Vec<_> = (0..4)
        .map(|n| connect(&bed.client, at(Family::ALL[n % 2], 1)))
        .collect();
    drop(proxy);

    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (mut stream, before) in speaking {
            let (over, asked) = (&over, &asked);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(ask(&mut stream).unwrap(), before);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let settings = world.settings(&bed).into_iter().map(Into::into).collect();
        let open = || NftablesBackend::open(settings).unwrap();
        let mut next = Proxy::over(&bed, bed.node.netns.run(open).unwrap());
        let mut again = World::empty();
        again.serve(&bed, &node_port_service(1), &[1, 2, 3]);
        next.sync(&mut again);
        let options = Options::default();
        let hand_over = || IpvsBackend::hand_over(&options).unwrap();
        assert!(bed.node.netns.run(hand_over).unwrap());
        cleanup(&bed, &options);
        let until = asked.load(Ordering::Relaxed) + 20;
        let enough = || asked.load(Ordering::Relaxed) >= until;
        let answered = wait_until("answers afterwards", PATIENCE, enough);
        over.store(true, Ordering::Relaxed);
        answered.unwrap();
    });
    assert_eq!(listing(&bed), [""; 0]);
    for (stream, before) in &mut silent {
        assert_eq!(ask(stream).unwrap(), *before);
    }
    for (socket, before) in &mut flows {
        assert_eq!(ask_udp(socket).unwrap(), *before);
    }
    // Nobody is kept waiting, and new ones are served.
    for family in Family::ALL {
        assert!(bed.client.tcp(at(family, 1)).is_ok());
    }
}
