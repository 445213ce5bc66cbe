//! What happens to an object between the request and the store: names checked, defaults set,
//! addresses and ports allocated, what cannot change held fast.

mod endpoint_slice;
mod name;
mod service;

use std::net::IpAddr;

use serde_json::{Value, json};

use super::allocation::Allocators;
use super::object::{Key, text};
use super::refusal::Cause;
use super::{Deletion, Refusal, Resource, identity};

/// The addresses and node ports a Service occupies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<u16>,
}

impl Held {
    pub(crate) fn by(service: &Value) -> Self {
        service::held(service)
    }
}

/// The object's key, after `generateName` was honoured and the name checked.
pub(crate) fn named(resource: Resource, object: &mut Value) -> Result<Key, Refusal> {
    if text(object, "/metadata/name").is_empty() {
        let prefix = text(object, "/metadata/generateName").to_owned();
        if prefix.is_empty() {
            let cause = Cause::required(
                "metadata.name",
                "Required value: name or generateName is required",
            );
            return Err(Refusal::invalid(resource, "", &[cause]));
        }
        // Names have at most 63 characters; five of them are drawn.
        let prefix: String = prefix.chars().take(58).collect();
        object["metadata"]["name"] = json!(format!("{prefix}{}", identity::suffix()));
    }
    let name = text(object, "/metadata/name");
    if let Err(message) = name::check(resource, name) {
        let cause = Cause::invalid("metadata.name", message);
        return Err(Refusal::invalid(resource, name, &[cause]));
    }
    Ok(Key::new(text(object, "/metadata/namespace"), name))
}

/// Completes and checks a new object.
pub(crate) fn create(
    resource: Resource,
    object: &mut Value,
    allocators: &mut Allocators,
) -> Result<(), Refusal> {
    check_labels(resource, object)?;
    match resource {
        Resource::Service => service::create(object, allocators),
        Resource::EndpointSlice => endpoint_slice::check(object, None),
        Resource::Pod => {
            object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
            pod_defaults(object)
        }
        Resource::Namespace => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            let name = json!(text(object, "/metadata/name"));
            set_label(object, "kubernetes.io/metadata.name", name);
            Ok(())
        }
        Resource::Node
        | Resource::Endpoints
        | Resource::ConfigMap
        | Resource::Event
        | Resource::ServiceCidr => Ok(()),
    }
}

/// Completes and checks an object that takes the place of `old`.
pub(crate) fn update(
    resource: Resource,
    old: &Value,
    new: &mut Value,
    allocators: &mut Allocators,
) -> Result<(), Refusal> {
    check_labels(resource, new)?;
    match resource {
        Resource::Service => service::update(old, new, allocators),
        Resource::EndpointSlice => endpoint_slice::check(new, Some(old)),
        Resource::Pod => {
            let (before, after) = (text(old, "/spec/nodeName"), text(new, "/spec/nodeName"));
            if !before.is_empty() && before != after {
                let message = format!("Forbidden: cannot change from {before:?} to {after:?}");
                let cause = Cause::invalid("spec.nodeName", message);
                return Err(Refusal::invalid(
                    resource,
                    text(new, "/metadata/name"),
                    &[cause],
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The grace period of a deletion that only marks the object; `None` if it goes at once.
pub(crate) fn graceful(resource: Resource, object: &Value, deletion: &Deletion) -> Option<u64> {
    if resource != Resource::Pod || text(object, "/spec/nodeName").is_empty() {
        return None;
    }
    if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") {
        return None;
    }
    let own = || {
        object
            .pointer("/spec/terminationGracePeriodSeconds")
            .and_then(Value::as_u64)
    };
    deletion
        .grace
        .or_else(own)
        .or(Some(30))
        .filter(|grace| *grace > 0)
}

fn pod_defaults(pod: &mut Value) -> Result<(), Refusal> {
    let fields = pod.as_object_mut();
    let Some(spec) = fields
        .map(|fields| fields.entry("spec").or_insert_with(|| json!({})))
        .and_then(Value::as_object_mut)
    else {
        return Err(Refusal::bad_request("spec: must be a JSON object"));
    };
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
    ] {
        spec.entry(field).or_insert(value);
    }
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        for port in container
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(port) = port.as_object_mut() {
                port.entry("protocol").or_insert_with(|| json!("TCP"));
            }
        }
    }
    Ok(())
}

fn set_label(object: &mut Value, key: &str, value: Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let labels = metadata
        .map(|metadata| metadata.entry("labels").or_insert_with(|| json!({})))
        .and_then(Value::as_object_mut);
    if let Some(labels) = labels {
        labels.insert(key.to_owned(), value);
    }
}

fn check_labels(resource: Resource, object: &Value) -> Result<(), Refusal> {
    let Some(labels) = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
    else {
        return Ok(());
    };
    let mut causes = Vec::new();
    for (key, value) in labels {
        let value = value.as_str().unwrap_or_default();
        if let Err(message) = name::check_label_key(key).and(name::check_label_value(value)) {
            causes.push(Cause::invalid(
                "metadata.labels",
                format!("Invalid value: {message}"),
            ));
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid(
        resource,
        text(object, "/metadata/name"),
        &causes,
    ))
}
