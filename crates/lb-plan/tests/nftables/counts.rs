//! What a change costs must not depend on how many Services there are.

use std::net::IpAddr;
use std::num::NonZeroU32;

use lb_model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, LocalDetector, Masquerade, Protocol,
    Treatment,
};
use lb_plan::nftables::{Applied, Operation, Pass};

use crate::cluster::{Cluster, service};
use crate::node::settings;

const SERVICES: usize = 10_000;

/// The `n`th address of 10.`net`.0.0/16.
fn ip(net: u8, n: usize) -> IpAddr {
    let [_, _, high, low] = u32::try_from(n).unwrap().to_be_bytes();
    IpAddr::from([10, net, high, low])
}

fn endpoint(n: usize) -> Endpoint {
    Endpoint {
        ip: ip(200, n),
        port: 8080,
        local: n.is_multiple_of(50),
        delegable: false,
    }
}

fn cluster_ip(n: usize, endpoints: Vec<Endpoint>) -> Frontend {
    Frontend {
        address: FrontendAddress::Vip {
            ip: ip(96, n),
            protocol: Protocol::Tcp,
            port: 80,
        },
        kind: FrontendKind::ClusterIp,
        affinity: None,
        allowed_sources: None,
        treatment: Treatment::Forward {
            endpoints,
            masquerade: Masquerade::OffCluster,
        },
    }
}

/// All that a Service can have: ClusterIP, node port and balancer, with affinity.
fn everything(n: usize, endpoints: &[Endpoint]) -> Vec<Frontend> {
    let mut frontends = vec![cluster_ip(n, endpoints.to_vec()); 3];
    let (family, protocol) = (Family::V4, Protocol::Tcp);
    frontends[1].address = FrontendAddress::NodePort {
        family,
        protocol,
        port: 30_000,
    };
    frontends[1].kind = FrontendKind::NodePort;
    frontends[2].address = FrontendAddress::Vip {
        ip: ip(97, n),
        protocol,
        port: 80,
    };
    frontends[2].kind = FrontendKind::LoadBalancer;
    for frontend in &mut frontends {
        frontend.affinity = NonZeroU32::new(10_800);
    }
    frontends
}

/// Applies what leads to `changed`; gives the operations.
fn pass(applied: &mut Applied, changed: &Cluster) -> Vec<Operation> {
    let settings = settings(LocalDetector::Cidr("10.200.0.0/16".parse().unwrap()));
    let mut pass = Pass::new(applied, &settings);
    let mut operations = Vec::new();
    for (service, frontends) in changed {
        pass.claim(service, frontends);
    }
    for (service, frontends) in changed {
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

fn full() -> Applied {
    let mut applied = Applied::default();
    let cluster = (0..SERVICES)
        .map(|n| {
            (
                service(n),
                vec![cluster_ip(n, vec![endpoint(2 * n), endpoint(2 * n + 1)])],
            )
        })
        .collect();
    pass(&mut applied, &cluster);
    assert_eq!(applied.len(), SERVICES);
    applied
}

#[track_caller]
fn costs(applied: &mut Applied, n: usize, frontends: Vec<Frontend>, limit: usize) {
    let operations = pass(applied, &Cluster::from([(service(n), frontends)]));
    assert!(!operations.is_empty());
    let text = lb_plan::nftables::render(Family::V4, &operations);
    assert!(
        operations.len() <= limit,
        "{} operations:\n{text}",
        operations.len()
    );
}

#[test]
fn one_change_of_ten_thousand_services_is_a_handful_of_operations() {
    let mut applied = full();
    let extra = endpoint(60_001);
    let old = [endpoint(14), endpoint(15)];
    // Replaced, one more (a class that nobody had), back to two (it goes again), none.
    costs(&mut applied, 7, vec![cluster_ip(7, vec![old[0], extra])], 2);
    costs(
        &mut applied,
        7,
        vec![cluster_ip(7, vec![old[0], old[1], extra])],
        7,
    );
    costs(
        &mut applied,
        7,
        vec![cluster_ip(7, vec![old[0], old[1]])],
        8,
    );
    costs(
        &mut applied,
        7,
        vec![cluster_ip(7, vec![old[0], endpoint(60_050)])],
        3,
    );
    // Gone, and there again.
    costs(&mut applied, 7, vec![], 5);
    costs(
        &mut applied,
        7,
        vec![cluster_ip(7, vec![old[0], old[1]])],
        4,
    );
    costs(
        &mut applied,
        SERVICES,
        vec![cluster_ip(SERVICES, vec![extra])],
        8,
    );
    costs(
        &mut applied,
        SERVICES + 1,
        vec![cluster_ip(SERVICES + 1, vec![extra])],
        3,
    );
}

#[test]
fn a_service_with_everything_costs_a_handful_a_frontend() {
    let mut applied = full();
    let n = SERVICES;
    let pods: Vec<Endpoint> = (0..4).map(|n| endpoint(60_001 + n)).collect();
    costs(&mut applied, n, everything(n, &pods[..3]), 12 + 5 * 3 + 2);
    let replaced = [pods[0], pods[1], pods[3]];
    costs(&mut applied, n, everything(n, &replaced), 2 * 3);
    costs(&mut applied, n, Vec::new(), 5 * 3 + 4);
}
