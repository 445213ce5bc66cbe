//! Large regular clusters, for benchmarks.

use std::net::Ipv4Addr;

use crate::said::{EndpointSlice, Event, Service, ServicePort, SliceEndpoint, SlicePort};

/// The first lists of a cluster of `services` ClusterIP Services (`default/svc-<i>`, port 80) with
/// one EndpointSlice of `endpoints` ready IPv4 endpoints (port 8080) each, made one by one as they
/// are asked for. One endpoint in ten is on `node-0`. ClusterIPs are counted up from 10.96.0.1,
/// endpoints from 10.128.0.1.
pub fn uniform(services: u32, endpoints: u32) -> impl Iterator<Item = Event> {
    std::iter::once(Event::ServiceListBegins)
        .chain((0..services).map(|i| Event::Service(service(i))))
        .chain([Event::ServiceListEnds, Event::SliceListBegins])
        .chain((0..services).map(move |i| Event::Slice(slice(i, endpoints))))
        .chain([Event::SliceListEnds])
}

fn address(base: [u8; 4], offset: u32) -> String {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)).wrapping_add(offset)).to_string()
}

fn service(i: u32) -> Service {
    Service {
        namespace: "default".to_owned(),
        name: format!("svc-{i}"),
        created: "2026-01-01T00:00:00Z".to_owned(),
        kind: "ClusterIP".to_owned(),
        cluster_ips: vec![address([10, 96, 0, 1], i)],
        ports: vec![ServicePort {
            protocol: "TCP".to_owned(),
            port: 80,
            ..ServicePort::default()
        }],
        ..Service::default()
    }
}

fn slice(i: u32, endpoints: u32) -> EndpointSlice {
    let endpoint = |number: u32| SliceEndpoint {
        addresses: vec![address([10, 128, 0, 1], number)],
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
        node_name: format!("node-{}", number % 10),
        ..SliceEndpoint::default()
    };
    EndpointSlice {
        namespace: "default".to_owned(),
        name: format!("svc-{i}-x7k2p"),
        service: format!("svc-{i}"),
        address_type: "IPv4".to_owned(),
        trigger_time: Some("2026-01-01T00:00:00Z".to_owned()),
        endpoints: (i * endpoints..(i + 1) * endpoints).map(endpoint).collect(),
        ports: vec![SlicePort {
            protocol: "TCP".to_owned(),
            port: Some(8080),
            ..SlicePort::default()
        }],
        ..EndpointSlice::default()
    }
}
