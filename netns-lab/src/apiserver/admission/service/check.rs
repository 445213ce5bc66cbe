//! What a Service may say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{Needs, ports, strings};
use crate::apiserver::object::text;
use crate::apiserver::refusal::Cause;

/// The fields that may take one of a few words.
const CHOICES: [(&str, &[&str]); 5] = [
    (
        "type",
        &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
    ),
    ("sessionAffinity", &["None", "ClientIP"]),
    ("internalTrafficPolicy", &["Cluster", "Local"]),
    ("externalTrafficPolicy", &["Cluster", "Local"]),
    (
        "ipFamilyPolicy",
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    ),
];

/// Everything wrong with the fields by themselves.
pub(super) fn fields(service: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (field, accepted) in CHOICES {
        if let Some(said) = service.pointer(&format!("/spec/{field}"))
            && !said.as_str().is_some_and(|said| accepted.contains(&said))
        {
            let accepted = accepted.join(", ");
            let message = format!("Unsupported value: {said}: one of {accepted} is accepted");
            causes.push(Cause::invalid(format!("spec.{field}"), message));
        }
    }
    affinity(service, &mut causes);
    families(service, &mut causes);
    addresses(service, &mut causes);
    let named = ports(service).count() > 1;
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (place, port) in ports(service).enumerate() {
        let field = format!("spec.ports[{place}]");
        check_port(&field, port, &mut causes);
        let protocol = text(port, "/protocol");
        if !seen.insert((port.get("port").and_then(Value::as_u64), protocol)) {
            let message = format!("Duplicate value: port {} {protocol}", port["port"]);
            causes.push(Cause::invalid(field.clone(), message));
        }
        let name = text(port, "/name");
        if named && name.is_empty() {
            let message = "Required value: several ports need names";
            causes.push(Cause::required(format!("{field}.name"), message));
        } else if !names.insert(name) {
            let message = format!("Duplicate value: {name:?}");
            causes.push(Cause::invalid(format!("{field}.name"), message));
        }
        if !Needs::of(service).node_ports
            && text(service, "/spec/type") != "LoadBalancer"
            && port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) != 0
        {
            let message =
                "Forbidden: may not be used when `type` is neither NodePort nor LoadBalancer";
            causes.push(Cause::invalid(format!("{field}.nodePort"), message));
        }
    }
    causes
}

/// What changed although it cannot.
pub(super) fn immutable(old: &Value, service: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if Needs::of(old).cluster_ip && Needs::of(service).cluster_ip {
        let (before, now) = (
            text(old, "/spec/clusterIP"),
            text(service, "/spec/clusterIP"),
        );
        if !before.is_empty() && before != now {
            let message = format!("Invalid value: {now:?}: field is immutable; it is {before:?}");
            causes.push(Cause::invalid("spec.clusterIPs[0]", message));
        }
        let before = strings(old, "/spec/ipFamilies");
        let now = strings(service, "/spec/ipFamilies");
        if let (Some(before), Some(now)) = (before.first(), now.first())
            && before != now
        {
            let message = format!("Invalid value: {now:?}: the primary family cannot change");
            causes.push(Cause::invalid("spec.ipFamilies[0]", message));
        }
    }
    causes
}

fn affinity(service: &Value, causes: &mut Vec<Cause>) {
    let pointer = "/spec/sessionAffinityConfig/clientIP/timeoutSeconds";
    if let Some(seconds) = service.pointer(pointer)
        && !seconds
            .as_u64()
            .is_some_and(|seconds| (1..=86_400).contains(&seconds))
    {
        let message = format!("Invalid value: {seconds}: must be 1 to 86400 seconds");
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        causes.push(Cause::invalid(field, message));
    }
}

fn families(service: &Value, causes: &mut Vec<Cause>) {
    let families = strings(service, "/spec/ipFamilies");
    let known = families
        .iter()
        .all(|family| family == "IPv4" || family == "IPv6");
    if !known || families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        let message = format!("Invalid value: {families:?}: IPv4, IPv6 or both in any order");
        causes.push(Cause::invalid("spec.ipFamilies", message));
    }
    let policy = text(service, "/spec/ipFamilyPolicy");
    let addresses = strings(service, "/spec/clusterIPs").len();
    if (families.len() > 1 || addresses > 1) && matches!(policy, "" | "SingleStack") {
        let message = "Invalid value: \"SingleStack\": must be RequireDualStack or PreferDualStack \
                       with several clusterIPs or ipFamilies";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", message));
    }
}

fn addresses(service: &Value, causes: &mut Vec<Cause>) {
    let kind = text(service, "/spec/type");
    for (place, said) in strings(service, "/spec/externalIPs").iter().enumerate() {
        let address = said.parse::<IpAddr>();
        if !address.is_ok_and(|address| !address.is_loopback() && !address.is_unspecified()) {
            let message = format!("Invalid value: {said:?}: must be an IP address of the network");
            causes.push(Cause::invalid(
                format!("spec.externalIPs[{place}]"),
                message,
            ));
        }
    }
    for (place, said) in strings(service, "/spec/loadBalancerSourceRanges")
        .iter()
        .enumerate()
    {
        if !said.contains('/') || said.trim().parse::<IpNetwork>().is_err() {
            let message = format!("Invalid value: {said:?}: must be a CIDR such as 10.0.0.0/8");
            causes.push(Cause::invalid(
                format!("spec.loadBalancerSourceRanges[{place}]"),
                message,
            ));
        }
    }
    if kind == "ExternalName" {
        if text(service, "/spec/externalName").is_empty() {
            let message = "Required value: a Service of type ExternalName needs one";
            causes.push(Cause::required("spec.externalName", message));
        }
    } else if ports(service).next().is_none() && text(service, "/spec/clusterIP") != "None" {
        causes.push(Cause::required("spec.ports", "Required value"));
    }
}

fn check_port(field: &str, port: &Value, causes: &mut Vec<Cause>) {
    let in_range = |value: &Value| {
        value
            .as_u64()
            .is_some_and(|number| (1..=65_535).contains(&number))
    };
    let number = port.get("port").unwrap_or(&Value::Null);
    if !in_range(number) {
        let message = format!("Invalid value: {number}: must be 1 to 65535");
        causes.push(Cause::invalid(format!("{field}.port"), message));
    }
    let target = port.get("targetPort").unwrap_or(number);
    let named = target
        .as_str()
        .is_some_and(|name| (1..=15).contains(&name.len()));
    if !named && !in_range(target) {
        let message = format!(
            "Invalid value: {target}: must be 1 to 65535 or a port's name of up to 15 characters"
        );
        causes.push(Cause::invalid(format!("{field}.targetPort"), message));
    }
    let protocol = text(port, "/protocol");
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        let message = format!("Unsupported value: {protocol:?}: one of TCP, UDP, SCTP is accepted");
        causes.push(Cause::invalid(format!("{field}.protocol"), message));
    }
}
