//! Where packets go.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_model::said::{Event, Ingress, ServiceCidr};
use lb_model::{DetectLocal, Family};

use crate::restart::nft;
use crate::world::{Proxy, World, at, node_port, node_port_service, service};
use causeway_tests::packet_bed::{self, Bed, Host, POD_PORT, Seen};

/// For an answer that must not come: a late one goes unnoticed, which no busy machine can turn
/// into a failure.
const SILENCE: Duration = Duration::from_millis(300);

/// Which pods answer 40 connections, and as whom they see the client.
#[track_caller]
fn reached(from: &Host, to: SocketAddr) -> (BTreeSet<usize>, BTreeSet<IpAddr>) {
    let seen = (0..40).map(|n| from.tcp(to).map_err(|e| format!("connection {n}: {e}")));
    let seen: Vec<Seen> = seen.collect::<Result<_, _>>().unwrap();
    (
        seen.iter().map(|seen| seen.pod).collect(),
        seen.iter().map(|seen| seen.client).collect(),
    )
}

#[track_caller]
fn refused(from: &Host, to: SocketAddr) {
    assert_eq!(
        from.tcp(to).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    // The node itself may not even send it.
    let refused = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
    assert!(refused.contains(&from.udp(to).unwrap_err().kind()));
}

#[track_caller]
fn silent(from: &Host, to: SocketAddr) {
    let own = from.towards(to);
    let asks: [fn(IpAddr, SocketAddr) -> io::Result<Seen>; 2] = [
        |_, to| packet_bed::tcp(to, SILENCE),
        |own, to| packet_bed::udp(own, to, SILENCE, 1),
    ];
    for ask in asks {
        let outcome = from.netns.run(|| ask(own, to)).unwrap();
        let waited = [ErrorKind::TimedOut, ErrorKind::WouldBlock];
        assert!(waited.contains(&outcome.unwrap_err().kind()));
    }
}

fn only<T: Ord>(one: T) -> BTreeSet<T> {
    BTreeSet::from([one])
}

#[test]
fn a_cluster_ip_leads_to_every_endpoint() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &service(1), &[2, 3]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        let (to, all) = (at(family, 1), BTreeSet::from([2, 3]));
        let pod = bed.pod(1);
        assert_eq!(
            reached(pod, to),
            (all.clone(), only(pod.ip(family))),
            "a pod keeps its source"
        );
        assert_eq!(pod.udp(to).unwrap().client, pod.ip(family));
        // Each pod sees the node by another address of its own.
        let (pods, sources) = reached(&bed.client, to);
        assert_eq!(pods, all);
        assert!(
            !sources.contains(&bed.client.ip(family)),
            "not a pod: masqueraded"
        );
        assert_eq!(reached(&bed.node, to).0, all);
        refused(pod, SocketAddr::new(to.ip(), 81));
        refused(&bed.node, SocketAddr::new(to.ip(), 81));
    }
}

#[test]
fn a_node_port_leads_to_every_endpoint_and_hides_the_client() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &node_port_service(1), &[1, 2, 3]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        let to = node_port(&bed, family, 1);
        let all = BTreeSet::from([1, 2, 3]);
        for from in [&bed.client, &bed.stranger, &bed.node, bed.pod(3)] {
            let (pods, sources) = reached(from, to);
            assert_eq!(pods, all);
            let own = from.ip(family);
            assert!(from.ip(family) == bed.node.ip(family) || !sources.contains(&own));
            assert!(from.udp(to).is_ok());
        }
        // An address of the node that serves no node ports.
        let other = SocketAddr::new(node_side(&bed.stranger, family), to.port());
        refused(&bed.stranger, other);
    }
}

/// The node's address next to `host`.
fn node_side(host: &Host, family: Family) -> IpAddr {
    match host.ip(family) {
        IpAddr::V4(ip) => IpAddr::from((ip.to_bits() - 1).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((ip.to_bits() - 1).to_be_bytes()),
    }
}

#[test]
fn policy_local_keeps_the_client_and_stays_on_the_node() {
    let bed = Bed::new();
    let mut world = World::empty();
    let (mut near, mut far) = (node_port_service(1), node_port_service(2));
    near.external_traffic_policy = "Local".into();
    far.external_traffic_policy = "Local".into();
    world.serve(&bed, &near, &[1, 3]);
    world.serve(&bed, &far, &[3]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        let to = node_port(&bed, family, 1);
        let client = bed.client.ip(family);
        assert_eq!(reached(&bed.client, to), (only(1), only(client)));
        // A pod and the node itself go to all, and a pod keeps its source.
        let pod = bed.pod(2);
        assert_eq!(
            reached(pod, to),
            (BTreeSet::from([1, 3]), only(pod.ip(family)))
        );
        assert_eq!(reached(&bed.node, to).0, BTreeSet::from([1, 3]));
        let to = node_port(&bed, family, 2);
        silent(&bed.client, to);
        assert_eq!(reached(pod, to).0, only(3));
        // The ClusterIP has a policy of its own.
        assert_eq!(reached(pod, at(family, 1)).0, BTreeSet::from([1, 3]));
    }
}

#[test]
fn nobody_behind_is_refused_and_nobody_here_is_silence() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &node_port_service(1), &[]);
    let mut inside = service(2);
    inside.internal_traffic_policy = "Local".into();
    world.serve(&bed, &inside, &[3]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        refused(bed.pod(1), at(family, 1));
        refused(&bed.node, at(family, 1));
        refused(&bed.client, node_port(&bed, family, 1));
        silent(bed.pod(1), at(family, 2));
    }
}

#[test]
fn a_pod_reaches_itself() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &service(1), &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        let pod = bed.pod(1);
        let seen = pod.tcp(at(family, 1)).unwrap();
        assert_eq!(
            seen,
            Seen {
                pod: 1,
                port: POD_PORT,
                client: node_side(pod, family)
            }
        );
        assert!(pod.udp(at(family, 1)).is_ok());
        // Others are not hidden from it.
        assert_eq!(
            bed.pod(2).tcp(at(family, 1)).unwrap().client,
            bed.pod(2).ip(family)
        );
    }
}

#[test]
fn a_balancers_address_lets_only_its_sources_in() {
    let bed = Bed::new();
    let mut world = World::empty();
    let mut balanced = node_port_service(1);
    balanced.kind = "LoadBalancer".into();
    let ingress = |ip: &str| Ingress {
        ip: ip.into(),
        ip_mode: String::new(),
    };
    balanced.ingress = vec![ingress("203.0.113.1"), ingress("2001:db8:113::1")];
    balanced.source_ranges = vec![
        "192.0.2.0/24".into(),
        "192.0.2.0/25".into(),
        "2001:db8:2::/64".into(),
    ];
    world.serve(&bed, &balanced, &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for (family, ip) in Family::ALL
        .into_iter()
        .zip(["203.0.113.1", "2001:db8:113::1"])
    {
        let to = SocketAddr::new(ip.parse().unwrap(), 80);
        assert!(bed.client.tcp(to).is_ok() && bed.client.udp(to).is_ok());
        silent(&bed.stranger, to);
        assert!(
            bed.stranger.tcp(node_port(&bed, family, 1)).is_ok(),
            "not on the node port"
        );
    }
    balanced.source_ranges = vec![
        "192.0.2.128/25".into(),
        "198.51.100.2/32".into(),
        "2001:db8:51::/64".into(),
    ];
    world.serve(&bed, &balanced, &[1]);
    proxy.sync(&mut world);
    for ip in ["203.0.113.1", "2001:db8:113::1"] {
        let to = SocketAddr::new(ip.parse().unwrap(), 80);
        silent(&bed.client, to);
        assert!(bed.stranger.tcp(to).is_ok());
    }
}

#[test]
fn a_client_stays_with_its_endpoint_for_a_while() {
    let bed = Bed::new();
    let mut world = World::empty();
    // Long enough for a busy machine, and soon over.
    for (n, seconds) in [(1, 3_600), (2, 1)] {
        let mut sticky = node_port_service(n);
        sticky.client_ip_affinity = true;
        sticky.affinity_seconds = Some(seconds);
        world.serve(&bed, &sticky, &[1, 2, 3]);
    }
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        for to in [at(family, 1), node_port(&bed, family, 1)] {
            for from in [&bed.client, &bed.stranger, bed.pod(2), &bed.node] {
                assert_eq!(reached(from, to).0.len(), 1);
            }
        }
        for to in [at(family, 2), node_port(&bed, family, 2)] {
            // In each round, a client that is forgotten draws anew.
            let mut pods = BTreeSet::new();
            for _ in 0..30 {
                pods.insert(bed.client.tcp(to).unwrap().pod);
                std::thread::sleep(Duration::from_millis(1_150));
                if pods.len() > 1 {
                    break;
                }
            }
            assert!(pods.len() > 1, "remembered for ever");
        }
    }
}

#[test]
fn pods_are_known_by_their_interface() {
    for detect in [
        DetectLocal::Bridge("veth1".into()),
        DetectLocal::Prefix("veth".into()),
    ] {
        let bed = Bed::new();
        let mut world = World::with(detect);
        world.serve(&bed, &service(1), &[2]);
        let mut proxy = Proxy::start(&bed, &world);
        proxy.sync(&mut world);
        for family in Family::ALL {
            let seen = |from: &Host| from.tcp(at(family, 1)).unwrap().client;
            assert_eq!(seen(bed.pod(1)), bed.pod(1).ip(family));
            assert_ne!(seen(&bed.client), bed.client.ip(family));
        }
    }
}

/// The first chain that rewrites a source there ends the packet's way through chains of type nat.
#[test]
fn an_unallocated_cluster_ip_is_silence_whoever_else_masquerades() {
    let bed = Bed::new();
    nft(&bed, "add table inet other");
    nft(
        &bed,
        "add chain inet other leaving { type nat hook postrouting priority 1; }",
    );
    nft(&bed, "add rule inet other leaving masquerade");
    let nobody = Family::ALL.map(|family| at(family, 77));
    for to in nobody {
        let answer = bed.pod(1).tcp(to).unwrap_err().kind();
        // "Prohibited", in the words of each family.
        let uplinks = [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied];
        assert!(uplinks.contains(&answer), "{answer}");
    }
    let mut world = World::empty();
    world.say(Event::ServiceCidrListBegins);
    world.say(Event::ServiceCidr(ServiceCidr {
        name: "kubernetes".into(),
        cidrs: vec!["10.96.0.0/16".into(), "fd00:96::/112".into()],
    }));
    world.say(Event::ServiceCidrListEnds);
    world.serve(&bed, &service(1), &[2]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for to in nobody {
        silent(bed.pod(1), to);
    }
    assert_eq!(reached(bed.pod(1), at(Family::V4, 1)).0, only(2));
}
