//! Binds pods to nodes: each goes to the worker with the fewest, so that they spread.

use std::collections::BTreeMap;

use crate::apiserver::{Object, Refusal, Resource, Store};
use crate::topology::{Role, Topology};

/// Binds every pod without a node, until it is dropped.
pub(crate) async fn run(store: Store, topology: Topology) -> Result<(), Refusal> {
    let listing = store.list(Resource::Pod, None);
    let mut changes = store.watch(Resource::Pod, listing.version)?;
    for pod in &listing.objects {
        bind(&store, &topology, pod);
    }
    loop {
        for event in changes.next().await? {
            bind(&store, &topology, &event.object);
        }
    }
}

fn bind(store: &Store, topology: &Topology, pod: &Object) {
    let value = pod.value();
    let bound = !value["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    if bound || !value["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let Some(node) = emptiest(store, topology) else {
        return;
    };
    let (namespace, name) = (pod.namespace(), pod.name());
    let bound = store.bind(namespace, name, &node);
    if let Err(refusal) = bound {
        tracing::debug!(pod = name, %refusal, "could not be bound to a node");
    }
}

/// The worker with the fewest pods; of equals the first.
fn emptiest(store: &Store, topology: &Topology) -> Option<String> {
    let workers = topology
        .nodes
        .iter()
        .filter(|node| node.role == Role::Worker);
    let mut counts: BTreeMap<String, usize> = workers.map(|node| (node.name.clone(), 0)).collect();
    for pod in store.list(Resource::Pod, None).objects {
        let value = pod.value();
        let node = value["spec"]["nodeName"].as_str().unwrap_or_default();
        if let Some(count) = counts.get_mut(node) {
            *count += 1;
        }
    }
    counts
        .into_iter()
        .min_by_key(|(_, count)| *count)
        .map(|(node, _)| node)
}
