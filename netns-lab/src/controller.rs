//! Keeps EndpointSlices in step with the Services' selectors and their pods.
//!
//! It never touches a slice it did not make (label
//! `endpointslice.kubernetes.io/managed-by`), nor one of a Service without a selector, and it
//! writes only what differs. What an endpoint says follows kube-controller-manager's
//! endpointslice controller (k8s.io/endpointslice).

mod cluster;
mod endpoint;
mod kinds;
mod slices;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::apiserver::{Refusal, Resource, Store, Watch};
use crate::background::Background;
use cluster::Cluster;

/// The running controller, on a thread of its own; dropping it stops it.
#[derive(Debug)]
pub struct EndpointSliceController {
    stop: watch::Sender<bool>,
    _background: Background,
}

impl EndpointSliceController {
    /// Starts to watch the store.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(store: Store) -> anyhow::Result<Self> {
        let background = Background::start("endpoint-slices")?;
        let (stop, mut stopped) = watch::channel(false);
        {
            let (_entered, alive) = background.enter().context("the thread has ended")?;
            tokio::spawn(async move {
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                    () = control(&store) => {}
                }
                drop(alive);
            });
        }
        Ok(Self {
            stop,
            _background: background,
        })
    }
}

impl Drop for EndpointSliceController {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Runs until it is cancelled; starts over from full lists when it fell behind the history.
async fn control(store: &Store) {
    loop {
        if let Err(refusal) = follow(store).await {
            tracing::warn!(%refusal, "the endpoint slice controller lists everything again");
        }
        // Whatever was refused, asking at once for the same would only be refused again.
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn follow(store: &Store) -> Result<(), Refusal> {
    let mut cluster = Cluster::new(store.clone());
    let watch = |resource, cluster: &mut Cluster| -> Result<Watch, Refusal> {
        let listing = store.list(resource, None);
        listing
            .objects
            .iter()
            .for_each(|object| cluster.learn(object));
        store.watch(resource, listing.version)
    };
    let mut nodes = watch(Resource::Node, &mut cluster)?;
    let mut pods = watch(Resource::Pod, &mut cluster)?;
    let mut slices = watch(Resource::EndpointSlice, &mut cluster)?;
    let mut services = watch(Resource::Service, &mut cluster)?;
    cluster.settle();
    loop {
        let first = tokio::select! {
            events = services.next() => events?,
            events = pods.next() => events?,
            events = slices.next() => events?,
            events = nodes.next() => events?,
        };
        first.iter().for_each(|event| cluster.hear(event));
        // Everything that happened meanwhile is one pass.
        for watch in [&mut nodes, &mut pods, &mut slices, &mut services] {
            watch
                .pending()?
                .iter()
                .for_each(|event| cluster.hear(event));
        }
        cluster.settle();
    }
}
