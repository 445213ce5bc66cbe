//! What representative Services look like, as iptables-restore reads them, and that it takes them.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use lb_model::said::{
    EndpointSlice, Event, Ingress, Service, ServicePort, SliceEndpoint, SlicePort,
};
use lb_model::{DetectLocal, Family, Model, ModelConfig};
use lb_plan::iptables::{Listing, Settings};

use crate::golden::golden;
use crate::node::{Node, settings};

/// An address of the family with the last number `n`.
fn ip(family: Family, net: &str, n: u8) -> String {
    match family {
        Family::V4 => format!("10.{net}.0.{n}"),
        Family::V6 => format!("fd00:{net}::{n}"),
    }
}

fn port(name: &str, protocol: &str, port: i32, node_port: i32) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: protocol.into(),
        port,
        node_port,
    }
}

/// Service `name` with the ClusterIP of number `n`.
fn service(family: Family, name: &str, n: u8, ports: Vec<ServicePort>) -> Service {
    Service {
        namespace: "default".into(),
        name: name.into(),
        cluster_ips: vec![ip(family, "96", n)],
        ports,
        ..Service::default()
    }
}

/// One slice of `service` with the pods of these numbers; the odd ones are on this node.
fn slice(family: Family, service: &Service, pods: &[u8]) -> EndpointSlice {
    let endpoint = |n: &u8| SliceEndpoint {
        addresses: vec![ip(family, "244", *n)],
        node_name: format!("node-{}", (n + 1) % 2),
        ..SliceEndpoint::default()
    };
    let slice_port = |port: &ServicePort| SlicePort {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        port: Some(6379),
    };
    EndpointSlice {
        namespace: "default".into(),
        name: service.name.clone(),
        service: service.name.clone(),
        address_type: match family {
            Family::V4 => "IPv4".into(),
            Family::V6 => "IPv6".into(),
        },
        endpoints: pods.iter().map(endpoint).collect(),
        ports: service.ports.iter().map(slice_port).collect(),
        ..EndpointSlice::default()
    }
}

/// Every kind of Service once, and the pods behind it.
fn services(family: Family) -> Vec<(Service, &'static [u8])> {
    let redis = service(family, "redis", 1, vec![port("", "TCP", 6379, 0)]);
    let mut dns = service(
        family,
        "dns",
        10,
        vec![port("dns", "UDP", 53, 0), port("dns-tcp", "TCP", 53, 0)],
    );
    dns.client_ip_affinity = true;
    dns.affinity_seconds = Some(10_800);
    let mut web = service(family, "web", 2, vec![port("http", "TCP", 80, 30_080)]);
    web.kind = "LoadBalancer".into();
    web.ingress = vec![Ingress {
        ip: ip(family, "97", 1),
        ip_mode: "VIP".into(),
    }];
    web.external_ips = vec![ip(family, "97", 2)];
    web.source_ranges = match family {
        Family::V4 => vec!["192.0.2.0/24".into(), "198.51.100.7/32".into()],
        Family::V6 => vec!["2001:db8::/32".into(), "2001:db9::7/128".into()],
    };
    let mut near = service(family, "near", 3, vec![port("sip", "SCTP", 5060, 30_060)]);
    near.kind = "LoadBalancer".into();
    near.external_traffic_policy = "Local".into();
    near.internal_traffic_policy = "Local".into();
    near.health_check_node_port = 32_000;
    let mut far = near.clone();
    far.name = "far".into();
    far.cluster_ips = vec![ip(family, "96", 4)];
    far.ports = vec![port("sip", "SCTP", 5060, 30_061)];
    far.health_check_node_port = 32_001;
    let mut empty = web.clone();
    empty.name = "empty".into();
    empty.cluster_ips = vec![ip(family, "96", 5)];
    empty.ports = vec![port("http", "TCP", 8080, 30_081)];
    vec![
        (redis, &[1, 2, 3]),
        (dns, &[1, 2]),
        (web, &[1, 2]),
        (near, &[1, 2]),
        (far, &[2]),
        (empty, &[]),
    ]
}

fn model(family: Family) -> Model {
    let mut model = Model::new(ModelConfig {
        node_name: "node-0".into(),
        detect_local: match family {
            Family::V4 => DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]),
            Family::V6 => DetectLocal::Prefix("veth".into()),
        },
        masquerade_all: false,
    });
    for (service, pods) in services(family) {
        let slice = slice(family, &service, pods);
        assert_eq!(model.apply(Event::Service(service)), []);
        assert_eq!(model.apply(Event::Slice(slice)), []);
    }
    model.take_changes();
    model
}

/// Whether the programs of a variant take `inputs` one after the other, in a network namespace of
/// their own; gives what they list after each.
fn taken(family: Family, variant: &str, inputs: &[&str]) -> Vec<String> {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let restore = format!("{program}-{variant}-restore --noflush --wait 10");
    let save = format!("{program}-{variant}-save");
    let script =
        format!("for input do printf %s \"$input\" | {restore} || exit; {save}; echo =====; done");
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script, "sh"])
        .args(inputs)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{restore}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator("=====\n")
        .map(str::to_owned)
        .collect()
}

fn heard(listing: &str) -> Listing {
    let mut found = Listing::default();
    listing.lines().for_each(|line| found.line(line));
    found
}

fn family_goldens(family: Family, name: &str) {
    let mut model = model(family);
    let settings = Settings {
        localhost_node_ports: true,
        ..settings(&model, family, None)
    };
    let mut node = Node::new(settings);
    let full = node.full(&model);
    golden(&format!("{name}-full.iptables"), &full);
    let after_full = node.listing();
    assert!(node.applied.is_in(&node.settings, &after_full));

    // One endpoint of redis replaced, nobody behind web any more, somebody behind what was empty.
    let pods: [(&str, &[u8]); 3] = [("redis", &[1, 3, 4]), ("web", &[]), ("empty", &[1])];
    for (service, pods) in pods {
        let all = services(family);
        let (service, _) = all.iter().find(|(one, _)| one.name == service).unwrap();
        assert_eq!(model.apply(Event::Slice(slice(family, service, pods))), []);
    }
    let changed: BTreeSet<_> = model.take_changes().services;
    let change = node.partial(&model, &changed);
    golden(&format!("{name}-change.iptables"), &change);

    for variant in ["nft", "legacy"] {
        let listings = taken(family, variant, &[&full, &change]);
        let found = heard(&listings[1]);
        assert!(
            node.applied.is_in(&node.settings, &found),
            "{}",
            listings[1]
        );
        assert!(listings[1].contains("KUBE-"));
        let removal = found.removal().unwrap();
        let listings = taken(family, variant, &[&full, &change, &removal]);
        assert!(!listings[2].contains("KUBE-"), "{}", listings[2]);
    }
}

#[test]
fn ipv4() {
    family_goldens(Family::V4, "ipv4");
}

#[test]
fn ipv6() {
    family_goldens(Family::V6, "ipv6");
}

/// What others' rules lead to stays, but nothing in it, which would lead to what is removed.
#[test]
fn a_chain_that_others_lead_to_is_emptied() {
    let shared = include_str!("../inputs/shared.iptables");
    for variant in ["nft", "legacy"] {
        let there = &taken(Family::V4, variant, &[shared])[0];
        let removal = heard(there).removal().unwrap();
        let listings = taken(Family::V4, variant, &[shared, &removal]);
        let (_, nat) = listings[1].split_once("*nat").unwrap();
        let (nat, _) = nat.split_once("COMMIT").unwrap();
        assert!(
            !nat.contains("KUBE-SVC-") && !nat.contains("-A PREROUTING -j KUBE-"),
            "{nat}"
        );
        assert!(nat.contains("-A OTHERS -p tcp -g KUBE-SERVICES"), "{nat}");
        assert!(
            listings[1].contains("-A PREROUTING -j KUBE-SERVICES"),
            "of table raw"
        );
        assert_eq!(heard(&listings[1]).removal(), None);
    }
}

/// As kube-proxy's mode ipvs wrote it. (Its rules need sets, which this kernel may lack.)
#[test]
fn what_only_mode_ipvs_has_goes_alone_or_with_the_rest() {
    let there = heard(include_str!("../inputs/ipvs.iptables"));
    golden("ipvs-removal.iptables", &there.removal().unwrap());
    golden(
        "ipvs-chains-removal.iptables",
        &there.ipvs_removal().unwrap(),
    );
}
