//! EndpointSlices: the rules of `discovery.k8s.io/v1`.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::apiserver::object::text;
use crate::apiserver::refusal::Cause;
use crate::apiserver::{Refusal, Resource};

/// At most this many endpoints, ports and addresses of an endpoint (API validation).
const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;

/// Sets the ports' defaults and checks the slice.
pub(super) fn check(slice: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
    for port in slice
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(port) = port.as_object_mut() {
            port.entry("protocol").or_insert_with(|| json!("TCP"));
            port.entry("name").or_insert_with(|| json!(""));
        }
    }
    let mut causes = Vec::new();
    let family = text(slice, "/addressType");
    if !["IPv4", "IPv6", "FQDN"].contains(&family) {
        let message = format!("Unsupported value: {family:?}: one of IPv4, IPv6, FQDN is accepted");
        causes.push(Cause::invalid("addressType", message));
    } else if let Some(old) = old
        && text(old, "/addressType") != family
    {
        let message = format!("Invalid value: {family:?}: field is immutable");
        causes.push(Cause::invalid("addressType", message));
    }
    match slice.get("endpoints") {
        None | Some(Value::Null) => slice["endpoints"] = json!([]),
        Some(Value::Array(endpoints)) if endpoints.len() <= MOST_ENDPOINTS => {
            for (place, endpoint) in endpoints.iter().enumerate() {
                check_endpoint(place, endpoint, family, &mut causes);
            }
        }
        Some(_) => {
            let message = format!("must be a list of at most {MOST_ENDPOINTS} items");
            causes.push(Cause::invalid("endpoints", message));
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid(
        Resource::EndpointSlice,
        text(slice, "/metadata/name"),
        &causes,
    ))
}

fn check_endpoint(place: usize, endpoint: &Value, family: &str, causes: &mut Vec<Cause>) {
    let field = format!("endpoints[{place}].addresses");
    let addresses = endpoint.get("addresses").and_then(Value::as_array);
    let Some(addresses) = addresses.filter(|list| (1..=MOST_ADDRESSES).contains(&list.len()))
    else {
        let message = format!("must contain 1 to {MOST_ADDRESSES} addresses");
        causes.push(Cause::required(field, message));
        return;
    };
    for address in addresses {
        let said = address.as_str().unwrap_or_default();
        let fits = match (said.parse::<IpAddr>(), family) {
            (Ok(address), "IPv4") => address.is_ipv4(),
            (Ok(address), "IPv6") => address.is_ipv6(),
            (Err(_), "IPv4" | "IPv6") => false,
            _ => !said.is_empty(),
        };
        if !fits {
            let message = format!("Invalid value: {address}: must be a valid {family} address");
            causes.push(Cause::invalid(field.clone(), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_gets_defaults_and_is_checked() {
        let mut slice = json!({"addressType": "IPv4", "ports": [{"port": 6379}],
                               "endpoints": [{"addresses": ["10.1.0.4"]}]});
        check(&mut slice, None).unwrap();
        assert_eq!(
            slice["ports"][0],
            json!({"name": "", "port": 6379, "protocol": "TCP"})
        );

        let mut other = json!({"addressType": "IPv6",
                               "endpoints": [{"addresses": ["10.1.0.4"]}, {"addresses": []}]});
        let refusal = check(&mut other, Some(&slice)).unwrap_err();
        assert_eq!(refusal.code, 422);
        for part in ["immutable", "endpoints[0]", "endpoints[1]"] {
            assert!(refusal.message.contains(part), "{part}: {refusal}");
        }
    }
}
