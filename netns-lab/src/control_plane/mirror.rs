//! The lab's own components on a real API server: a store that shows its objects, kept up to date
//! by watches, whose writes are requests.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::apiserver::{Deleted, Deletion, Key, Object, Part, Refusal, Resource, Store, Upstream};
use crate::background::Background;
use crate::client::{Access, path};

/// How long the first lists may take.
const FIRST_LISTS: Duration = Duration::from_secs(60);
/// How long a write may take until its result can be read.
const SEEN: Duration = Duration::from_secs(30);
/// Between a failure and the next try.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a write is tried when others' writes come between.
const TRIES: usize = 20;

/// The watches; dropping it ends them. The store stays as it then is.
#[derive(Debug)]
pub(crate) struct Mirror {
    store: Store,
    stop: watch::Sender<bool>,
    _background: Background,
}

impl Mirror {
    /// Starts to watch, and waits until everything is listed. Blocks.
    pub(crate) fn start(access: Access) -> anyhow::Result<Self> {
        let background = Background::start("mirror")?;
        let (stop, stopped) = watch::channel(false);
        let (listed, first_lists) = mpsc::channel();
        let store = {
            let (_entered, alive) = background.enter().context("the mirror has ended")?;
            let remote = Arc::new(Remote {
                access,
                runtime: Handle::current(),
                seen: Resource::ALL
                    .map(|resource| (resource, watch::Sender::new(0)))
                    .into(),
            });
            let store = Store::of(remote.clone());
            for resource in Resource::ALL {
                let following = Following {
                    remote: remote.clone(),
                    store: store.clone(),
                    resource,
                    listed: listed.clone(),
                };
                let (mut stopped, alive) = (stopped.clone(), alive.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = stopped.wait_for(|stopped| *stopped) => {}
                        () = following.keep() => {}
                    }
                    drop(alive);
                });
            }
            store
        };
        for _ in Resource::ALL {
            let listed = first_lists.recv_timeout(FIRST_LISTS);
            listed.context("the API server's lists were not answered in time")?;
        }
        Ok(Self {
            store,
            stop,
            _background: background,
        })
    }

    /// What the lab's components use.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// The API server.
struct Remote {
    access: Access,
    runtime: Handle,
    /// Up to which of its versions the store shows each resource; told after every change.
    seen: BTreeMap<Resource, watch::Sender<u64>>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Remote({:?})", self.access)
    }
}

/// One resource's watch.
struct Following {
    remote: Arc<Remote>,
    store: Store,
    resource: Resource,
    listed: mpsc::Sender<()>,
}

impl Following {
    /// Lists and watches, again and again.
    async fn keep(&self) {
        loop {
            let list = request(Method::GET, &path(self.resource, "", None), None);
            match ask(&self.remote.access, list).await {
                // This server has no such resource.
                Err(refusal) if refusal.code == 404 => {
                    let _ = self.listed.send(());
                    return;
                }
                Err(refusal) => tracing::warn!(%refusal, resource = self.resource.plural(), "list"),
                Ok(list) => {
                    if let Err(error) = self.follow(list).await {
                        let error = format!("{error:#}");
                        tracing::debug!(error, resource = self.resource.plural(), "watch");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes in a list, and every change after it, until the server wants to be asked anew.
    async fn follow(&self, mut list: Value) -> anyhow::Result<()> {
        let mut version = version(&list)?;
        if let Value::Array(items) = list["items"].take() {
            self.store.reflect_all(self.resource, items)?;
        }
        self.shown(version);
        let _ = self.listed.send(());
        loop {
            let all = path(self.resource, "", None);
            let watch =
                format!("{all}?watch=true&allowWatchBookmarks=true&resourceVersion={version}");
            let watch = request(Method::GET, &watch, None);
            let response = self.remote.access.send(watch).await?;
            if !response.status().is_success() {
                bail!("{}", response.status());
            }
            version = self.hear(response, version).await?;
        }
    }

    /// Takes in the events of one watch; gives the last one's version.
    async fn hear(
        &self,
        response: Response<hyper::body::Incoming>,
        mut last: u64,
    ) -> anyhow::Result<u64> {
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            text.extend_from_slice(&frame?.into_data().unwrap_or_default());
            // Every event is one line.
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line)?;
                let object = event["object"].take();
                match event["type"].as_str() {
                    Some("ADDED" | "MODIFIED") => {
                        last = version(&object)?;
                        self.store.reflect(self.resource, object)?;
                    }
                    Some("DELETED") => {
                        last = version(&object)?;
                        self.store.reflect_gone(self.resource, &key(&object))?;
                    }
                    Some("BOOKMARK") => last = version(&object)?,
                    _ => bail!("{event}: {object}"),
                }
                self.shown(last);
            }
        }
        Ok(last)
    }

    fn shown(&self, version: u64) {
        if let Some(seen) = self.remote.seen.get(&self.resource) {
            seen.send_replace(version);
        }
    }
}

impl Remote {
    /// Waits for work that this server's thread does. The caller may be a thread of another
    /// runtime, which then waits too: a few milliseconds.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, result) = mpsc::channel();
        self.runtime.spawn(async move {
            // The caller waits for it.
            let _ = sender.send(work.await);
        });
        result
            .recv()
            .unwrap_or_else(|_| Err(unavailable("the lab is ending")))
    }

    fn ask(&self, request: Request<Full<Bytes>>) -> Result<Value, Refusal> {
        let access = self.access.clone();
        self.wait(async move { ask(&access, request).await })
    }

    /// Waits until the store shows this or something later, or anything that `done` accepts.
    fn wait_until_seen(
        &self,
        resource: Resource,
        done: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Result<(), Refusal> {
        let Some(seen) = self.seen.get(&resource) else {
            return Ok(());
        };
        let mut seen = seen.subscribe();
        self.wait(async move {
            let waiting = seen.wait_for(|version| done(*version));
            match tokio::time::timeout(SEEN, waiting).await {
                Ok(_) => Ok(()),
                Err(_) => Err(unavailable("written, and not seen again in time")),
            }
        })
    }

    /// The object as the store shows it after a write, which the server answered with `written`.
    fn shown(&self, store: &Store, resource: Resource, written: &Value) -> Result<Object, Refusal> {
        let version = version(written).map_err(|error| unavailable(&format!("{error:#}")))?;
        self.wait_until_seen(resource, move |seen| seen >= version)?;
        let Key { namespace, name } = key(written);
        let object = store.get(resource, &namespace, &name);
        object.ok_or_else(|| Refusal::not_found(resource, &name))
    }
}

impl Upstream for Remote {
    fn create(&self, store: &Store, resource: Resource, object: Value) -> Result<Object, Refusal> {
        let namespace = match resource.namespaced() {
            true => text(&object, "namespace").unwrap_or("default").to_owned(),
            false => String::new(),
        };
        let all = path(resource, &namespace, None);
        let written = self.ask(request(Method::POST, &all, Some(&object)))?;
        self.shown(store, resource, &written)
    }

    fn change(
        &self,
        store: &Store,
        (resource, key, part): (Resource, &Key, Part),
        edit: &mut dyn FnMut(Value) -> Result<Value, Refusal>,
    ) -> Result<Object, Refusal> {
        let one = path(resource, &key.namespace, Some(&key.name));
        let written = match part {
            Part::Main => one.clone(),
            Part::Status => format!("{one}/status"),
        };
        for _ in 1..TRIES {
            let object = self.ask(request(Method::GET, &one, None))?;
            let object = edit(object)?;
            match self.ask(request(Method::PUT, &written, Some(&object))) {
                Err(refusal) if refusal.reason == "Conflict" => {}
                Err(refusal) => return Err(refusal),
                Ok(written) => return self.shown(store, resource, &written),
            }
        }
        Err(unavailable("others write it all the time"))
    }

    fn delete(
        &self,
        store: &Store,
        (resource, key): (Resource, &Key),
        deletion: &Deletion,
    ) -> Result<Deleted, Refusal> {
        let (namespace, name) = (&*key.namespace, &*key.name);
        let before = store.get(resource, namespace, name);
        let before = before.ok_or_else(|| Refusal::not_found(resource, name))?;
        let uid = before.value()["metadata"]["uid"].clone();
        let mut options = json!({
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            // Whatever is there under this name: the one that was seen, or the one that is meant.
            "preconditions": {"uid": deletion.uid.as_ref().map_or(uid.clone(), |uid| json!(uid))},
        });
        if let Some(grace) = deletion.grace {
            options["gracePeriodSeconds"] = grace.into();
        }
        let one = path(resource, namespace, Some(name));
        let answer = self.ask(request(Method::DELETE, &one, Some(&options)))?;
        let terminating = text(&answer, "deletionTimestamp").is_some();
        if terminating && deletion.grace != Some(0) {
            return self
                .shown(store, resource, &answer)
                .map(Deleted::Terminating);
        }
        let (seen, key) = (store.clone(), key.clone());
        self.wait_until_seen(resource, move |_| {
            let now = seen.get(resource, &key.namespace, &key.name);
            now.is_none_or(|object| object.value()["metadata"]["uid"] != uid)
        })?;
        Ok(Deleted::Gone(before.at_version(store.version())))
    }

    fn bind(&self, store: &Store, pod: &Key, node: &str) -> Result<(), Refusal> {
        let one = path(Resource::Pod, &pod.namespace, Some(&pod.name));
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name},
            "target": {"kind": "Node", "name": node},
        });
        let path = format!("{one}/binding");
        self.ask(request(Method::POST, &path, Some(&binding)))?;
        let (store, pod) = (store.clone(), pod.clone());
        self.wait_until_seen(Resource::Pod, move |_| {
            let now = store.get(Resource::Pod, &pod.namespace, &pod.name);
            now.is_none_or(|pod| pod.value()["spec"]["nodeName"].is_string())
        })
    }
}

fn request(method: Method, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    // Paths are made of names that API servers accept: all of them fit into a URL.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let json = hyper::header::HeaderValue::from_static("application/json");
    let headers = request.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, json.clone());
    headers.insert(hyper::header::ACCEPT, json);
    request
}

async fn ask(access: &Access, request: Request<Full<Bytes>>) -> Result<Value, Refusal> {
    let exchange = async {
        let response = access.send(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, serde_json::from_slice(&bytes)?))
    };
    match exchange.await {
        Ok((status, answer)) if status.is_success() => Ok(answer),
        Ok((status, answer)) => Err(Refusal::of_status(status.as_u16(), &answer)),
        Err(error) => Err(unavailable(&format!("asking the API server: {error:#}"))),
    }
}

fn unavailable(message: &str) -> Refusal {
    Refusal::new(503, "ServiceUnavailable", message)
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object["metadata"][field].as_str()
}

fn key(object: &Value) -> Key {
    Key::new(
        text(object, "namespace").unwrap_or_default(),
        text(object, "name").unwrap_or_default(),
    )
}

/// What an API server's versions are compared by (KEP-5504: they are numbers, and ordered).
fn version(object: &Value) -> anyhow::Result<u64> {
    let version = text(object, "resourceVersion").context("an object without a version")?;
    Ok(version.parse()?)
}

#[cfg(test)]
mod tests;
