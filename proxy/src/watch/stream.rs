//! kube's watcher, its errors and its lists, as a stream of model events.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::Api;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, InitialListStrategy};
use kube::runtime::{WatchStreamExt, watcher as kube_watcher};
use lb_model::said::Event;
use tokio::sync::mpsc;

use crate::backoff::Doubling;

use super::Heard;
use super::client::Connection;
use super::kind::{Kind, Watched};
use super::trouble::Trouble;

/// The first wait after a failure; doubled up to [`LONGEST_WAIT`], with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// This long without a failure, and the next wait is the first one again.
const CALM: Duration = Duration::from_secs(60);
/// How long a kind that is not to be had is done without before it is asked for again.
const LACKING: Duration = Duration::from_secs(300);
/// Objects in one page of a list: what is in memory at once.
const PAGE: u32 = 250;
/// A server that knows no streaming lists may ignore the request for one: then nothing ever says
/// that the list is over.
const STREAMED_LIST_SILENCE: Duration = Duration::from_secs(5);

/// A watch of all objects with `label_selector`.
pub(super) fn labelled(label_selector: &str) -> watcher::Config {
    watcher::Config::default().labels(label_selector)
}

/// A watch of the one object called `name`.
pub(super) fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// Whether to go on.
enum Then {
    /// The receiver is gone: the daemon ends.
    Stop,
    /// The server does not do streaming lists (before Kubernetes 1.27, or switched off).
    ListByPages,
    /// The server does not know us: the credentials may have changed.
    Reconnect,
    /// The server has no such kind, or does not show it to us, and it can be done without.
    DoWithout,
}

/// Watches kind `K` until `out` has no receiver. Streaming lists first, because they need the
/// memory of one object instead of one page; pages where the server knows none.
pub(super) async fn watch<K: Kind>(
    mut connection: Connection,
    selection: watcher::Config,
    out: mpsc::Sender<Heard>,
    trouble: Trouble,
) {
    let mut config = selection.any_semantic().page_size(PAGE).streaming_lists();
    let mut waits = Doubling::new(FIRST_WAIT, LONGEST_WAIT);
    let mut lacking = false;
    loop {
        let started = Instant::now();
        let api = Api::all(connection.client.clone());
        match run::<K>(api, &config, &out, &trouble).await {
            Then::Stop => return,
            Then::ListByPages => {
                tracing::debug!(kind = K::NAME, "no streaming lists; listing by pages");
                config.initial_list_strategy = InitialListStrategy::ListWatch;
            }
            Then::DoWithout => {
                if !lacking {
                    tracing::info!(kind = K::NAME, "not to be had here; going on without");
                }
                lacking = true;
                tokio::select! {
                    () = tokio::time::sleep(LACKING) => {}
                    () = out.closed() => return,
                }
            }
            Then::Reconnect => {
                if started.elapsed() > CALM {
                    waits = Doubling::new(FIRST_WAIT, LONGEST_WAIT);
                }
                tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
                match connection.again().await {
                    Ok(again) => connection = again,
                    Err(error) => tracing::warn!(kind = K::NAME, %error, "reconnecting"),
                }
            }
        }
    }
}

async fn run<K: Kind>(
    api: Api<Watched<K>>,
    config: &watcher::Config,
    out: &mpsc::Sender<Heard>,
    trouble: &Trouble,
) -> Then {
    let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
    let backoff = ResetTimerBackoff::new(Doubling::new(FIRST_WAIT, LONGEST_WAIT), CALM);
    let mut events = pin!(kube_watcher(api, config.clone()).backoff(backoff));
    let mut listing = false;
    let mut count = 0;
    loop {
        let next = if streaming && listing {
            match tokio::time::timeout(STREAMED_LIST_SILENCE, events.next()).await {
                Ok(next) => next,
                Err(_) => return Then::ListByPages,
            }
        } else {
            events.next().await
        };
        let sent = match next {
            None => return Then::Stop,
            Some(Err(error)) if streaming && refuses_streaming(&error) => return Then::ListByPages,
            Some(Err(error)) if K::OPTIONAL && has_code(&error, &[403, 404]) => {
                return Then::DoWithout;
            }
            Some(Err(error)) => {
                trouble.met(K::NAME, &error);
                if has_code(&error, &[401]) && !out.is_closed() {
                    return Then::Reconnect;
                }
                !out.is_closed()
            }
            Some(Ok(event)) => {
                match event {
                    watcher::Event::Init => (listing, count) = (true, 0),
                    watcher::Event::InitApply(_) => count += 1,
                    watcher::Event::InitDone => listing = false,
                    watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
                }
                // A list by pages announces itself before anything was asked.
                if !matches!(event, watcher::Event::Init) {
                    trouble.over(K::NAME);
                }
                say(event, count, out).await
            }
        };
        if !sent {
            return Then::Stop;
        }
    }
}

/// 400 and 422: the parameter `sendInitialEvents` is known and not allowed, or not known at all.
fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if matches!(status.code, 400 | 422)
    )
}

/// Hands `event` on; `false` when nobody listens any more.
async fn say<K: Kind>(
    event: watcher::Event<Watched<K>>,
    count: usize,
    out: &mpsc::Sender<Heard>,
) -> bool {
    let heard = match event {
        watcher::Event::Init => happened(K::list_begins()),
        watcher::Event::InitDone => happened(K::list_ends(count)),
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => heard(object),
        watcher::Event::Delete(object) => {
            let (namespace, name) = object.into_key();
            happened(Some(K::gone(namespace, name)))
        }
    };
    if heard.event.is_none() && heard.complaints.is_empty() {
        return true;
    }
    out.send(heard).await.is_ok()
}

/// Whether the server answered with one of `codes`. 401: who we say we are is not, or no longer,
/// known; 403: we may not see that; 404: there is no such kind.
fn has_code(error: &watcher::Error, codes: &[u16]) -> bool {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if codes.contains(&status.code))
}

/// See [`super::read`].
pub(super) fn read<K: Kind>(json: &str) -> Option<Heard> {
    serde_json::from_str(json).ok().map(heard::<K>)
}

fn heard<K: Kind>(object: Watched<K>) -> Heard {
    Heard {
        complaints: object.complaints,
        ..happened(object.said.map(K::there))
    }
}

fn happened(event: Option<Event>) -> Heard {
    Heard {
        at: Instant::now(),
        event,
        complaints: Vec::new(),
    }
}
