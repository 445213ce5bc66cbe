//! What representative Services look like, as text, and that nft takes the text.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::process::{Command, Stdio};

use lb_model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, LocalDetector, Masquerade, Protocol,
    ServiceName, Treatment,
};
use lb_plan::nftables::{Applied, Balancer, Operation, Pass, Settings, render, skeleton};

use crate::cluster::Cluster;
use crate::golden::golden;

/// An address of the family with the last number `n`.
fn ip(family: Family, net: &str, n: u8) -> IpAddr {
    match family {
        Family::V4 => format!("10.{net}.0.{n}").parse().unwrap(),
        Family::V6 => format!("fd00:{net}::{n}").parse().unwrap(),
    }
}

fn pods(family: Family, range: std::ops::RangeInclusive<u8>) -> Vec<Endpoint> {
    range
        .map(|n| Endpoint {
            ip: ip(family, "244", n),
            port: 6379,
            local: n % 2 == 1,
            delegable: false,
        })
        .collect()
}

fn frontend(address: FrontendAddress, kind: FrontendKind, treatment: Treatment) -> Frontend {
    Frontend {
        address,
        kind,
        affinity: None,
        allowed_sources: None,
        treatment,
    }
}

fn forward(endpoints: Vec<Endpoint>, masquerade: Masquerade) -> Treatment {
    Treatment::Forward {
        endpoints,
        masquerade,
    }
}

/// Addresses of one family.
struct Names {
    family: Family,
}

impl Names {
    fn vip(&self, n: u8, protocol: Protocol, port: u16) -> FrontendAddress {
        let ip = ip(self.family, "96", n);
        FrontendAddress::Vip { ip, protocol, port }
    }

    fn node_port(&self, protocol: Protocol, port: u16) -> FrontendAddress {
        let family = self.family;
        FrontendAddress::NodePort {
            family,
            protocol,
            port,
        }
    }

    fn in_cluster(&self, range: std::ops::RangeInclusive<u8>) -> Treatment {
        forward(pods(self.family, range), Masquerade::OffCluster)
    }

    /// With affinity, by UDP.
    fn dns(&self) -> Vec<Frontend> {
        let address = self.vip(10, Protocol::Udp, 53);
        let mut dns = frontend(address, FrontendKind::ClusterIp, self.in_cluster(1..=2));
        dns.affinity = NonZeroU32::new(10_800);
        vec![dns]
    }

    /// A balancer of all kinds of addresses.
    fn web(&self) -> Vec<Frontend> {
        let outside = || forward(pods(self.family, 1..=2), Masquerade::Always);
        let address = self.vip(200, Protocol::Tcp, 80);
        let mut balancer = frontend(address, FrontendKind::LoadBalancer, outside());
        let sources = match self.family {
            Family::V4 => ["192.0.2.0/24", "198.51.100.7/32"],
            Family::V6 => ["2001:db8::/32", "2001:db9::7/128"],
        };
        balancer.allowed_sources = Some(sources.map(|s| s.parse().unwrap()).to_vec());
        let inside = self.vip(2, Protocol::Tcp, 80);
        let port = self.node_port(Protocol::Tcp, 30_080);
        vec![
            frontend(inside, FrontendKind::ClusterIp, self.in_cluster(1..=2)),
            frontend(port, FrontendKind::NodePort, outside()),
            balancer,
        ]
    }

    /// Policy Local, with and without an endpoint here; SCTP.
    fn local(&self) -> Vec<Frontend> {
        let (cluster, here) = (pods(self.family, 1..=4), pods(self.family, 1..=1));
        let local = |local: &[Endpoint]| Treatment::LocalOnly {
            cluster: cluster.clone(),
            local: local.to_vec(),
        };
        let external = |n, local| {
            frontend(
                self.vip(n, Protocol::Sctp, 5060),
                FrontendKind::ExternalIp,
                local,
            )
        };
        let port = self.node_port(Protocol::Udp, 30_053);
        let mut sticky = frontend(port, FrontendKind::NodePort, local(&here));
        sticky.affinity = NonZeroU32::new(60);
        vec![
            external(201, local(&here)),
            external(202, local(&[])),
            sticky,
        ]
    }

    /// Nobody behind.
    fn empty(&self) -> Vec<Frontend> {
        let (tcp, udp) = (
            self.vip(3, Protocol::Tcp, 80),
            self.vip(3, Protocol::Udp, 80),
        );
        vec![
            frontend(tcp, FrontendKind::ClusterIp, Treatment::Reject),
            frontend(udp, FrontendKind::ClusterIp, Treatment::Drop),
        ]
    }
}

fn cluster(family: Family) -> Cluster {
    let names = Names { family };
    let redis = names.vip(1, Protocol::Tcp, 6379);
    let redis = frontend(redis, FrontendKind::ClusterIp, names.in_cluster(1..=3));
    let services = [
        ("redis", vec![redis]),
        ("dns", names.dns()),
        ("web", names.web()),
        ("local", names.local()),
        ("empty", names.empty()),
    ];
    let services = services.into_iter();
    services
        .map(|(name, frontends)| (ServiceName::new("default", name), frontends))
        .collect()
}

fn settings(family: Family) -> Settings {
    Settings {
        family,
        masquerade_bit: 14,
        detector: match family {
            Family::V4 => LocalDetector::Cidr("10.244.0.0/16".parse().unwrap()),
            Family::V6 => LocalDetector::InterfacePrefix("veth".into()),
        },
        node_port_addresses: BTreeSet::from([ip(family, "0", 1)]),
        service_cidrs: match family {
            Family::V4 => BTreeSet::from(["10.96.0.0/16".parse().unwrap()]),
            Family::V6 => BTreeSet::from(["fd00:96::/112".parse().unwrap()]),
        },
        balancer: Balancer::Rules,
    }
}

fn operations(applied: &mut Applied, settings: &Settings, cluster: &Cluster) -> Vec<Operation> {
    let mut operations = settings.node_port_address_changes(applied.node_port_addresses());
    operations.extend(settings.service_cidr_changes(applied.service_cidrs()));
    applied.set_addresses(settings);
    let mut pass = Pass::new(applied, settings);
    for (service, frontends) in cluster {
        for step in pass.plan(service, frontends) {
            operations.extend(step.operations.iter().cloned());
            pass.commit(step);
        }
    }
    if let Some(step) = pass.sweep() {
        operations.extend(step.operations.iter().cloned());
        pass.commit(step);
    }
    operations
}

/// Whether nft takes `texts` one after the other, in a network namespace of their own.
fn nft_takes(texts: &[&str]) {
    let mut child = Command::new("unshare")
        .args(["--net", "nft", "-c", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for text in texts {
        for line in text.lines() {
            // nft lists these, but cannot read them.
            if !line.contains("ct original proto-dst") {
                writeln!(stdin, "{line}").unwrap();
            }
        }
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

fn family_goldens(family: Family, name: &str) {
    let settings = settings(family);
    let mut applied = Applied::default();
    let mut wanted = cluster(family);
    let empty = render(family, &skeleton(&settings));
    golden(&format!("{name}-table.nft"), &empty);
    let text = render(family, &operations(&mut applied, &settings, &wanted));
    golden(&format!("{name}-services.nft"), &text);

    // One endpoint of redis replaced, one of dns gone, all behind web gone.
    let endpoints = |service: &str, endpoints: Vec<Endpoint>| {
        let service = ServiceName::new("default", service);
        let mut frontends = wanted[&service].clone();
        for frontend in &mut frontends {
            frontend.treatment = if endpoints.is_empty() {
                Treatment::Reject
            } else {
                forward(endpoints.clone(), Masquerade::OffCluster)
            };
        }
        (service, frontends)
    };
    let redis = pods(family, 1..=4)
        .into_iter()
        .filter(|e| e.ip != ip(family, "244", 2))
        .collect();
    let changed = Cluster::from([
        endpoints("redis", redis),
        endpoints("dns", pods(family, 2..=2)),
        endpoints("web", Vec::new()),
    ]);
    let change = render(family, &operations(&mut applied, &settings, &changed));
    golden(&format!("{name}-change.nft"), &change);

    wanted.values_mut().for_each(Vec::clear);
    let end = render(family, &operations(&mut applied, &settings, &wanted));
    golden(&format!("{name}-end.nft"), &end);
    assert!(applied.is_empty());
    nft_takes(&[&empty, &text, &change, &end]);
}

#[test]
fn ipv4() {
    family_goldens(Family::V4, "ipv4");
}

#[test]
fn ipv6() {
    family_goldens(Family::V6, "ipv6");
}
