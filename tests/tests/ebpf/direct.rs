//! Direct server return: what comes from outside to one node is answered by the node of the
//! endpoint.

mod flows;
mod site;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use causeway_tests::packet_bed::{Host, Seen, Site};
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use serde_json::Value;

use crate::node::PATIENCE;
use site::{Daemon, Watch, balancer, daemons, on_a_site};

const BOTH: [bool; 2] = [true; 2];

fn serve(daemons: &mut [Daemon<'_>; 2], pods: &[usize]) {
    for daemon in daemons {
        daemon.serve(pods);
    }
}

/// Has the client connect, over TCP and UDP, until each of these pods has answered both, and nobody
/// else did: whom they saw.
fn met(site: &Site, family: Family, pods: &[usize]) -> BTreeSet<IpAddr> {
    let to = balancer(family);
    let mut clients = BTreeSet::new();
    let asks: [fn(&Host, SocketAddr) -> std::io::Result<Seen>; 2] = [Host::tcp, Host::udp];
    for ask in asks {
        let mut met = BTreeSet::new();
        for _ in 0..200 {
            let seen = ask(&site.client, to).unwrap();
            clients.insert(seen.client);
            met.insert(seen.pod);
            if met.iter().eq(pods) {
                break;
            }
        }
        assert!(met.iter().eq(pods), "{met:?}");
    }
    clients
}

/// The same of both families: whom they saw is the client itself.
fn meet_their_client(site: &Site, pods: &[usize]) {
    for family in Family::ALL {
        let client = site.client.ip(family);
        assert_eq!(met(site, family, pods), [client].into());
    }
}

fn number(tracks: &[Value]) -> u64 {
    tracks.len().try_into().unwrap()
}

/// Connections that a daemon has counted for the Service.
fn counted(daemon: &Daemon<'_>) -> u64 {
    let rows = daemon.shown("traffic");
    let all = rows.iter().filter(|row| row["backend"].is_null());
    all.map(|row| row["connections"].as_u64().unwrap()).sum()
}

fn answers(tracks: &[Value]) -> u64 {
    let packets = tracks.iter().map(|track| track["answerPackets"].as_u64());
    packets.map(Option::unwrap).sum()
}

#[test]
fn an_endpoint_sees_its_client_and_answers_it_past_the_first_node() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        serve(&mut both, &[1, 2, 3]);
        let watch = Watch::over(site);
        meet_their_client(site, &[1, 2, 3]);
        let [first, second] = &both;
        let split = || -> (Vec<Value>, Vec<Value>) {
            let tracks = first.shown("tracks").into_iter();
            tracks.partition(|track| track["direct"] == false)
        };
        let (here, there) = split();
        assert!(!here.is_empty() && !there.is_empty());
        let local = Family::ALL.map(|family| site.pod(1).ip(family));
        for track in &here {
            let backend: SocketAddr = track["backend"].as_str().unwrap().parse().unwrap();
            assert!(local.contains(&backend.ip()), "{track}");
        }
        for track in &there {
            assert!(track["masqueradedAs"].is_null(), "{track}");
            assert_eq!(track["answerPackets"], 0, "{track}");
        }
        assert!(watch.sent() >= number(&there));
        // But for those of its own pod. (The last ones may be under way.)
        let own = || watch.answers() == answers(&split().0);
        wait_until("no answer of others", PATIENCE, own).unwrap();

        assert_eq!(first.events("direct_connection"), number(&there));
        assert_eq!(first.events("connection"), number(&here));
        assert_eq!(second.events("direct_connection"), 0);
        // They are the Service's where they are translated.
        assert_eq!(counted(first), number(&here));
        assert_eq!(counted(second), number(&there));
        let seen = second.shown("tracks");
        assert!(seen.iter().all(|track| track["direct"] == false));
        assert!(answers(&seen) >= number(&there));
    });
}

#[test]
fn where_it_is_off_the_first_node_stands_between() {
    for direct in [[false, false], [false, true]] {
        on_a_site(|site| {
            let mut both = daemons(site, direct);
            serve(&mut both, &[2, 3]);
            let watch = Watch::over(site);
            for family in Family::ALL {
                let node = site.nodes[0].ip(family);
                assert_eq!(met(site, family, &[2, 3]), [node].into());
            }
            assert_eq!(watch.sent(), 0);
            assert!(watch.answers() > 0);
            assert_eq!(both[0].events("direct_connection"), 0);
        });
    }
}

/// As any other proxy would, and as this one does at an address that it masquerades.
#[test]
fn an_endpoints_node_that_knows_nothing_of_it_takes_it_for_a_clients_packet() {
    on_a_site(|site| {
        let mut both = daemons(site, [true, false]);
        serve(&mut both, &[2, 3]);
        let watch = Watch::over(site);
        for (family, gateways) in [
            (Family::V4, ["10.244.2.1", "10.244.3.1"]),
            (Family::V6, ["fd00:244:2::1", "fd00:244:3::1"]),
        ] {
            let node = gateways.map(|ip| ip.parse::<IpAddr>().unwrap());
            assert_eq!(met(site, family, &[2, 3]), node.into());
        }
        assert!(watch.sent() > 0);
        assert_eq!(watch.answers(), 0);
    });
}

/// The first node believes in a pod of the second one, which knows of the other way round only.
#[test]
fn what_comes_back_is_masqueraded() {
    on_a_site(|site| {
        let [mut first, mut second] = daemons(site, BOTH);
        first.serve(&[2]);
        second.serve(&[1]);
        for family in Family::ALL {
            let node = site.nodes[0].ip(family);
            assert_eq!(met(site, family, &[2]), [node].into());
        }
        assert!(first.events("direct_connection") > 0);
        assert!(first.events("connection") > 0);
    });
}

#[test]
fn a_way_that_leads_by_a_router_gives_it_back() {
    on_a_site(|site| {
        let mut both = daemons(site, BOTH);
        site.part_nodes();
        serve(&mut both, &[2, 3]);
        for family in Family::ALL {
            let node = site.nodes[0].ip(family);
            assert_eq!(met(site, family, &[2, 3]), [node].into());
        }
    });
}
