//! GET of one object and of a collection.

use hyper::Response;
use serde_json::{Value, json};

use super::{Asked, json_response, with_type};
use crate::apiserver::body::{ListBody, ResponseBody};
use crate::apiserver::object::Key;
use crate::apiserver::selector::Selection;
use crate::apiserver::{Listing, Object, Refusal, columns};

/// Where the next page of a list starts: the version of the first page and the last key given.
struct Continue {
    version: u64,
    after: Key,
}

impl Continue {
    /// Reads a token we made; 400 for any other.
    fn parse(token: &str) -> Result<Option<Self>, Refusal> {
        if token.is_empty() {
            return Ok(None);
        }
        let mut parts = token.splitn(3, ':');
        let parsed = (|| {
            let version = parts.next()?.parse().ok()?;
            let after = Key::new(parts.next()?, parts.next()?);
            Some(Self { version, after })
        })();
        parsed.map(Some).ok_or_else(|| {
            Refusal::bad_request(format!("continue: {token:?} is no token of this server"))
        })
    }

    fn token(version: u64, last: &Object) -> String {
        format!("{version}:{}:{}", last.namespace(), last.name())
    }
}

impl Asked {
    pub(super) fn selection(&self) -> Result<Selection, Refusal> {
        let labels = self.query.get("labelSelector");
        let fields = self.query.get("fieldSelector");
        let selection = Selection::parse(self.target.namespace.as_deref(), labels, fields)?;
        selection.check_fields(self.target.resource)?;
        Ok(selection)
    }

    pub(super) fn find(&self) -> Result<Object, Refusal> {
        let name = self.target.name.as_deref().unwrap_or_default();
        let store = &self.serving.store;
        store
            .get(self.target.resource, self.target.namespace(), name)
            .ok_or_else(|| Refusal::not_found(self.target.resource, name))
    }

    pub(super) fn get(&self) -> Result<Response<ResponseBody>, Refusal> {
        let object = self.find()?;
        if self.table {
            let table = columns::table(self.target.resource, object.version(), &[object]);
            return Ok(json_response(200, &table));
        }
        Ok(one(200, &object))
    }

    pub(super) async fn list(&self) -> Result<Response<ResponseBody>, Refusal> {
        tokio::time::sleep(self.serving.misbehaviour.list_delay()).await;
        let selection = self.selection()?;
        let from = Continue::parse(self.query.get("continue"))?;
        let limit = self.query.number("limit")?.unwrap_or(0);
        let limit = usize::try_from(limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        self.check_version(from.as_ref())?;
        let resource = self.target.resource;
        let after = from.as_ref().map(|from| &from.after);
        let page = self.serving.store.page(resource, &selection, after, limit);
        let Listing { version, objects } = page.listing;
        // Every page carries the version of the first: objects on later pages may be newer, and
        // a watch from this version tells of their changes once more.
        let version = from.map_or(version, |from| from.version);
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if page.remaining > 0
            && let Some(last) = objects.last()
        {
            metadata["continue"] = json!(Continue::token(version, last));
            if selection.is_open() {
                metadata["remainingItemCount"] = json!(page.remaining);
            }
        }
        if self.table {
            let mut table = columns::table(resource, version, &objects);
            table["metadata"] = metadata;
            return Ok(json_response(200, &table));
        }
        let head = format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
            resource.kind(),
            resource.api_version()
        );
        let body = ResponseBody::List(ListBody::new(head, objects, b"]}"));
        Ok(with_type(200, "application/json", body))
    }

    /// Refuses versions that cannot be served: exact ones of the past, any of the future.
    fn check_version(&self, from: Option<&Continue>) -> Result<(), Refusal> {
        let store = &self.serving.store;
        if let Some(from) = from {
            // A page of a list whose later changes can no longer be watched is of no use.
            store.watch(self.target.resource, from.version)?;
            return Ok(());
        }
        let Some(asked) = self
            .query
            .number("resourceVersion")?
            .filter(|version| *version > 0)
        else {
            return Ok(());
        };
        let current = store.version();
        if asked > current {
            let message = format!("Too large resource version: {asked}, current: {current}");
            return Err(Refusal::new(504, "Timeout", message));
        }
        match self.query.get("resourceVersionMatch") {
            "" | "NotOlderThan" => Ok(()),
            "Exact" if asked == current => Ok(()),
            "Exact" => Err(Refusal::expired(asked, current)),
            other => Err(Refusal::bad_request(format!(
                "resourceVersionMatch: {other:?} is none of Exact, NotOlderThan"
            ))),
        }
    }
}

/// A response with one object.
pub(super) fn one(code: u16, object: &Object) -> Response<ResponseBody> {
    with_type(
        code,
        "application/json",
        ResponseBody::Whole(Some(object.json().clone())),
    )
}

/// A response that says a write succeeded, where there is no object to show.
pub(super) fn success(details: &Value) -> Response<ResponseBody> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Success", "details": details});
    json_response(200, &status)
}
