//! What a node's kubelet does, for all nodes of the lab at once: it starts and ends the pods bound
//! to them, and reports.
//!
//! It never restarts a container (every pod has `restartPolicy: Never`), never pulls an image (a
//! pod says its command) and runs a pod's first container only.

mod container;
mod pod;
mod sandbox;
mod status;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::apiserver::{Change, Object, Refusal, Resource, Store};
use crate::folder::Folder;
use crate::spawner::Spawner;
use crate::state::StateFile;
use crate::topology::Topology;
use pod::PodSpec;

pub(crate) use sandbox::detach;

/// What every pod's task needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) folder: Folder,
    pub(crate) topology: Topology,
    pub(crate) store: Store,
    pub(crate) state: Arc<StateFile>,
    pub(crate) spawner: Spawner,
}

/// Looks after the pods until it is dropped.
pub(crate) async fn run(context: Arc<Context>) -> Result<(), Refusal> {
    let mut pods = Pods {
        context: context.clone(),
        stops: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let listing = context.store.list(Resource::Pod, None);
    listing.objects.iter().for_each(|pod| pods.look_at(pod));
    let mut changes = context.store.watch(Resource::Pod, listing.version)?;
    loop {
        tokio::select! {
            events = changes.next() => for event in events? {
                match event.change {
                    Change::Added | Change::Modified => pods.look_at(&event.object),
                    Change::Deleted => pods.stop(&event.object),
                }
            },
            Some(ended) = pods.tasks.join_next() => match ended {
                Ok(uid) => drop(pods.stops.remove(&uid)),
                Err(error) => tracing::error!(%error, "a pod's task ended"),
            },
        }
    }
}

/// The pods that have a task.
struct Pods {
    context: Arc<Context>,
    /// By uid; `true` asks the task to end the pod.
    stops: HashMap<String, watch::Sender<bool>>,
    tasks: JoinSet<String>,
}

impl Pods {
    fn look_at(&mut self, object: &Object) {
        let spec = match PodSpec::of(object) {
            Ok(spec) => spec,
            Err(error) => {
                tracing::warn!(pod = object.name(), %error, "not a pod that can be run");
                return;
            }
        };
        let Some(spec) = spec.filter(|spec| self.context.topology.node(&spec.node).is_some())
        else {
            // Not bound yet, or bound to a node that isn't ours.
            return;
        };
        if spec.terminating {
            match self.stops.get(&spec.uid) {
                Some(stop) => drop(stop.send_replace(true)),
                None => pod::finish_deletion(&self.context.store, &spec),
            }
        } else if !self.stops.contains_key(&spec.uid) && !spec.finished {
            let (stop, stopped) = watch::channel(false);
            self.stops.insert(spec.uid.clone(), stop);
            self.tasks
                .spawn(pod::live(self.context.clone(), spec, stopped));
        }
    }

    fn stop(&mut self, object: &Object) {
        let uid = object.value()["metadata"]["uid"]
            .as_str()
            .map(str::to_owned);
        if let Some(stop) = uid.and_then(|uid| self.stops.get(&uid)) {
            stop.send_replace(true);
        }
    }
}
