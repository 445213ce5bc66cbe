//! Strategic merge patch, for the types served here.
//!
//! Facts: community/contributors/devel/sig-api-machinery/strategic-merge-patch.md and the
//! `patchStrategy` and `patchMergeKey` tags of k8s.io/api.

use serde_json::{Map, Value};

use crate::apiserver::Refusal;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Items with equal keys are one; a key only one side has does not tell them apart.
    ByKeys(&'static [&'static str]),
    /// A set of scalars.
    Set,
}

impl Strategy {
    /// The strategy of the list `field` inside `parent` (the field that holds the object).
    fn of(parent: &str, field: &str) -> Self {
        match (parent, field) {
            // Upstream keys on the port alone and so mixes up a port's TCP and UDP.
            ("spec", "ports") => Self::ByKeys(&["port", "protocol"]),
            ("containers" | "initContainers", "ports") => {
                Self::ByKeys(&["containerPort", "protocol"])
            }
            (
                _,
                "containers"
                | "initContainers"
                | "ephemeralContainers"
                | "env"
                | "volumes"
                | "imagePullSecrets",
            ) => Self::ByKeys(&["name"]),
            (_, "volumeMounts") => Self::ByKeys(&["mountPath"]),
            (_, "volumeDevices") => Self::ByKeys(&["devicePath"]),
            (_, "topologySpreadConstraints") => Self::ByKeys(&["topologyKey"]),
            ("metadata", "ownerReferences") => Self::ByKeys(&["uid"]),
            ("status", "conditions" | "addresses") => Self::ByKeys(&["type"]),
            ("spec", "hostAliases") | ("status", "podIPs") => Self::ByKeys(&["ip"]),
            ("metadata", "finalizers") | ("spec", "podCIDRs") => Self::Set,
            _ => Self::Replace,
        }
    }
}

/// Merges `patch` into `object`; 400 for directives that make no sense.
pub(super) fn merge(object: &mut Value, patch: &Map<String, Value>) -> Result<(), Refusal> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Refusal::bad_request(
            "a strategic merge patch needs an object",
        ));
    };
    merge_object(fields, patch, "")
}

fn merge_object(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    parent: &str,
) -> Result<(), Refusal> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace" | "delete") => current.clear(),
        Some("merge") | None => {}
        Some(other) => {
            let message = format!("$patch: {other:?} is none of replace, delete, merge");
            return Err(Refusal::bad_request(message));
        }
    }
    for (field, value) in patch.iter().filter(|(field, _)| !field.starts_with('$')) {
        merge_field(current, field, value, parent)?;
    }
    for (field, value) in patch {
        if let Some(field) = field.strip_prefix(DELETE_PRIMITIVES) {
            let unwanted = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = current.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|item| !unwanted.contains(item));
            }
        } else if let Some(field) = field.strip_prefix(ORDER) {
            let wanted = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = current.get_mut(field).and_then(Value::as_array_mut) {
                order(list, wanted, Strategy::of(parent, field));
            }
        } else if field == RETAIN_KEYS {
            let kept = value.as_array().map(Vec::as_slice).unwrap_or_default();
            current.retain(|key, _| kept.iter().any(|kept| kept == key));
        }
    }
    Ok(())
}

fn merge_field(
    current: &mut Map<String, Value>,
    field: &str,
    value: &Value,
    parent: &str,
) -> Result<(), Refusal> {
    match value {
        Value::Null => drop(current.remove(field)),
        Value::Object(patch) if patch.get(DIRECTIVE).is_some_and(|patch| patch == "delete") => {
            current.remove(field);
        }
        Value::Object(patch) => {
            let entry = current.entry(field).or_insert(Value::Null);
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Some(entry) = entry.as_object_mut() {
                merge_object(entry, patch, field)?;
            }
        }
        Value::Array(items) => {
            let entry = current.entry(field).or_insert(Value::Null);
            if !entry.is_array() {
                *entry = Value::Array(Vec::new());
            }
            if let Some(list) = entry.as_array_mut() {
                merge_list(list, items, parent, field)?;
            }
        }
        scalar => drop(current.insert(field.to_owned(), scalar.clone())),
    }
    Ok(())
}

fn merge_list(
    list: &mut Vec<Value>,
    items: &[Value],
    parent: &str,
    field: &str,
) -> Result<(), Refusal> {
    let directive = |item: &Value| {
        item.get(DIRECTIVE)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let strategy = Strategy::of(parent, field);
    let replaces = |item: &Value| directive(item).is_some_and(|directive| directive == "replace");
    if strategy == Strategy::Replace || items.iter().any(replaces) {
        list.clear();
    }
    for item in items {
        match (strategy, item) {
            (Strategy::Set, _) => {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
            (Strategy::ByKeys(keys), Value::Object(patch)) => {
                let place = list.iter().position(|other| same(other, item, keys));
                match (directive(item).as_deref(), place) {
                    (Some("delete"), _) => list.retain(|other| !same(other, item, keys)),
                    // The marker of a list that is replaced as a whole.
                    (Some("replace"), _) if patch.len() == 1 => {}
                    (_, Some(place)) => {
                        if let Some(current) = list[place].as_object_mut() {
                            merge_object(current, patch, field)?;
                        }
                    }
                    (_, None) => list.push(fresh(patch, field)?),
                }
            }
            (_, Value::Object(patch)) if !replaces(item) || patch.len() > 1 => {
                list.push(fresh(patch, field)?);
            }
            (_, Value::Object(_)) => {}
            (_, scalar) => list.push(scalar.clone()),
        }
    }
    Ok(())
}

/// A patch's object that has nothing to merge with: what it says, without directives.
fn fresh(patch: &Map<String, Value>, field: &str) -> Result<Value, Refusal> {
    let mut object = Map::new();
    merge_object(&mut object, patch, field)?;
    Ok(Value::Object(object))
}

fn same(one: &Value, other: &Value, keys: &[&str]) -> bool {
    let [first, rest @ ..] = keys else {
        return false;
    };
    let equal = |key: &str| match (one.get(key), other.get(key)) {
        (Some(one), Some(other)) => Some(one == other),
        _ => None,
    };
    equal(first) == Some(true) && rest.iter().all(|key| equal(key) != Some(false))
}

/// Sorts as `wanted` says; what it does not name comes last.
fn order(list: &mut [Value], wanted: &[Value], strategy: Strategy) {
    let place = |item: &Value| {
        wanted
            .iter()
            .position(|wanted| match strategy {
                Strategy::ByKeys(keys) => same(wanted, item, keys),
                Strategy::Set | Strategy::Replace => wanted == item,
            })
            .unwrap_or(wanted.len())
    };
    list.sort_by_key(place);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut object: Value, patch: &Value) -> Value {
        merge(&mut object, patch.as_object().unwrap()).unwrap();
        object
    }

    #[test]
    fn service_ports_merge_by_port_and_protocol() {
        let service = json!({"spec": {"ports": [
            {"port": 53, "protocol": "TCP", "nodePort": 30053},
            {"port": 53, "protocol": "UDP"},
            {"port": 80, "protocol": "TCP"},
        ]}});
        let patch = json!({"spec": {
            "$setElementOrder/ports": [{"port": 8080}, {"port": 53}],
            "ports": [
                {"port": 53, "protocol": "UDP", "name": "dns"},
                {"port": 80, "$patch": "delete"},
                {"port": 8080},
            ],
        }});
        assert_eq!(
            merged(service, &patch),
            json!({"spec": {"ports": [
                {"port": 8080},
                {"port": 53, "protocol": "TCP", "nodePort": 30053},
                {"port": 53, "protocol": "UDP", "name": "dns"},
            ]}})
        );
    }

    #[test]
    fn containers_merge_by_name_and_their_lists_too() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "image": "one", "env": [{"name": "X", "value": "1"}]},
            {"name": "b"},
        ]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "two", "env": [{"name": "Y", "value": "2"}]},
        ]}});
        let result = merged(pod, &patch);
        let container = &result["spec"]["containers"][0];
        assert_eq!(container["image"], "two");
        assert_eq!(container["env"].as_array().unwrap().len(), 2);
        assert_eq!(result["spec"]["containers"][1], json!({"name": "b"}));
    }

    #[test]
    fn directives_replace_delete_and_retain() {
        let service = || {
            json!({"metadata": {"finalizers": ["a", "b"]},
                   "spec": {"selector": {"app": "x"}, "type": "NodePort", "ports": [{"port": 1}]}})
        };
        let patch = json!({"spec": {"selector": {"$patch": "replace", "app": "y"}}});
        assert_eq!(
            merged(service(), &patch)["spec"]["selector"],
            json!({"app": "y"})
        );
        let patch = json!({"spec": {"selector": {"$patch": "delete"}}});
        assert_eq!(merged(service(), &patch)["spec"].get("selector"), None);
        let patch = json!({"spec": {"$retainKeys": ["type"], "type": "ClusterIP"}});
        assert_eq!(
            merged(service(), &patch)["spec"],
            json!({"type": "ClusterIP"})
        );
        let patch = json!({"spec": {"ports": [{"$patch": "replace"}, {"port": 2}]}});
        assert_eq!(
            merged(service(), &patch)["spec"]["ports"],
            json!([{"port": 2}])
        );
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
                                        "finalizers": ["b", "c"]}});
        assert_eq!(
            merged(service(), &patch)["metadata"]["finalizers"],
            json!(["b", "c"])
        );
        let mut object = service();
        let bad = json!({"$patch": "explode"});
        assert_eq!(
            merge(&mut object, bad.as_object().unwrap())
                .unwrap_err()
                .code,
            400
        );
    }

    #[test]
    fn an_endpoint_slices_lists_are_atomic() {
        let slice =
            json!({"ports": [{"name": "a", "port": 1}], "endpoints": [{"addresses": ["x"]}]});
        let patch = json!({"ports": [{"name": "b", "port": 2}], "endpoints": []});
        assert_eq!(
            merged(slice, &patch),
            json!({"ports": [{"name": "b", "port": 2}], "endpoints": []})
        );
    }
}
