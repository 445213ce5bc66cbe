//! What changes while traffic goes on.

use std::process::Command;
use std::time::{Duration, Instant};

use lb_model::Family;
use lb_model::said::Event;

use crate::world::{Proxy, World, at, node_port, node_port_service, service};
use causeway_proxy::backend::PassReport;
use causeway_tests::packet_bed::{Bed, ask, ask_udp};

#[test]
fn endpoints_come_and_go() {
    let bed = Bed::new();
    let mut world = World::empty();
    let service = service(1);
    world.serve(&bed, &service, &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for pods in [&[2][..], &[2, 3], &[1, 2, 3], &[3], &[], &[1]] {
        world.endpoints(&bed, &service, pods);
        let operations = proxy.sync(&mut world).operations();
        assert!(operations > 0);
        for family in Family::ALL {
            let mut seen: Vec<usize> = (0..60)
                .filter_map(|_| bed.client.tcp(at(family, 1)).ok())
                .map(|seen| seen.pod)
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, pods);
        }
    }
    world.gone(&service);
    proxy.sync(&mut world);
    assert!(bed.client.tcp(at(Family::V4, 1)).is_err());
    assert_eq!(proxy.sync(&mut world).operations(), 0);
}

#[test]
fn a_connection_outlives_the_endpoints_turnover() {
    let bed = Bed::new();
    let mut world = World::empty();
    let service = node_port_service(1);
    world.serve(&bed, &service, &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let mut streams = Vec::new();
    for family in Family::ALL {
        streams.push(bed.client.connect(at(family, 1)).unwrap());
        streams.push(bed.client.connect(node_port(&bed, family, 1)).unwrap());
    }
    for pods in [&[2, 3][..], &[2], &[1, 2]] {
        world.endpoints(&bed, &service, pods);
        proxy.sync(&mut world);
        for stream in &mut streams {
            assert_eq!(ask(stream).unwrap().pod, 1);
        }
    }
}

#[test]
fn a_remembered_client_of_an_endpoint_that_left_gets_another() {
    let bed = Bed::new();
    let mut world = World::empty();
    let mut service = node_port_service(1);
    service.client_ip_affinity = true;
    world.serve(&bed, &service, &[1, 2]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        for to in [at(family, 1), node_port(&bed, family, 1)] {
            let first = bed.client.tcp(to).unwrap().pod;
            let kept = bed.pod(3).tcp(to).unwrap().pod;
            let other = if first == 1 { 2 } else { 1 };
            world.endpoints(&bed, &service, &[other, 3]);
            proxy.sync(&mut world);
            assert_ne!(bed.client.tcp(to).unwrap().pod, first);
            if kept == other {
                assert_eq!(bed.pod(3).tcp(to).unwrap().pod, kept);
            }
            world.endpoints(&bed, &service, &[1, 2]);
            proxy.sync(&mut world);
        }
    }
    // Another policy: whoever was remembered for a pod elsewhere must not go there.
    world.endpoints(&bed, &service, &[3]);
    proxy.sync(&mut world);
    let to = node_port(&bed, Family::V4, 1);
    assert_eq!(bed.client.tcp(to).unwrap().pod, 3);
    service.external_traffic_policy = "Local".into();
    world.serve(&bed, &service, &[1, 3]);
    proxy.sync(&mut world);
    assert_eq!(bed.client.tcp(to).unwrap().pod, 1);
}

/// How many stale flows of `family` a pass found.
fn deleted(report: &PassReport, family: Family) -> usize {
    report.flows.get(&family).map_or(0, |flows| flows.deleted)
}

#[test]
fn a_udp_flow_leaves_an_endpoint_that_left() {
    let bed = Bed::new();
    let mut world = World::empty();
    let service = node_port_service(1);
    let untouched = node_port_service(2);
    world.serve(&bed, &service, &[1]);
    world.serve(&bed, &untouched, &[2]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        let to = [at(family, 1), node_port(&bed, family, 1)];
        let flows = to.map(|to| bed.client.udp_socket(to));
        let other = bed.client.udp_socket(at(family, 2));
        for flow in &flows {
            assert_eq!(ask_udp(flow).unwrap().pod, 1);
        }
        assert_eq!(ask_udp(&other).unwrap().pod, 2);
        world.endpoints(&bed, &service, &[3]);
        let report = proxy.sync(&mut world);
        assert!(deleted(&report, family) >= 2);
        for flow in &flows {
            assert_eq!(ask_udp(flow).unwrap().pod, 3);
        }
        // Nobody left: not even those that keep sending stay in the void.
        world.endpoints(&bed, &service, &[]);
        assert!(deleted(&proxy.sync(&mut world), family) >= 2);
        world.endpoints(&bed, &service, &[1]);
        proxy.sync(&mut world);
        for flow in &flows {
            let late = Instant::now() + Duration::from_secs(60);
            // The first answer may be the refusal from before.
            while Instant::now() < late && ask_udp(flow).is_err() {}
            assert_eq!(ask_udp(flow).unwrap().pod, 1);
        }
        assert_eq!(ask_udp(&other).unwrap().pod, 2);
    }
}

#[test]
fn a_flow_to_an_endpoint_that_only_drains_goes_on() {
    let bed = Bed::new();
    let mut world = World::empty();
    let service = service(1);
    world.serve(&bed, &service, &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let flow = bed.client.udp_socket(at(Family::V4, 1));
    assert_eq!(ask_udp(&flow).unwrap().pod, 1);
    let mut slice = world.slice(&bed, &service, Family::V4, &[1, 2]);
    slice.endpoints[0].ready = Some(false);
    slice.endpoints[0].serving = Some(true);
    slice.endpoints[0].terminating = Some(true);
    world.say(Event::Slice(slice.clone()));
    proxy.sync(&mut world);
    assert_eq!(ask_udp(&flow).unwrap().pod, 1);
    assert_eq!(bed.client.udp(at(Family::V4, 1)).unwrap().pod, 2);
    slice.endpoints[0].serving = Some(false);
    world.say(Event::Slice(slice));
    assert_eq!(deleted(&proxy.sync(&mut world), Family::V4), 1);
    assert_eq!(ask_udp(&flow).unwrap().pod, 2);
}

#[test]
fn node_port_addresses_and_the_detector_change_under_way() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &node_port_service(1), &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let to = node_port(&bed, Family::V4, 1);
    let mut stream = bed.client.connect(at(Family::V4, 1)).unwrap();
    assert!(bed.client.tcp(to).is_ok());
    let mut settings = world.settings(&bed, Family::V4);
    settings.node_port_addresses.clear();
    proxy.backend.set_settings(settings.clone());
    assert_eq!(proxy.sync(&mut world).operations(), 1);
    assert!(bed.client.tcp(to).is_err());
    settings.detector = lb_model::LocalDetector::None;
    settings.node_port_addresses.insert(bed.node.ip(Family::V4));
    proxy.backend.set_settings(settings);
    let report = proxy.sync(&mut world);
    assert!(report.families[&Family::V4].full && !report.families[&Family::V6].full);
    assert!(bed.client.tcp(to).is_ok());
    let client = bed.client.ip(Family::V4);
    assert_eq!(
        bed.client.tcp(at(Family::V4, 1)).unwrap().client,
        client,
        "nobody is masqueraded"
    );
    assert_eq!(ask(&mut stream).unwrap().pod, 1);
}

/// A packet that met the rules before an endpoint left, and made its entry after the flows were
/// looked at: made by hand, since no real packet can be held there.
#[test]
fn a_flow_that_was_under_way_is_found_by_a_second_look() {
    let bed = Bed::new();
    let mut world = World::empty();
    let mut proxy = Proxy::start(&bed, &world);
    world.serve(&bed, &service(1), &[1]);
    proxy.sync(&mut world);
    world.endpoints(&bed, &service(1), &[2]);
    let report = proxy.sync(&mut world);
    let again = report.flows[&Family::V4].look_again.unwrap();
    let late = "-I -p udp -s 192.0.2.7 -d 10.96.0.1 --sport 4000 --dport 80 -t 600 \
                --reply-src 10.244.1.2 --reply-dst 192.0.2.7 --reply-port-src 8080 \
                --reply-port-dst 4000";
    conntrack(&bed, late);
    let there = || conntrack(&bed, "-L -p udp").contains("192.0.2.7");
    assert!(there());
    std::thread::sleep(again.saturating_duration_since(Instant::now()));
    let report = proxy.sync(&mut world);
    let flows = &report.flows[&Family::V4];
    assert_eq!((flows.deleted, flows.look_again), (1, None));
    assert!(!there());
    // The other family's may be due by now, this one's is done.
    assert!(!proxy.sync(&mut world).flows.contains_key(&Family::V4));
}

/// `conntrack` with these words on the node.
fn conntrack(bed: &Bed, words: &str) -> String {
    let run = || {
        Command::new("conntrack")
            .args(words.split_whitespace())
            .output()
    };
    let output = bed.node.netns.run(run).unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "conntrack {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
