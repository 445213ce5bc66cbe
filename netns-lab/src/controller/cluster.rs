//! What the controller knows of the cluster, and which Services that concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::endpoint::place;
use super::kinds::{Pod, Service, Slice};
use super::slices::{MANAGED_BY, MANAGER, Operation, SERVICE_NAME, reconcile};
use crate::apiserver::{Change, Deleted, Deletion, Event, Object, Part, Refusal, Resource, Store};

/// The label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Objects of one kind by name, of every namespace.
type Namespaced<T> = HashMap<String, BTreeMap<String, T>>;

/// A slice and the version it was seen at: what was written here is known before the watch
/// tells of it.
#[derive(Debug)]
struct Seen {
    version: u64,
    slice: Slice,
}

#[derive(Debug)]
pub(super) struct Cluster {
    store: Store,
    services: Namespaced<Service>,
    pods: Namespaced<Pod>,
    zones: HashMap<String, String>,
    /// By namespace, Service and name.
    slices: HashMap<(String, String), BTreeMap<String, Seen>>,
    /// Removed slices of ours, until the watch has told of it.
    removed: HashMap<(String, String), u64>,
    /// Services that may need other slices, by namespace and name.
    due: BTreeSet<(String, String)>,
}

impl Cluster {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            services: HashMap::new(),
            pods: HashMap::new(),
            zones: HashMap::new(),
            slices: HashMap::new(),
            removed: HashMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Takes in a change.
    pub(super) fn hear(&mut self, event: &Event) {
        // A slice that was relabelled is no longer the one its Service had.
        if let Some(before) = event.before.as_ref().and_then(owner)
            && event.change == Change::Modified
            && owner(&event.object).as_ref() != Some(&before)
            && let Some(slices) = self.slices.get_mut(&before)
        {
            slices.remove(event.object.name());
            self.due.insert(before);
        }
        match event.change {
            Change::Added | Change::Modified => self.learn(&event.object),
            Change::Deleted => self.forget(&event.object),
        }
    }

    /// Takes in an object as it is now.
    pub(super) fn learn(&mut self, object: &Object) {
        match object.resource() {
            Resource::Service => {
                if let Some(service) = parse::<Service>(object) {
                    self.due.insert(key(object));
                    names(&mut self.services, object).insert(object.name().to_owned(), service);
                }
            }
            Resource::Pod => {
                if let Some(pod) = parse::<Pod>(object) {
                    self.concerns(&pod);
                    let before =
                        names(&mut self.pods, object).insert(object.name().to_owned(), pod);
                    if let Some(before) = before {
                        self.concerns(&before);
                    }
                }
            }
            Resource::Node => {
                let zone = object.label(ZONE).map(str::to_owned);
                let name = object.name().to_owned();
                let before = match &zone {
                    Some(zone) => self.zones.insert(name, zone.clone()),
                    None => self.zones.remove(&name),
                };
                if before != zone {
                    self.everything_is_due();
                }
            }
            Resource::EndpointSlice => self.learn_slice(object),
            _ => {}
        }
    }

    fn forget(&mut self, object: &Object) {
        match object.resource() {
            Resource::Service => {
                names(&mut self.services, object).remove(object.name());
                self.due.insert(key(object));
            }
            Resource::Pod => {
                if let Some(pod) = names(&mut self.pods, object).remove(object.name()) {
                    self.concerns(&pod);
                }
            }
            Resource::Node if self.zones.remove(object.name()).is_some() => {
                self.everything_is_due();
            }
            Resource::EndpointSlice => {
                self.removed.remove(&key(object));
                if let Some(owner) = owner(object)
                    && let Some(slices) = self.slices.get_mut(&owner)
                    && slices
                        .get(object.name())
                        .is_some_and(|seen| seen.version < object.version())
                {
                    slices.remove(object.name());
                    self.due.insert(owner);
                }
            }
            _ => {}
        }
    }

    fn learn_slice(&mut self, object: &Object) {
        let gone = self.removed.get(&key(object));
        if gone.is_some_and(|version| *version > object.version()) {
            return;
        }
        let (Some(owner), Some(slice)) = (owner(object), parse::<Slice>(object)) else {
            return;
        };
        let slices = self.slices.entry(owner.clone()).or_default();
        let known = slices.get(object.name()).map_or(0, |seen| seen.version);
        if known < object.version() {
            let seen = Seen {
                version: object.version(),
                slice,
            };
            slices.insert(object.name().to_owned(), seen);
            self.due.insert(owner);
        }
    }

    fn concerns(&mut self, pod: &Pod) {
        let namespace = &pod.metadata.namespace;
        for (name, service) in self.services.get(namespace).into_iter().flatten() {
            if service.is_ours() && service.selects(pod) {
                self.due.insert((namespace.clone(), name.clone()));
            }
        }
    }

    fn everything_is_due(&mut self) {
        for (namespace, services) in &self.services {
            self.due.extend(
                services
                    .keys()
                    .map(|name| (namespace.clone(), name.clone())),
            );
        }
    }

    /// Brings the slices of every Service that is due to what they should be.
    pub(super) fn settle(&mut self) {
        let now = Timestamp::now().to_string();
        for owner in std::mem::take(&mut self.due) {
            for operation in self.plan(&owner, &now) {
                if let Err(refusal) = self.write(&owner, &operation, &now) {
                    // Somebody else's write came between; the watch tells of it, and the
                    // Service is looked at again.
                    tracing::debug!(%refusal, service = %owner.1, "an endpoint slice was not written");
                }
            }
        }
    }

    fn plan(&self, owner: &(String, String), now: &str) -> Vec<Operation> {
        let slices = self.slices.get(owner);
        let existing: Vec<&Slice> = slices
            .into_iter()
            .flatten()
            .map(|(_, seen)| &seen.slice)
            .collect();
        let service = self
            .services
            .get(&owner.0)
            .and_then(|services| services.get(&owner.1));
        let Some(service) = service else {
            let all = existing
                .iter()
                .map(|slice| Operation::Delete(slice.metadata.name.clone()));
            return all.collect();
        };
        if !service.is_ours() {
            return Vec::new();
        }
        let pods = self
            .pods
            .get(&owner.0)
            .into_iter()
            .flatten()
            .map(|(_, pod)| pod);
        let placed = pods
            .filter(|pod| service.selects(pod))
            .flat_map(|pod| {
                let node = pod.spec.node_name.as_ref();
                let zone = node.and_then(|node| self.zones.get(node));
                place(service, pod, zone.map(String::as_str))
            })
            .collect();
        reconcile(service, placed, &existing, now)
    }

    fn write(
        &mut self,
        owner: &(String, String),
        operation: &Operation,
        now: &str,
    ) -> Result<(), Refusal> {
        let resource = Resource::EndpointSlice;
        match operation {
            Operation::Create(slice) => {
                let object = self.store.create(resource, slice.clone())?;
                self.learn_slice(&object);
            }
            Operation::Update(name, content) => {
                let write = |slice: &mut serde_json::Value| {
                    content.write(slice, now);
                    Ok(())
                };
                let object = self
                    .store
                    .modify(resource, &owner.0, name, Part::Main, write)?;
                self.learn_slice(&object);
            }
            Operation::Delete(name) => {
                let deletion = Deletion::default();
                let (Deleted::Gone(object) | Deleted::Terminating(object)) =
                    self.store.delete(resource, &owner.0, name, &deletion)?;
                self.removed.insert(key(&object), object.version());
                if let Some(slices) = self.slices.get_mut(owner) {
                    slices.remove(name);
                }
            }
        }
        // What was just written is what is wanted.
        self.due.remove(owner);
        Ok(())
    }
}

fn key(object: &Object) -> (String, String) {
    (object.namespace().to_owned(), object.name().to_owned())
}

/// The Service whose slice this is, if it is one of ours.
fn owner(object: &Object) -> Option<(String, String)> {
    let service = object.label(SERVICE_NAME)?;
    (object.label(MANAGED_BY) == Some(MANAGER))
        .then(|| (object.namespace().to_owned(), service.to_owned()))
}

fn names<'a, T>(all: &'a mut Namespaced<T>, object: &Object) -> &'a mut BTreeMap<String, T> {
    all.entry(object.namespace().to_owned()).or_default()
}

/// The object as one of ours; what cannot be read is left alone.
fn parse<T: DeserializeOwned>(object: &Object) -> Option<T> {
    object
        .parse()
        .inspect_err(|error| tracing::warn!(?object, %error, "not understood, left alone"))
        .ok()
}
