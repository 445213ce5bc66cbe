//! A small client of the lab's API server.

mod access;

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
pub use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::apiserver::Resource;

pub use access::Access;

/// Talks to one API server; blocks, so it isn't for use inside an async runtime.
#[derive(Debug)]
pub struct Client {
    access: Access,
    runtime: Runtime,
}

impl Client {
    /// A client of the embedded server at this address.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        Self::to(Access::plain(address))
    }

    /// A client of the server that is reached like this, from the network namespace of whichever
    /// thread calls it.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn to(access: Access) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self { access, runtime })
    }

    /// The object, if there is one.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub fn get(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Option<Value>> {
        let path = path(resource, namespace, Some(name));
        match self.request(Method::GET, &path, None)? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, object) => accepted("get", &path, status, object).map(Some),
        }
    }

    /// The objects of all namespaces.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub fn list(&self, resource: Resource) -> anyhow::Result<Vec<Value>> {
        let path = path(resource, "", None);
        let (status, list) = self.request(Method::GET, &path, None)?;
        match accepted("list", &path, status, list)?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("list {path}: items is {other}"),
        }
    }

    /// Creates the object, or replaces the one there is.
    ///
    /// # Errors
    /// When the server can't be reached or refuses, as a bad object.
    pub fn apply(&self, object: &Value) -> anyhow::Result<Value> {
        let resource = resource_of(object)?;
        let metadata = &object["metadata"];
        let namespace = match resource.namespaced() {
            true => metadata["namespace"].as_str().unwrap_or("default"),
            false => "",
        };
        // Not the other way round: what a second Service of the name is refused for first is its
        // ClusterIP, which is taken.
        if let Some(name) = metadata["name"].as_str()
            && self.get(resource, namespace, name)?.is_some()
        {
            let one = path(resource, namespace, Some(name));
            let (status, answer) = self.request(Method::PUT, &one, Some(object))?;
            return accepted("replace", &one, status, answer);
        }
        let all = path(resource, namespace, None);
        let (status, answer) = self.request(Method::POST, &all, Some(object))?;
        accepted("create", &all, status, answer)
    }

    /// Deletes the object; fine when there is none.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> anyhow::Result<()> {
        let path = path(resource, namespace, Some(name));
        match self.request(Method::DELETE, &path, None)? {
            (StatusCode::NOT_FOUND, _) => Ok(()),
            (status, answer) => accepted("delete", &path, status, answer).map(drop),
        }
    }

    /// Whether the server says that it is ready (`/readyz`).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let asked = self.exchange(Method::GET, "/readyz", None);
        asked.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    /// Asks for whatever else the server offers; gives its answer's code and JSON.
    ///
    /// # Errors
    /// When the server can't be reached, or its answer is no JSON.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let (status, bytes) = self.exchange(method, path, body)?;
        let answer = serde_json::from_slice(&bytes)
            .with_context(|| format!("{path}: {status}, and no JSON"))?;
        Ok((status, answer))
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let response = self.access.send(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        let exchange = self.runtime.block_on(exchange);
        let address = self.access.address();
        exchange.with_context(|| format!("asking the API server at {address}"))
    }
}

fn accepted(verb: &str, path: &str, status: StatusCode, answer: Value) -> anyhow::Result<Value> {
    if status.is_success() {
        return Ok(answer);
    }
    let message = answer["message"].as_str().unwrap_or_default();
    bail!("{verb} {path}: {status}: {message}")
}

fn resource_of(object: &Value) -> anyhow::Result<Resource> {
    let (version, kind) = (&object["apiVersion"], &object["kind"]);
    let mut all = Resource::ALL.into_iter();
    all.find(|resource| *kind == resource.kind() && *version == resource.api_version())
        .with_context(|| format!("the lab knows no kind {kind} of apiVersion {version}"))
}

pub(crate) fn path(resource: Resource, namespace: &str, name: Option<&str>) -> String {
    let version = resource.api_version();
    let mut path = match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    };
    if !namespace.is_empty() {
        path.push_str("/namespaces/");
        path.push_str(namespace);
    }
    path.push('/');
    path.push_str(resource.plural());
    if let Some(name) = name {
        path.push('/');
        path.push_str(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_as_in_the_api_reference() {
        let paths = [
            (
                path(Resource::Pod, "default", Some("a")),
                "/api/v1/namespaces/default/pods/a",
            ),
            (path(Resource::Node, "", Some("n")), "/api/v1/nodes/n"),
            (
                path(Resource::EndpointSlice, "", None),
                "/apis/discovery.k8s.io/v1/endpointslices",
            ),
        ];
        for (built, expected) in paths {
            assert_eq!(built, expected);
        }
    }

    #[test]
    fn a_kind_that_is_not_served_is_named() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        let error = resource_of(&object).unwrap_err().to_string();
        assert!(
            error.contains("Deployment") && error.contains("apps/v1"),
            "{error}"
        );
    }
}
