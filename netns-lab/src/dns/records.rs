//! The records behind a name.

use std::net::IpAddr;

use hickory_server::proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use serde::Deserialize;

use super::TTL;
use super::name::{Asked, dashed};
use crate::apiserver::{Object, Resource, Store};

/// What a question leads to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// These; at least one.
    Records(Vec<RData>),
    /// The name exists, but not with this type.
    NoData,
    /// The name does not exist.
    NoName,
}

/// The cluster's domain.
#[derive(Debug)]
pub(super) struct Zone(Name);

#[derive(Deserialize)]
struct Service {
    spec: ServiceSpec,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    external_name: String,
    ports: Vec<Port>,
}

impl ServiceSpec {
    fn is_headless(&self) -> bool {
        self.cluster_ips
            .first()
            .is_some_and(|address| address == "None")
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Port {
    name: Option<String>,
    protocol: String,
    port: u16,
}

impl Port {
    fn is(&self, name: &str, protocol: &str) -> bool {
        self.name.as_deref() == Some(name) && self.protocol.eq_ignore_ascii_case(protocol)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Slice {
    ports: Option<Vec<Port>>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Endpoint {
    addresses: Vec<String>,
    hostname: Option<String>,
    conditions: Conditions,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

impl Endpoint {
    /// The label under which this endpoint is found below its Service.
    fn host(&self) -> Option<String> {
        self.hostname
            .clone()
            .or_else(|| self.addresses.first().map(|address| dashed(address)))
    }
}

impl Slice {
    /// Unknown readiness counts as ready (EndpointConditions in discovery/v1).
    fn ready(&self) -> impl Iterator<Item = &Endpoint> {
        let all = self.endpoints.iter().flatten();
        all.filter(|endpoint| endpoint.conditions.ready != Some(false))
    }
}

impl Zone {
    pub(super) fn new(domain: &str) -> Option<Self> {
        let mut name = Name::from_ascii(domain).ok()?.to_lowercase();
        name.set_fqdn(true);
        (!name.is_root()).then_some(Self(name))
    }

    pub(super) fn name(&self) -> &Name {
        &self.0
    }

    /// The record that says how long a missing name stays missing.
    pub(super) fn start_of_authority(&self, store: &Store) -> Record {
        Record::from_rdata(self.0.clone(), TTL, self.authority(store))
    }

    fn authority(&self, store: &Store) -> RData {
        // Serials wrap around.
        let serial = u32::try_from(store.version() & u64::from(u32::MAX)).unwrap_or_default();
        let (server, person) = (self.below(&["dns"]), self.below(&["hostmaster"]));
        RData::SOA(SOA::new(server, person, serial, 7200, 1800, 86_400, TTL))
    }

    /// The name `labels`.DOMAIN; the domain itself where that would be too long.
    fn below(&self, labels: &[&str]) -> Name {
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))
            .and_then(|name| name.append_domain(&self.0))
            .unwrap_or_else(|_| self.0.clone())
    }

    pub(super) fn look_up(&self, store: &Store, asked: &Asked, kind: RecordType) -> Answer {
        match asked {
            Asked::Domain => match kind {
                RecordType::SOA => Answer::Records(vec![self.authority(store)]),
                RecordType::NS => Answer::Records(vec![RData::NS(NS(self.below(&["dns"])))]),
                _ => Answer::NoData,
            },
            Asked::Namespace(namespace) => exists(has_namespace(store, namespace)),
            Asked::Service { namespace, service } => self.service(store, namespace, service, kind),
            Asked::Endpoint {
                namespace,
                service,
                host,
            } => endpoint(store, namespace, service, host, kind),
            Asked::Port {
                namespace,
                service,
                port,
                protocol,
            } => self.port(store, (namespace, service), (port, protocol), kind),
            Asked::PodAddress { namespace, address } => {
                if !has_namespace(store, namespace) {
                    return Answer::NoName;
                }
                of_type(vec![*address], kind)
            }
            Asked::Reverse(address) => self.reverse(store, *address, kind),
            Asked::Nothing | Asked::Elsewhere => Answer::NoName,
        }
    }

    fn service(&self, store: &Store, namespace: &str, name: &str, kind: RecordType) -> Answer {
        let Some(service) = find(store, namespace, name) else {
            return Answer::NoName;
        };
        if service.kind == "ExternalName" {
            return external(&service.external_name);
        }
        if kind == RecordType::SRV {
            let ports = service.ports.iter().map(|port| port.port);
            let target = self.below(&[name, namespace, "svc"]);
            let records = ports.map(|port| RData::SRV(SRV::new(0, 100, port, target.clone())));
            return records_or_no_data(records.collect());
        }
        if !service.is_headless() {
            let addresses = service
                .cluster_ips
                .iter()
                .filter_map(|address| address.parse().ok());
            return of_type(addresses.collect(), kind);
        }
        let slices = slices(store, namespace, name);
        let endpoints = slices.iter().flat_map(Slice::ready);
        let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
        let addresses: Vec<IpAddr> = addresses
            .filter_map(|address| address.parse().ok())
            .collect();
        // As CoreDNS has it: a headless Service without endpoints has no name.
        if addresses.is_empty() {
            Answer::NoName
        } else {
            of_type(addresses, kind)
        }
    }

    fn port(
        &self,
        store: &Store,
        (namespace, name): (&str, &str),
        (port, protocol): (&str, &str),
        kind: RecordType,
    ) -> Answer {
        let Some(service) = find(store, namespace, name) else {
            return Answer::NoName;
        };
        let mut records = Vec::new();
        let mut add = |labels: &[&str], port: u16| {
            records.push(RData::SRV(SRV::new(0, 100, port, self.below(labels))));
        };
        if service.is_headless() {
            for slice in slices(store, namespace, name) {
                let ports = slice.ports.iter().flatten();
                for found in ports.filter(|found| found.is(port, protocol)) {
                    for host in slice.ready().filter_map(Endpoint::host) {
                        add(&[&host, name, namespace, "svc"], found.port);
                    }
                }
            }
        } else {
            let ports = service.ports.iter();
            for found in ports.filter(|found| found.is(port, protocol)) {
                add(&[name, namespace, "svc"], found.port);
            }
        }
        match (records.is_empty(), kind) {
            (true, _) => Answer::NoName,
            (false, RecordType::SRV | RecordType::ANY) => Answer::Records(records),
            (false, _) => Answer::NoData,
        }
    }

    fn reverse(&self, store: &Store, address: IpAddr, kind: RecordType) -> Answer {
        let said = address.to_string();
        let services = store.list(Resource::Service, None).objects;
        let holds = |service: &&Object| {
            parse::<Service>(service)
                .is_some_and(|service| service.spec.cluster_ips.contains(&said))
        };
        let Some(service) = services.iter().find(holds) else {
            return Answer::NoName;
        };
        match kind {
            RecordType::PTR | RecordType::ANY => {
                let name = self.below(&[service.name(), service.namespace(), "svc"]);
                Answer::Records(vec![RData::PTR(PTR(name))])
            }
            _ => Answer::NoData,
        }
    }
}

fn endpoint(store: &Store, namespace: &str, name: &str, host: &str, kind: RecordType) -> Answer {
    let Some(service) = find(store, namespace, name) else {
        return Answer::NoName;
    };
    if host.starts_with('_') {
        // The middle of a port's name.
        return Answer::NoData;
    }
    if !service.is_headless() {
        return Answer::NoName;
    }
    let slices = slices(store, namespace, name);
    let endpoints = slices.iter().flat_map(Slice::ready);
    let addresses: Vec<IpAddr> = endpoints
        .filter(|endpoint| endpoint.host().as_deref() == Some(host))
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
        .collect();
    if addresses.is_empty() {
        Answer::NoName
    } else {
        of_type(addresses, kind)
    }
}

fn external(name: &str) -> Answer {
    let target = Name::from_ascii(name).map(|mut target| {
        target.set_fqdn(true);
        RData::CNAME(CNAME(target))
    });
    target.map_or(Answer::NoData, |target| Answer::Records(vec![target]))
}

fn exists(exists: bool) -> Answer {
    if exists {
        Answer::NoData
    } else {
        Answer::NoName
    }
}

fn of_type(addresses: Vec<IpAddr>, kind: RecordType) -> Answer {
    let records = addresses
        .into_iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), RecordType::A | RecordType::ANY) => {
                Some(RData::A(address.into()))
            }
            (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => {
                Some(RData::AAAA(address.into()))
            }
            _ => None,
        });
    records_or_no_data(records.collect())
}

fn records_or_no_data(records: Vec<RData>) -> Answer {
    if records.is_empty() {
        Answer::NoData
    } else {
        Answer::Records(records)
    }
}

fn has_namespace(store: &Store, namespace: &str) -> bool {
    store.get(Resource::Namespace, "", namespace).is_some()
}

fn find(store: &Store, namespace: &str, name: &str) -> Option<ServiceSpec> {
    let service = store.get(Resource::Service, namespace, name)?;
    parse::<Service>(&service).map(|service| service.spec)
}

fn slices(store: &Store, namespace: &str, service: &str) -> Vec<Slice> {
    let all = store.list(Resource::EndpointSlice, Some(namespace)).objects;
    all.iter()
        .filter(|slice| slice.label("kubernetes.io/service-name") == Some(service))
        .filter_map(parse)
        .collect()
}

fn parse<T: serde::de::DeserializeOwned>(object: &Object) -> Option<T> {
    object
        .parse()
        .inspect_err(|error| tracing::debug!(?object, %error, "not understood, has no records"))
        .ok()
}
