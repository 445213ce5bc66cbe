//! What the server says it can do: versions, groups, resources.

use serde_json::{Value, json};

use super::Resource;

/// The Kubernetes release whose behaviour this server follows.
const FOLLOWS: (&str, &str, &str) = ("1", "33", "v1.33.0+netns-lab");

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// The discovery document at `path`, if it is one.
pub(crate) fn document(path: &str) -> Option<Value> {
    let (major, minor, version) = FOLLOWS;
    match path {
        "/version" => Some(json!({
            "major": major, "minor": minor, "gitVersion": version, "platform": "linux/amd64",
        })),
        "/api" => Some(json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [],
        })),
        "/apis" => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        "/api/v1" => Some(resources("")),
        _ => {
            let path = path.strip_prefix("/apis/")?;
            let (name, version) = path
                .split_once('/')
                .map_or((path, None), |(name, rest)| (name, Some(rest)));
            let name = groups().into_iter().find(|group| *group == name)?;
            match version {
                None => Some(group(name)),
                Some("v1") => Some(resources(name)),
                Some(_) => None,
            }
        }
    }
}

/// The named groups, each once.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = Resource::ALL
        .into_iter()
        .map(|resource| resource.description().group)
        .filter(|group| !group.is_empty())
        .collect();
    groups.dedup();
    groups
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name,
           "versions": [version], "preferredVersion": version})
}

fn resources(group: &str) -> Value {
    let mut listed = Vec::new();
    for resource in Resource::ALL {
        let description = resource.description();
        if description.group != group {
            continue;
        }
        let mut entry = json!({
            "name": description.plural,
            "singularName": description.singular,
            "namespaced": description.namespaced,
            "kind": description.kind,
            "verbs": VERBS,
        });
        if !description.short.is_empty() {
            entry["shortNames"] = json!(description.short);
        }
        if matches!(resource, Resource::Pod | Resource::Service) {
            entry["categories"] = json!(["all"]);
        }
        listed.push(entry);
        if description.has_status {
            listed.push(json!({
                "name": format!("{}/status", description.plural),
                "singularName": "",
                "namespaced": description.namespaced,
                "kind": description.kind,
                "verbs": STATUS_VERBS,
            }));
        }
    }
    let version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
           "resources": listed})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_discovered() {
        let core = document("/api/v1").unwrap();
        let names: Vec<&str> = core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"pods/status"), "{names:?}");
        let discovery = document("/apis/discovery.k8s.io/v1").unwrap();
        assert_eq!(discovery["resources"][0]["name"], "endpointslices");
        assert_eq!(
            document("/apis").unwrap()["groups"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert_eq!(document("/apis/apps/v1"), None);
        assert_eq!(document("/apis/discovery.k8s.io/v2"), None);
    }
}
