//! Two nodes with a daemon each, which know the same Service.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use causeway_proxy::backend::ebpf::{EbpfBackend, Handover, Options};
use causeway_proxy::backend::{DataPlane as _, NftablesBackend, PassReport, PlaneSettings};
use causeway_tests::cell::Cell;
use causeway_tests::packet_bed::{Host, POD_PORT, Site};
use lb_model::said::{EndpointSlice, Event, Ingress, Service, SliceEndpoint, SlicePort};
use lb_model::{DetectLocal, Family, Model, ModelConfig};
use lb_plan::bpf::{Lifetimes, Maglev};
use serde_json::Value;

use crate::world::service;

/// Of both families: the load balancer's address of the Service.
const BALANCERS: [&str; 2] = ["203.0.113.7", "2001:db8:113::7"];

pub(super) fn balancer(family: Family) -> SocketAddr {
    let ip: IpAddr = BALANCERS[usize::from(family == Family::V6)]
        .parse()
        .unwrap();
    (ip, 80).into()
}

/// Runs `test` on a thread of its own, whose mounts it changes.
pub(super) fn on_a_site(test: impl FnOnce(&Site) + Send) {
    let site = Site::new();
    site.router.netns.run(|| test(&site)).unwrap();
}

/// A node, and its daemon while one runs.
pub(super) struct Daemon<'a> {
    pub(super) host: &'a Host,
    pub(super) name: &'static str,
    cell: Cell,
    site: &'a Site,
    model: Model,
    pub(super) direct: bool,
    /// The port on the pods.
    pub(super) port: u16,
    /// For how long it remembers what is over, or may be.
    pub(super) remembers: Duration,
    backend: Option<EbpfBackend>,
}

/// The daemons of both nodes; answers go directly where that is said.
pub(super) fn daemons(site: &Site, direct: [bool; 2]) -> [Daemon<'_>; 2] {
    let daemon = |n: usize| Daemon {
        host: &site.nodes[n],
        name: ["node-1", "node-2"][n],
        cell: Cell::new(),
        site,
        model: model(["node-1", "node-2"][n]),
        direct: direct[n],
        port: POD_PORT,
        remembers: Duration::from_secs(3600),
        backend: None,
    };
    [daemon(0), daemon(1)]
}

fn model(node: &str) -> Model {
    let detect_local = DetectLocal::ClusterCidr(vec![
        "10.244.0.0/16".parse().unwrap(),
        "fd00:244::/32".parse().unwrap(),
    ]);
    let mut model = Model::new(ModelConfig {
        node_name: node.into(),
        detect_local,
        masquerade_all: false,
    });
    for event in [
        Event::ServiceListBegins,
        Event::ServiceListEnds,
        Event::SliceListBegins,
        Event::SliceListEnds,
    ] {
        assert_eq!(model.apply(event), vec![]);
    }
    model
}

impl<'a> Daemon<'a> {
    pub(super) fn options(&self) -> Options {
        let lasts = self.remembers;
        Options {
            maglev: Some(Maglev::default()),
            direct: self.direct,
            lifetimes: Lifetimes {
                closed: lasts,
                closing: lasts,
                udp: lasts,
                udp_unanswered: lasts,
                ..Lifetimes::default()
            },
            sweep: Duration::from_millis(20),
            ..self.cell.options()
        }
    }

    /// These pods are behind the Service, and the kernel knows.
    pub(super) fn serve(&mut self, pods: &[usize]) {
        let mut balanced = service(1);
        balanced.kind = "LoadBalancer".into();
        balanced.ingress = BALANCERS
            .map(|ip| Ingress {
                ip: ip.into(),
                ..Ingress::default()
            })
            .to_vec();
        for family in Family::ALL {
            let slice = self.slice(&balanced, family, pods);
            assert_eq!(self.model.apply(Event::Slice(slice)), vec![]);
        }
        assert_eq!(self.model.apply(Event::Service(balanced)), vec![]);
        self.sync();
    }

    fn slice(&self, service: &Service, family: Family, pods: &[usize]) -> EndpointSlice {
        let address_type = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let endpoint = |pod: &usize| SliceEndpoint {
            addresses: vec![self.site.pod(*pod).ip(family).to_string()],
            node_name: if *pod == 1 { "node-1" } else { "node-2" }.into(),
            ..SliceEndpoint::default()
        };
        let ports = service.ports.iter().map(|port| SlicePort {
            name: port.name.clone(),
            protocol: port.protocol.clone(),
            port: Some(self.port.into()),
        });
        EndpointSlice {
            namespace: service.namespace.clone(),
            name: format!("s1-{address_type}").to_lowercase(),
            service: service.name.clone(),
            address_type: address_type.into(),
            endpoints: pods.iter().map(endpoint).collect(),
            ports: ports.collect(),
            ..EndpointSlice::default()
        }
    }

    /// Another daemon takes over, which may have been told something else.
    pub(super) fn restart(&mut self) {
        self.backend = None;
        self.model = model(self.name);
    }

    /// The nftables data plane takes over, as a daemon has it.
    pub(super) fn leave_for_nftables(&mut self) {
        self.backend = None;
        let options = self.options();
        let Self { host, model, .. } = self;
        let take_over = || {
            let settings = settings(host, model).map(Into::into);
            let mut plane = NftablesBackend::open(settings.to_vec()).unwrap();
            let report = plane.sync(model, &BTreeSet::new());
            assert!(report.complete(), "{report:?}");
            let handover = Handover::begin(&options).unwrap().unwrap();
            EbpfBackend::cleanup(&options).unwrap();
            handover.finish().unwrap();
        };
        host.netns.run(take_over).unwrap();
    }

    fn sync(&mut self) -> PassReport {
        let services: BTreeSet<_> = self.model.take_changes().services;
        let options = self.options();
        let Self {
            host,
            model,
            backend,
            ..
        } = self;
        let pass = || {
            let backend = backend.get_or_insert_with(|| open(host, model, &options));
            backend.sync(model, &services)
        };
        let report = host.netns.run(pass).unwrap();
        assert!(report.complete(), "{report:?}");
        report
    }

    /// How often something happened at the node's interfaces.
    pub(super) fn events(&self, what: &str) -> u64 {
        let counts = self.backend.as_ref().unwrap().ebpf_counts().unwrap();
        let mut events = counts.events();
        let found = events.find(|event| event.hook == "packet" && event.what == what);
        found.unwrap().count
    }

    /// What `causeway-proxy ebpf …` shows of it, as JSON.
    pub(super) fn shown(&self, task: &str) -> Vec<Value> {
        let mut command = Command::new(causeway_tests::binary("causeway-proxy"));
        command.args(["ebpf", task, "--json", "--ebpf-pin-dir"]);
        let output = command.arg(self.cell.options().pins).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn open(host: &Host, model: &Model, options: &Options) -> EbpfBackend {
    EbpfBackend::open(options, settings(host, model).to_vec()).unwrap()
}

fn settings(host: &Host, model: &Model) -> [PlaneSettings; 2] {
    Family::ALL.map(|family| PlaneSettings {
        family,
        masquerade_bit: 14,
        detector: model.local_detector(family),
        node_port_addresses: BTreeSet::from([host.ip(family)]),
        service_cidrs: BTreeSet::new(),
        own_addresses: BTreeSet::new(),
        localhost_node_ports: true,
        tcp_be_liberal: false,
    })
}

/// Packets that the first node sends to the other one and to the router, counted on their way.
pub(super) struct Watch<'a>(&'a Site);

impl<'a> Watch<'a> {
    pub(super) fn over(site: &'a Site) -> Self {
        const RULES: &str = "table netdev watch {
            counter sent { }
            counter answers { }
            chain leave {
                type filter hook ingress device port11 priority 0
                ip daddr 203.0.113.0/24 counter name sent
                ip6 daddr 2001:db8:113::/48 counter name sent
                ip saddr 203.0.113.0/24 counter name answers
                ip6 saddr 2001:db8:113::/48 counter name answers
            }
        }";
        nft(site, &[RULES]);
        Self(site)
    }

    /// How many aimed at the Service: sent on as they came.
    pub(super) fn sent(&self) -> u64 {
        self.counter("sent")
    }

    /// How many came from the Service: answers.
    pub(super) fn answers(&self) -> u64 {
        self.counter("answers")
    }

    fn counter(&self, name: &str) -> u64 {
        let list = ["-j", "list", "counter", "netdev", "watch", name];
        let told: Value = serde_json::from_str(&nft(self.0, &list)).unwrap();
        let objects = told["nftables"].as_array().unwrap();
        let mut counters = objects.iter().map(|object| &object["counter"]["packets"]);
        counters.find_map(Value::as_u64).unwrap()
    }
}

fn nft(site: &Site, arguments: &[&str]) -> String {
    let run = || Command::new("nft").args(arguments).output();
    let output = site.switch.run(run).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
