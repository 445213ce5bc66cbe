//! The three kinds of PATCH: JSON patch, JSON merge patch, strategic merge patch.

mod strategic;

use json_patch::PatchOperation;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Refusal;

/// A patch that was read but not yet applied.
#[derive(Debug)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(Vec<PatchOperation>),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' own: lists of objects are merged by key.
    Strategic(Map<String, Value>),
}

impl Patch {
    /// Reads a patch of this media type; 415 for types that are not understood.
    pub(crate) fn parse(media_type: &str, body: &[u8]) -> Result<Self, Refusal> {
        match media_type {
            "application/json-patch+json" => Ok(Self::Json(read(body)?)),
            "application/merge-patch+json" => Ok(Self::Merge(read(body)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(read(body)?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                let message = "server-side apply is not supported; use a client-side apply";
                Err(Refusal::new(415, "UnsupportedMediaType", message))
            }
            other => Err(Refusal::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "Content-Type: {other:?} is no patch; accepted are application/json-patch+json, \
                     application/merge-patch+json, application/strategic-merge-patch+json"
                ),
            )),
        }
    }

    /// Changes the object; 422 where an operation does not fit it.
    pub(crate) fn apply(&self, object: &mut Value) -> Result<(), Refusal> {
        match self {
            Self::Json(operations) => json_patch::patch(object, operations)
                .map_err(|error| Refusal::new(422, "Invalid", error.to_string())),
            Self::Merge(patch) => {
                json_patch::merge(object, patch);
                Ok(())
            }
            Self::Strategic(patch) => strategic::merge(object, patch),
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the patch cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(media_type: &str, patch: &Value) -> Result<Value, Refusal> {
        let mut object = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"ports": [1, 2]}});
        let media_type = format!("application/{media_type}-patch+json");
        Patch::parse(&media_type, patch.to_string().as_bytes())?.apply(&mut object)?;
        Ok(object)
    }

    #[test]
    fn json_patches_apply_in_order_or_not_at_all() {
        let operations = json!([
            {"op": "test", "path": "/metadata/labels/a", "value": "1"},
            {"op": "replace", "path": "/metadata/labels/a", "value": "2"},
            {"op": "add", "path": "/spec/ports/-", "value": 3},
            {"op": "remove", "path": "/spec/ports/0"},
        ]);
        let object = patched("json", &operations).unwrap();
        assert_eq!(
            object,
            json!({"metadata": {"labels": {"a": "2"}}, "spec": {"ports": [2, 3]}})
        );
        let missing = json!([{"op": "remove", "path": "/spec/absent"}]);
        assert_eq!(patched("json", &missing).unwrap_err().code, 422);
    }

    #[test]
    fn merge_patches_replace_lists_and_remove_with_null() {
        let patch = json!({"metadata": {"labels": {"a": null, "b": "2"}}, "spec": {"ports": [9]}});
        let object = patched("merge", &patch).unwrap();
        assert_eq!(
            object,
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"ports": [9]}})
        );
    }

    #[test]
    fn other_types_are_refused_with_415() {
        for other in ["application/apply-patch+yaml", "text/plain", ""] {
            assert_eq!(
                Patch::parse(other, b"{}").unwrap_err().code,
                415,
                "{other:?}"
            );
        }
        assert_eq!(
            patched("json", &json!({"op": "add"})).unwrap_err().code,
            400
        );
    }
}
