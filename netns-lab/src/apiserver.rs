//! An embedded Kubernetes API server for labs and tests.
//!
//! It never authenticates anybody, never keeps anything on disk, and never schedules or runs a
//! pod: it serves a [`Store`] that lives in this process, over plain HTTP/1.1.
//!
//! ```no_run
//! use netns_lab::apiserver::{ApiServer, Store, kubeconfig};
//!
//! let store = Store::default();
//! let server = ApiServer::start(store.clone())?;
//! let address = server.serve(std::net::TcpListener::bind("127.0.0.1:0")?)?;
//! std::fs::write("kubeconfig", kubeconfig(&format!("http://{address}")))?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! Served are get, list (selectors, limit and continue), watch (bookmarks, initial events),
//! create, update, patch, delete and deletecollection, and `/status`, for the resources of
//! [`Resource`]; discovery is good enough for kubectl. Refused are server-side apply and protobuf
//! bodies (415; some `kubectl create KIND NAME` send those) and dry runs (400). Fields are not
//! validated against a schema.

mod admission;
mod allocation;
mod answer;
mod body;
mod columns;
mod discovery;
mod history;
mod identity;
mod misbehaviour;
mod object;
mod openapi;
mod patch;
mod refusal;
mod request;
mod resource;
mod selector;
mod serve;
mod state;
mod store;
mod upstream;
mod watch;

pub use allocation::ServiceRanges;
pub use misbehaviour::Misbehaviour;
pub(crate) use object::Key;
pub use object::Object;
pub use refusal::Refusal;
pub use resource::Resource;
pub use serve::ApiServer;
pub use store::{Deleted, Deletion, Listing, Part, PodRemoval, Store, StoreOptions};
pub(crate) use upstream::Upstream;
pub use watch::{Change, Event, Watch};

/// A kubeconfig for the server at this URL (`http://ADDRESS:PORT`), as JSON, which is YAML too.
#[must_use]
pub fn kubeconfig(url: &str) -> String {
    kubeconfig_of(&serde_json::json!({"server": url}), &serde_json::json!({}))
}

/// A kubeconfig with this `cluster` and this `user`.
pub(crate) fn kubeconfig_of(cluster: &serde_json::Value, user: &serde_json::Value) -> String {
    let name = "netns-lab";
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    })
    .to_string()
}
