//! Services: defaults, families, cluster addresses and node ports.

mod check;

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::Held;
use crate::apiserver::allocation::{Allocators, NODE_PORTS};
use crate::apiserver::object::text;
use crate::apiserver::refusal::Cause;
use crate::apiserver::{Refusal, Resource};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where nobody says otherwise (3 hours).
const AFFINITY_SECONDS: u64 = 10_800;

/// What kind of Service this is, as far as allocation is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    cluster_ip: bool,
    node_ports: bool,
    health_port: bool,
}

impl Needs {
    fn of(service: &Value) -> Self {
        let kind = text(service, "/spec/type");
        let balancer = kind == "LoadBalancer";
        let allocates = service.pointer("/spec/allocateLoadBalancerNodePorts");
        Self {
            cluster_ip: kind != "ExternalName",
            node_ports: kind == "NodePort" || (balancer && allocates != Some(&json!(false))),
            health_port: balancer && text(service, "/spec/externalTrafficPolicy") == "Local",
        }
    }
}

/// Completes and checks a new Service and gives it its addresses and ports.
pub(super) fn create(service: &mut Value, allocators: &mut Allocators) -> Result<(), Refusal> {
    service["status"] = json!({"loadBalancer": {}});
    defaults(spec(service)?);
    complete(service, &Held::default(), allocators)
}

/// The same for a Service that takes the place of `old`.
pub(super) fn update(
    old: &Value,
    service: &mut Value,
    allocators: &mut Allocators,
) -> Result<(), Refusal> {
    defaults(spec(service)?);
    drop_unneeded(old, service);
    carry_over(old, service);
    let immutable = check::immutable(old, service);
    if !immutable.is_empty() {
        let name = text(service, "/metadata/name");
        return Err(Refusal::invalid(Resource::Service, name, &immutable));
    }
    complete(service, &held(old), allocators)
}

fn complete(
    service: &mut Value,
    before: &Held,
    allocators: &mut Allocators,
) -> Result<(), Refusal> {
    let mut causes = check::fields(service);
    if causes.is_empty() {
        addresses(service, before, allocators, &mut causes);
        node_ports(service, before, allocators, &mut causes);
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid(
        Resource::Service,
        text(service, "/metadata/name"),
        &causes,
    ))
}

/// The addresses and node ports this Service holds.
pub(super) fn held(service: &Value) -> Held {
    let addresses = service
        .pointer("/spec/clusterIPs")
        .and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
    let mut ports: Vec<u16> = ports(service)
        .filter_map(|port| number(port, "nodePort"))
        .collect();
    ports.extend(
        service
            .get("spec")
            .and_then(|spec| number(spec, "healthCheckNodePort")),
    );
    Held {
        addresses: addresses
            .filter_map(|address| address.parse().ok())
            .collect(),
        ports,
    }
}

fn spec(service: &mut Value) -> Result<&mut Map<String, Value>, Refusal> {
    service
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Refusal::bad_request("spec: missing; a Service needs a JSON object here"))
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let ports = service
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut);
    ports.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// A port number that is there and not 0.
fn number(value: &Value, field: &str) -> Option<u16> {
    let number = value.get(field).and_then(Value::as_u64)?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    let items = value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn defaults(spec: &mut Map<String, Value>) {
    spec.retain(|_, value| !value.is_null());
    let set = |spec: &mut Map<String, Value>, field: &str, value: Value| {
        spec.entry(field).or_insert(value);
    };
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
        set(spec, "sessionAffinityConfig", config);
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    let external_ips = spec.get("externalIPs").and_then(Value::as_array);
    if matches!(&*kind, "NodePort" | "LoadBalancer")
        || external_ips.is_some_and(|ips| !ips.is_empty())
    {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        port.entry("protocol").or_insert_with(|| json!("TCP"));
        if let Some(number) = port.get("port").cloned() {
            port.entry("targetPort").or_insert(number);
        }
    }
}

/// Clears what the new type has no use for, where the writer merely left it in place.
fn drop_unneeded(old: &Value, service: &mut Value) {
    let (before, now) = (Needs::of(old), Needs::of(service));
    if before.node_ports && !now.node_ports {
        ports_mut(service).for_each(|port| drop(port.remove("nodePort")));
    }
    let kind = text(service, "/spec/type").to_owned();
    let Ok(spec) = spec(service) else { return };
    if before.health_port && !now.health_port {
        spec.remove("healthCheckNodePort");
    }
    if before.cluster_ip && !now.cluster_ip {
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            spec.remove(field);
        }
    }
    let balancer = |kind: &str| kind == "LoadBalancer";
    if balancer(text(old, "/spec/type")) && !balancer(&kind) {
        spec.remove("allocateLoadBalancerNodePorts");
        spec.remove("loadBalancerClass");
    }
    if !matches!(&*kind, "NodePort" | "LoadBalancer") && !spec.contains_key("externalIPs") {
        spec.remove("externalTrafficPolicy");
    }
}

/// Keeps what was allocated and what the writer did not mention.
fn carry_over(old: &Value, service: &mut Value) {
    let (before, now) = (Needs::of(old), Needs::of(service));
    let old_spec = old.get("spec").and_then(Value::as_object);
    if before.cluster_ip && now.cluster_ip {
        let single = text(service, "/spec/ipFamilyPolicy") == "SingleStack";
        if let (Ok(spec), Some(old_spec)) = (spec(service), old_spec) {
            for field in ["clusterIP", "clusterIPs", "ipFamilyPolicy", "ipFamilies"] {
                if let Some(value) = old_spec.get(field) {
                    spec.entry(field).or_insert_with(|| value.clone());
                }
            }
            // From two families to one: the second goes where the writer left both in place.
            for field in ["clusterIPs", "ipFamilies"] {
                if single
                    && spec.get(field) == old_spec.get(field)
                    && let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut)
                {
                    list.truncate(1);
                }
            }
        }
    }
    if before.node_ports && now.node_ports {
        for port in ports_mut(service) {
            let same = |other: &&Value| {
                other.get("port") == port.get("port")
                    && other.get("protocol") == port.get("protocol")
            };
            if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) == 0
                && let Some(given) = ports(old)
                    .find(same)
                    .and_then(|other| other.get("nodePort"))
            {
                port.insert("nodePort".to_owned(), given.clone());
            }
        }
    }
    if before.health_port
        && now.health_port
        && let (Ok(spec), Some(given)) = (spec(service), old.pointer("/spec/healthCheckNodePort"))
    {
        spec.entry("healthCheckNodePort")
            .or_insert_with(|| given.clone());
    }
}

/// Settles families and cluster addresses.
fn addresses(
    service: &mut Value,
    before: &Held,
    allocators: &mut Allocators,
    causes: &mut Vec<Cause>,
) {
    if !Needs::of(service).cluster_ip {
        return;
    }
    let mut wanted = strings(service, "/spec/clusterIPs");
    let first = text(service, "/spec/clusterIP").to_owned();
    match wanted.first() {
        None if !first.is_empty() => wanted.push(first),
        Some(other) if !first.is_empty() && *other != first => {
            let message = format!("Invalid value: {first:?}: must match clusterIPs[0] ({other:?})");
            causes.push(Cause::invalid("spec.clusterIP", message));
            return;
        }
        _ => {}
    }
    let families = families(service, &wanted);
    if wanted.first().is_some_and(|address| address == "None") {
        wanted = vec!["None".to_owned()];
    } else {
        for (place, family) in families.iter().enumerate() {
            match wanted.get(place) {
                Some(address) => {
                    let field = format!("spec.clusterIPs[{place}]");
                    if let Err(message) = usable(address, family, before, allocators) {
                        causes.push(Cause::invalid(field, message));
                    }
                }
                None => match allocators.free_address(family == "IPv6") {
                    Some(address) => wanted.push(address.to_string()),
                    None => causes.push(Cause::invalid("spec.clusterIPs", "the range is full")),
                },
            }
        }
    }
    let policy = if families.len() > 1 {
        "PreferDualStack"
    } else {
        "SingleStack"
    };
    if let Ok(spec) = spec(service) {
        spec.insert("clusterIP".to_owned(), json!(wanted.first()));
        spec.insert("clusterIPs".to_owned(), json!(wanted));
        spec.insert("ipFamilies".to_owned(), json!(families));
        spec.entry("ipFamilyPolicy")
            .or_insert_with(|| json!(policy));
    }
}

fn families(service: &Value, wanted: &[String]) -> Vec<String> {
    let mut families = strings(service, "/spec/ipFamilies");
    if families.is_empty() {
        let addresses = wanted
            .iter()
            .filter_map(|address| address.parse::<IpAddr>().ok());
        families = addresses
            .map(|address| family_of(address).to_owned())
            .collect();
    }
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    let policy = text(service, "/spec/ipFamilyPolicy");
    if families.len() == 1 && matches!(policy, "PreferDualStack" | "RequireDualStack") {
        let other = if families[0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.to_owned());
    }
    families
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Whether a Service may have the address it asks for.
fn usable(said: &str, family: &str, before: &Held, allocators: &Allocators) -> Result<(), String> {
    let Ok(address) = said.parse::<IpAddr>() else {
        return Err(format!(
            "Invalid value: {said:?}: must be \"None\" or an IP address"
        ));
    };
    if family_of(address) != family {
        return Err(format!(
            "Invalid value: {said:?}: expected an {family} address, by ipFamilies"
        ));
    }
    if before.addresses.contains(&address) {
        return Ok(());
    }
    let range = allocators.ranges().of(address);
    if !range.contains(address) {
        return Err(format!(
            "Invalid value: {said:?}: not in the service range {range}"
        ));
    }
    if allocators.address_taken(address) {
        return Err(format!(
            "Invalid value: {said:?}: provided IP is already allocated"
        ));
    }
    Ok(())
}

/// Settles node ports and the health check port.
fn node_ports(
    service: &mut Value,
    before: &Held,
    allocators: &mut Allocators,
    causes: &mut Vec<Cause>,
) {
    let needs = Needs::of(service);
    let mut mine = held(service).ports;
    for port in &mine {
        if !NODE_PORTS.contains(port) {
            let message = format!("Invalid value: {port}: the range of valid ports is 30000-32767");
            causes.push(Cause::invalid("spec.ports.nodePort", message));
        } else if allocators.port_taken(*port) && !before.ports.contains(port) {
            let message = format!("Invalid value: {port}: provided port is already allocated");
            causes.push(Cause::invalid("spec.ports.nodePort", message));
        }
    }
    if needs.node_ports {
        for port in ports_mut(service) {
            if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) == 0 {
                let Some(free) = allocators.free_port(&mine) else {
                    causes.push(Cause::invalid("spec.ports.nodePort", "the range is full"));
                    return;
                };
                mine.push(free);
                port.insert("nodePort".to_owned(), json!(free));
            }
        }
    }
    if needs.health_port
        && let Ok(spec) = spec(service)
        && spec
            .get("healthCheckNodePort")
            .and_then(Value::as_u64)
            .unwrap_or(0)
            == 0
    {
        match allocators.free_port(&mine) {
            Some(free) => drop(spec.insert("healthCheckNodePort".to_owned(), json!(free))),
            None => causes.push(Cause::invalid(
                "spec.healthCheckNodePort",
                "the range is full",
            )),
        }
    }
}
