//! WATCH: a response that lasts.

use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Asked, with_type};
use crate::apiserver::body::ResponseBody;
use crate::apiserver::misbehaviour::Orders;
use crate::apiserver::selector::Selection;
use crate::apiserver::{Change, Event, Listing, Object, Refusal, Resource, Watch, columns};

/// How long a watch lasts where the client does not say (kube-apiserver: 30 to 60 minutes).
const LASTS: Duration = Duration::from_secs(1800);

/// How often a watch is told how far it has come.
const BOOKMARKS: Duration = Duration::from_secs(10);

/// How much is put together before it is handed to the connection, in bytes.
const PIECE: usize = 64 * 1024;

/// Marks the bookmark that ends the initial state (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One client's watch.
struct Following {
    resource: Resource,
    selection: Selection,
    table: bool,
    bookmarks: bool,
    /// The newest version the client knows.
    told: u64,
    orders: watch::Receiver<Orders>,
    /// Objects of the initial state after which this server breaks off.
    most: usize,
    pieces: mpsc::Sender<Bytes>,
    gathered: Vec<u8>,
}

/// Why a watch ended early: the client went away or the server stops.
struct Gone;

impl Asked {
    pub(super) fn watch(&self) -> Result<Response<ResponseBody>, Refusal> {
        let lasts = self
            .query
            .number("timeoutSeconds")?
            .map_or(LASTS, Duration::from_secs);
        let bookmarks = self.query.flag("allowWatchBookmarks")?;
        let version = self.query.number("resourceVersion")?.unwrap_or(0);
        let streaming = self.streaming_list(bookmarks)?;
        let (pieces, receiver) = mpsc::channel(4);
        let following = Following {
            resource: self.target.resource,
            selection: self.selection()?,
            table: self.table,
            bookmarks,
            told: version,
            orders: self.serving.misbehaviour.orders(),
            most: self.serving.misbehaviour.list_break(),
            pieces,
            gathered: Vec::new(),
        };
        let store = self.serving.store.clone();
        let resource = self.target.resource;
        let initial = streaming.unwrap_or(version == 0);
        let delay = self.serving.misbehaviour.list_delay();
        let run = async move {
            let (initial, watch) = if initial {
                tokio::time::sleep(delay).await;
                let page = store.page(resource, &following.selection, None, usize::MAX);
                let watch = store.watch(resource, page.listing.version);
                (Some((page.listing, streaming == Some(true))), watch)
            } else {
                let from = if version == 0 {
                    store.version()
                } else {
                    version
                };
                (None, store.watch(resource, from))
            };
            following.run(initial, watch, lasts).await;
        };
        tokio::spawn(run);
        Ok(with_type(
            200,
            "application/json",
            ResponseBody::Watch(receiver),
        ))
    }

    /// What `sendInitialEvents` says, if anything; 422 where its companions do not fit.
    fn streaming_list(&self, bookmarks: bool) -> Result<Option<bool>, Refusal> {
        if self.query.get("sendInitialEvents").is_empty() {
            return Ok(None);
        }
        let asked = self.query.flag("sendInitialEvents")?;
        let matched = self.query.get("resourceVersionMatch");
        if matched != "NotOlderThan" || (asked && !bookmarks) {
            let message = "sendInitialEvents: needs resourceVersionMatch=NotOlderThan and \
                           allowWatchBookmarks=true";
            return Err(Refusal::new(422, "Invalid", message));
        }
        Ok(Some(asked))
    }
}

impl Following {
    async fn run(
        mut self,
        initial: Option<(Listing, bool)>,
        watch: Result<Watch, Refusal>,
        lasts: Duration,
    ) {
        let mut orders = self.orders.clone();
        let pieces = self.pieces.clone();
        tokio::select! {
            _ = orders.wait_for(|orders| orders.stop) => {}
            () = pieces.closed() => {}
            _ = self.tell_all(initial, watch, lasts) => {}
        }
    }

    async fn tell_all(
        &mut self,
        initial: Option<(Listing, bool)>,
        watch: Result<Watch, Refusal>,
        lasts: Duration,
    ) -> Result<(), Gone> {
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(refusal) => return self.fail(&refusal).await,
        };
        // A watch that hangs has not even sent its headers' first event.
        self.wait_while_hanging().await;
        if let Some((Listing { version, objects }, marked)) = initial {
            for object in objects.iter().take(self.most) {
                self.add("ADDED", object).await?;
            }
            if objects.len() > self.most {
                return self.flush().await;
            }
            self.told = version;
            if marked {
                self.bookmark(true);
            }
            self.flush().await?;
        }
        let end = Instant::now() + lasts;
        let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        loop {
            let (events, last) = tokio::select! {
                events = watch.next() => (events, false),
                _ = ticks.tick() => (watch.pending(), false),
                () = tokio::time::sleep_until(end) => (watch.pending(), true),
            };
            self.wait_while_hanging().await;
            let events = match events {
                Ok(events) => events,
                Err(refusal) => return self.fail(&refusal).await,
            };
            let quiet = events.is_empty();
            for event in &events {
                self.tell(event).await?;
            }
            // With or without news: clients know by it that the watch is alive.
            if quiet && self.bookmarks {
                self.told = self.told.max(watch.position());
                self.bookmark(false);
            }
            self.flush().await?;
            if last {
                return Ok(());
            }
        }
    }

    async fn wait_while_hanging(&mut self) {
        // The sender lives as long as the server, which this task does not outlive.
        let _ = self.orders.wait_for(|orders| !orders.hang_watches).await;
    }

    /// Tells of a change as this client's selectors see it.
    async fn tell(&mut self, event: &Event) -> Result<(), Gone> {
        let before = event
            .before
            .as_ref()
            .filter(|object| self.selection.matches(object));
        let now = event.change != Change::Deleted && self.selection.matches(&event.object);
        match (before, now) {
            (None, true) => self.add("ADDED", &event.object).await?,
            (Some(_), true) => self.add("MODIFIED", &event.object).await?,
            (Some(_), false) if event.change == Change::Deleted => {
                self.add("DELETED", &event.object).await?;
            }
            // It left the selection: the client gets what it knew, at the new version.
            (Some(before), false) => {
                let last = before.at_version(event.object.version());
                self.add("DELETED", &last).await?;
            }
            (None, false) => return Ok(()),
        }
        self.told = event.object.version();
        Ok(())
    }

    async fn add(&mut self, kind: &str, object: &Object) -> Result<(), Gone> {
        self.gathered.extend_from_slice(br#"{"type":""#);
        self.gathered.extend_from_slice(kind.as_bytes());
        self.gathered.extend_from_slice(br#"","object":"#);
        if self.table {
            let objects = std::slice::from_ref(object);
            let table = columns::table(self.resource, object.version(), objects);
            self.gathered
                .extend_from_slice(table.to_string().as_bytes());
        } else {
            self.gathered.extend_from_slice(object.json());
        }
        self.gathered.extend_from_slice(b"}\n");
        if self.gathered.len() >= PIECE {
            self.flush().await
        } else {
            Ok(())
        }
    }

    fn say(&mut self, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.gathered.extend_from_slice(line.as_bytes());
    }

    fn bookmark(&mut self, initial_end: bool) {
        let mut object = json!({
            "kind": self.resource.kind(),
            "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.told.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        self.say("BOOKMARK", &object);
    }

    async fn fail(&mut self, refusal: &Refusal) -> Result<(), Gone> {
        self.say("ERROR", &refusal.to_status());
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.gathered);
        self.pieces.send(piece.into()).await.map_err(|_| Gone)
    }
}
