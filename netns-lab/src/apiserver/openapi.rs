//! As much of OpenAPI as `kubectl apply` asks for.
//!
//! kubectl looks for `fieldValidation` at the PATCH operations and leaves validation to the
//! server where it finds it; without a schema (version 2, for kubectl before 1.25) it validates
//! nothing. No object's fields are described here.

use hyper::Response;
use serde_json::{Map, Value, json};

use super::answer::with_type;
use super::body::ResponseBody;
use super::{Resource, discovery};

/// kubectl reads version 2 as protobuf only.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The version 2 document: nothing is described.
pub(crate) fn v2(accept: &str) -> Response<ResponseBody> {
    if accept.contains("protobuf") {
        // An empty message: every field of it has its default.
        return with_type(200, PROTOBUF, String::new().into());
    }
    let document = json!({"swagger": "2.0", "info": info(), "paths": {}});
    with_type(200, "application/json", document.to_string().into())
}

/// The version 3 document at `path`, if it is one.
pub(crate) fn v3(path: &str) -> Option<Value> {
    let path = path.strip_prefix("/openapi/v3")?;
    if path.is_empty() {
        let mut paths = Map::new();
        for place in places() {
            let url = format!("/openapi/v3/{place}");
            paths.insert(place, json!({"serverRelativeURL": url}));
        }
        return Some(json!({"paths": paths}));
    }
    let place = places()
        .into_iter()
        .find(|place| path.strip_prefix('/') == Some(place))?;
    let group = place
        .strip_prefix("apis/")
        .and_then(|rest| rest.strip_suffix("/v1"));
    Some(group_document(&place, group.unwrap_or_default()))
}

fn places() -> Vec<String> {
    let named = discovery::groups()
        .into_iter()
        .map(|group| format!("apis/{group}/v1"));
    std::iter::once("api/v1".to_owned()).chain(named).collect()
}

fn info() -> Value {
    json!({"title": "netns-lab", "version": "v1"})
}

fn group_document(place: &str, group: &str) -> Value {
    let mut paths = Map::new();
    for resource in Resource::ALL {
        let description = resource.description();
        if description.group != group {
            continue;
        }
        let scope = if description.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let path = format!("/{place}/{scope}{}/{{name}}", description.plural);
        let validation = json!({"name": "fieldValidation", "in": "query",
                                "schema": {"type": "string", "uniqueItems": true}});
        let operation = json!({
            "operationId": format!("patch{}", description.kind),
            "parameters": [validation],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind":
                {"group": group, "version": "v1", "kind": description.kind},
        });
        paths.insert(path, json!({"patch": operation}));
    }
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": {}}})
}
