//! What features a Service has, one by one: a test for each row of the inventory.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod cluster_ip;
mod conflicts;
mod door;
mod endpoints;
mod events;
mod explain;
mod external;
mod node;
mod source_ranges;
mod topology;

use std::net::IpAddr;

use lb_model::said::{EndpointSlice, Event, Node, Service, ServicePort, SliceEndpoint, SlicePort};
use lb_model::{
    Complaint, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Model, ModelConfig,
    Packet, Protocol, ServiceName, Treatment,
};

/// ClusterIP 10.96.0.1, TCP port 80 named `http`.
fn service(name: &str) -> Service {
    Service {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        kind: "ClusterIP".to_owned(),
        cluster_ips: vec!["10.96.0.1".to_owned()],
        ports: vec![service_port("http", "TCP", 80)],
        ..Service::default()
    }
}

/// With node port 30080 and load-balancer IP 198.51.100.1.
fn balanced(name: &str) -> Service {
    let mut service = service(name);
    service.kind = "LoadBalancer".to_owned();
    service.ports[0].node_port = 30_080;
    service.ingress = vec![ingress("198.51.100.1", "")];
    service
}

fn ingress(ip: &str, mode: &str) -> lb_model::said::Ingress {
    lb_model::said::Ingress {
        ip: ip.to_owned(),
        ip_mode: mode.to_owned(),
    }
}

fn service_port(name: &str, protocol: &str, port: i32) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port,
        node_port: 0,
    }
}

/// One slice of `service`, of the family of its endpoints; TCP port 8080 named `http`.
fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    let v6 = endpoints
        .first()
        .is_some_and(|endpoint| endpoint.addresses[0].contains(':'));
    EndpointSlice {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        service: service.to_owned(),
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        ports: vec![slice_port("http", "TCP", 8080)],
        ..EndpointSlice::default()
    }
}

fn slice_port(name: &str, protocol: &str, port: i32) -> SlicePort {
    SlicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port: Some(port),
    }
}

/// Ready, on `node`; this node is `here`.
fn endpoint(ip: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![ip.to_owned()],
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
        node_name: node.to_owned(),
        ..SliceEndpoint::default()
    }
}

fn terminating(ip: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        ready: Some(false),
        terminating: Some(true),
        ..endpoint(ip, node)
    }
}

fn unready(ip: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        ready: Some(false),
        serving: Some(false),
        ..endpoint(ip, node)
    }
}

fn config() -> ModelConfig {
    ModelConfig {
        node_name: "here".to_owned(),
        ..ModelConfig::default()
    }
}

fn model(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Model {
    let mut model = Model::new(config());
    for event in services
        .into_iter()
        .map(Event::Service)
        .chain(slices.into_iter().map(Event::Slice))
    {
        let complaints = model.apply(event);
        assert_eq!(complaints, []);
    }
    model
}

fn node() -> Node {
    Node {
        name: "here".to_owned(),
        addresses: vec!["192.168.0.1".to_owned()],
        ..Node::default()
    }
}

fn name(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

fn frontends(model: &Model, service: &str) -> Vec<Frontend> {
    model.frontends(&name(service), Family::V4)
}

fn of_kind(model: &Model, service: &str, kind: FrontendKind) -> Frontend {
    let found = frontends(model, service)
        .into_iter()
        .find(|frontend| frontend.kind == kind);
    found.unwrap_or_else(|| panic!("{service} has no {kind:?}"))
}

fn vip(ip: &str, protocol: Protocol, port: u16) -> FrontendAddress {
    FrontendAddress::Vip {
        ip: self::ip(ip),
        protocol,
        port,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn chosen(ip: &str, port: u16, local: bool) -> Endpoint {
    Endpoint {
        ip: self::ip(ip),
        port,
        local,
        delegable: !local,
    }
}

/// Whom the frontend forwards to, as `address:port`.
fn forwarded(frontend: &Frontend) -> Vec<String> {
    match &frontend.treatment {
        Treatment::Forward { endpoints, .. } => shown(endpoints),
        other => panic!("{:?} does not forward but {other:?}", frontend.address),
    }
}

fn shown(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints
        .iter()
        .map(|e| std::net::SocketAddr::new(e.ip, e.port).to_string())
        .collect()
}

fn cluster_ip_forwards(model: &Model) -> Vec<String> {
    forwarded(&of_kind(model, "web", FrontendKind::ClusterIp))
}

fn packet(source: &str, destination: &str, port: u16) -> Packet {
    Packet {
        source: ip(source),
        interface: Some("eth0".to_owned()),
        destination: ip(destination),
        protocol: Protocol::Tcp,
        port,
        source_is_node: false,
        destination_is_node_port_address: false,
    }
}

fn complaint(object: &str, field: &str, value: &str, accepted: &'static str) -> Complaint {
    Complaint {
        object: object.to_owned(),
        field: field.to_owned(),
        value: value.to_owned(),
        accepted,
    }
}
