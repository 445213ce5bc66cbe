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
use std::path::PathBuf;
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
    /// The lab's own cgroup, in mode ebpf.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) store: Store,
    pub(crate) state: Arc<StateFile>,
    pub(crate) spawner: Spawner,
}

/// Looks after the pods until it is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let mut pods = Pods {
        context,
        stops: HashMap::new(),
        tasks: JoinSet::new(),
    };
    loop {
        if let Err(refusal) = pods.follow().await {
            tracing::warn!(%refusal, "the kubelet lists all pods again");
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
    /// Follows the store's pods until that is refused, after more changes than it remembers.
    async fn follow(&mut self) -> Result<(), Refusal> {
        let listing = self.context.store.list(Resource::Pod, None);
        let listed: Vec<String> = listing.objects.iter().filter_map(uid).collect();
        let gone = self.stops.iter().filter(|(uid, _)| !listed.contains(uid));
        gone.for_each(|(_, stop)| {
            stop.send_replace(true);
        });
        listing.objects.iter().for_each(|pod| self.look_at(pod));
        let mut changes = self.context.store.watch(Resource::Pod, listing.version)?;
        loop {
            tokio::select! {
                events = changes.next() => for event in events? {
                    match event.change {
                        Change::Added | Change::Modified => self.look_at(&event.object),
                        Change::Deleted => self.stop(&event.object),
                    }
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(uid) => drop(self.stops.remove(&uid)),
                    Err(error) => tracing::error!(%error, "a pod's task ended"),
                },
            }
        }
    }

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
                Some(stop) => {
                    stop.send_replace(true);
                }
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
        if let Some(stop) = uid(object).and_then(|uid| self.stops.get(&uid)) {
            stop.send_replace(true);
        }
    }
}

fn uid(object: &Object) -> Option<String> {
    object.value()["metadata"]["uid"]
        .as_str()
        .map(str::to_owned)
}
