//! Deterministic random clusters (feature `generate`), for property tests and benchmarks: the same
//! seed gives the same objects, changes and packets for ever.

mod packets;
mod random;
mod uniform;

pub use random::Random;
pub use uniform::uniform;

use ipnetwork::IpNetwork;

use crate::model::{DetectLocal, ModelConfig};
use crate::said::{
    EndpointSlice, Event, Ingress, Node, Service, ServicePort, SliceEndpoint, SlicePort,
};

/// A small cluster whose objects collide often: few addresses, ports, nodes and zones, so that
/// conflicts, duplicates and moves happen within a few dozen changes. Both families.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the model is told besides the objects.
    pub config: ModelConfig,
    /// The own Node, `node-0`.
    pub node: Option<Node>,
    /// All Services, by number; `None`: deleted, or not there yet.
    pub services: Vec<Option<Service>>,
    /// All EndpointSlices, by number.
    pub slices: Vec<Option<EndpointSlice>>,
    random: Random,
}

impl Cluster {
    /// A cluster of at most `size` Services (1 to 50) and twice as many EndpointSlices.
    pub fn new(seed: u64, size: usize) -> Self {
        let size = size.clamp(1, 50);
        let mut random = Random::new(seed);
        let config = config(&mut random);
        let node = Some(node(&mut random));
        let services = (0..size)
            .map(|i| Some(service(&mut random, i, size)))
            .collect();
        let slices = (0..2 * size)
            .map(|i| Some(slice(&mut random, i, size)))
            .collect();
        Self {
            config,
            node,
            services,
            slices,
            random,
        }
    }

    /// Everything there is, as the first lists tell it.
    pub fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = self.node.iter().cloned().map(Event::Node).collect();
        events.push(Event::ServiceListBegins);
        events.extend(self.services.iter().flatten().cloned().map(Event::Service));
        events.push(Event::ServiceListEnds);
        events.push(Event::SliceListBegins);
        events.extend(self.slices.iter().flatten().cloned().map(Event::Slice));
        events.push(Event::SliceListEnds);
        events
    }

    /// One random change, and the event that tells it.
    pub fn change(&mut self) -> Event {
        let size = self.services.len();
        match self.random.below(20) {
            0 => self.change_node(),
            1..=6 => self.change_service(size),
            _ => self.change_slice(size),
        }
    }

    fn change_node(&mut self) -> Event {
        if self.random.one_in(4) {
            self.node = None;
            return Event::NodeGone;
        }
        let node = node(&mut self.random);
        self.node = Some(node.clone());
        Event::Node(node)
    }

    fn change_service(&mut self, size: usize) -> Event {
        let i = self.random.below(size);
        let service = service(&mut self.random, i, size);
        if self.random.one_in(3) {
            self.services[i] = None;
            return Event::ServiceGone {
                namespace: service.namespace,
                name: service.name,
            };
        }
        self.services[i] = Some(service.clone());
        Event::Service(service)
    }

    fn change_slice(&mut self, size: usize) -> Event {
        let i = self.random.below(self.slices.len());
        let slice = slice(&mut self.random, i, size);
        if self.random.one_in(4) {
            self.slices[i] = None;
            return Event::SliceGone {
                namespace: slice.namespace,
                name: slice.name,
            };
        }
        self.slices[i] = Some(slice.clone());
        Event::Slice(slice)
    }
}

fn config(random: &mut Random) -> ModelConfig {
    let detect_local = match random.below(5) {
        0 => DetectLocal::None,
        1 => DetectLocal::ClusterCidr(
            ["10.244.0.0/16", "fd00:244::/32"]
                .iter()
                .filter_map(|cidr| cidr.parse::<IpNetwork>().ok())
                .collect(),
        ),
        2 => DetectLocal::NodeCidr,
        3 => DetectLocal::Bridge("br0".to_owned()),
        _ => DetectLocal::Prefix("veth".to_owned()),
    };
    ModelConfig {
        node_name: "node-0".to_owned(),
        detect_local,
        masquerade_all: random.one_in(5),
    }
}

fn node(random: &mut Random) -> Node {
    Node {
        name: "node-0".to_owned(),
        zone: ["zone-0", "zone-1", ""][random.below(3)].to_owned(),
        pod_cidrs: match random.below(3) {
            0 => vec![],
            1 => vec!["10.244.0.0/24".to_owned()],
            _ => vec!["10.244.0.0/24".to_owned(), "fd00:244::/48".to_owned()],
        },
        addresses: vec!["192.168.0.1".to_owned(), "fd00:168::1".to_owned()],
        deleting: random.one_in(9),
        to_be_deleted: random.one_in(9),
    }
}

fn policy(random: &mut Random) -> String {
    ["", "Cluster", "Local"][random.below(3)].to_owned()
}

fn service(random: &mut Random, i: usize, size: usize) -> Service {
    // Now and then the ClusterIP of another Service, as while one replaces the other.
    let address = 1 + if random.one_in(12) { i / 2 } else { i };
    let v4 = format!("10.96.0.{address}");
    let v6 = format!("fd00:96::{address:x}");
    let kind = match random.below(9) {
        0 => "ExternalName",
        1 | 2 => "NodePort",
        3..=5 => "LoadBalancer",
        _ => "ClusterIP",
    };
    let mut service = Service {
        namespace: format!("ns-{}", i % 2),
        name: format!("svc-{i}"),
        created: ["", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"][random.below(3)].to_owned(),
        other_proxy: random.one_in(12),
        headless_label: random.one_in(12),
        kind: kind.to_owned(),
        cluster_ips: match random.below(8) {
            0 => vec!["None".to_owned()],
            1 => vec![v6],
            2..=4 => vec![v4, v6],
            _ => vec![v4],
        },
        client_ip_affinity: random.one_in(3),
        affinity_seconds: [None, Some(60), Some(10_800)][random.below(3)],
        internal_traffic_policy: policy(random),
        external_traffic_policy: policy(random),
        ..Service::default()
    };
    if random.one_in(3) {
        // Now and then the ClusterIP of another Service.
        service.external_ips = vec![
            format!("203.0.113.{}", random.below(3)),
            format!("10.96.0.{}", 1 + random.below(size * 4)),
            format!("fd00:203::{}", random.below(3)),
        ];
    }
    if kind == "LoadBalancer" {
        service.health_check_node_port = 32_000;
        balancer(random, &mut service);
    }
    service.ports = (0..=random.below(3))
        .map(|p| service_port(random, p, kind != "ClusterIP", size))
        .collect();
    service
}

fn balancer(random: &mut Random, service: &mut Service) {
    let modes = ["", "VIP", "Proxy"];
    service.ingress = vec![
        Ingress {
            ip: format!("198.51.100.{}", random.below(4)),
            ip_mode: modes[random.below(3)].to_owned(),
        },
        Ingress {
            ip: format!("fd00:198::{}", random.below(4)),
            ip_mode: modes[random.below(3)].to_owned(),
        },
        Ingress {
            ip: format!("203.0.113.{}", random.below(3)),
            ip_mode: "VIP".to_owned(),
        },
    ];
    let ranges = [
        "10.0.0.0/8",
        " 192.168.0.0/16 ",
        "10.244.0.0/16",
        "0.0.0.0/0",
        "fd00::/8",
        "::/0",
        "8.8.0.1/16",
    ];
    for _ in 0..random.below(4) {
        service
            .source_ranges
            .push(ranges[random.below(ranges.len())].to_owned());
    }
}

fn service_port(random: &mut Random, p: usize, node_port: bool, size: usize) -> ServicePort {
    ServicePort {
        name: format!("p{p}"),
        protocol: ["", "TCP", "UDP", "SCTP"][random.below(4)].to_owned(),
        port: [80, 53, 443][p % 3],
        node_port: if node_port && !random.one_in(4) {
            30_000 + small(random.below(size * 2))
        } else {
            0
        },
    }
}

fn slice(random: &mut Random, i: usize, size: usize) -> EndpointSlice {
    let v6 = random.one_in(3);
    // Of the slice's namespace; now and then there is no such Service.
    let owner = random.below(size.div_ceil(2)) * 2 + i % 2;
    let hints = random.below(4);
    let port = |name: &str, protocol: &str, port| SlicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port,
    };
    let number = [8080, 9090][random.below(2)];
    EndpointSlice {
        namespace: format!("ns-{}", i % 2),
        name: format!("slice-{i}"),
        service: if random.one_in(15) {
            String::new()
        } else {
            format!("svc-{owner}")
        },
        headless_label: random.one_in(15),
        address_type: if random.one_in(15) {
            "FQDN"
        } else if v6 {
            "IPv6"
        } else {
            "IPv4"
        }
        .to_owned(),
        trigger_time: Some(format!("2026-01-01T00:00:{i:02}Z")),
        endpoints: (0..random.below(5))
            .map(|_| slice_endpoint(random, v6, hints))
            .collect(),
        ports: vec![
            port("p0", "", Some(number)),
            port("p0", "UDP", Some(number)),
            port(
                "p1",
                "TCP",
                Some(if random.one_in(2) { 5353 } else { 5354 }),
            ),
            port("p1", "SCTP", Some(5355)),
            port(
                "p2",
                "TCP",
                if random.one_in(4) { None } else { Some(8443) },
            ),
            port("p1", "UDP", Some(5353)),
        ],
    }
}

fn slice_endpoint(random: &mut Random, v6: bool, hints: usize) -> SliceEndpoint {
    let node = random.below(3);
    let host = 1 + random.below(6);
    let hint = |random: &mut Random, wanted: bool, what: &str| {
        if wanted && !random.one_in(8) {
            vec![format!("{what}-{}", random.below(3))]
        } else {
            vec![]
        }
    };
    SliceEndpoint {
        addresses: vec![if v6 {
            format!("fd00:244:{node}::{host}")
        } else {
            format!("10.244.{node}.{host}")
        }],
        ready: [None, Some(true), Some(true), Some(false)][random.below(4)],
        serving: [None, Some(true), Some(false)][random.below(3)],
        terminating: [None, Some(true), Some(false)][random.below(3)],
        node_name: format!("node-{node}"),
        zone_hints: hint(random, hints & 1 != 0, "zone"),
        node_hints: hint(random, hints & 2 != 0, "node"),
    }
}

fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
