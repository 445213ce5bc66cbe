//! The objects, their versions and their history.

use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::admission;
use super::allocation::ServiceRanges;
use super::identity;
use super::object::{Key, text};
use super::selector::Selection;
use super::state::State;
use super::upstream::Upstream;
use super::{Event, Object, Refusal, Resource, Watch};

/// Who removes a deleted pod that runs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodRemoval {
    /// The node's kubelet: a delete only sets `deletionTimestamp`; the pod goes with a second
    /// delete whose grace period is 0 ([`Deletion::now`]). Pods bound to no node go at once.
    #[default]
    ByKubelet,
    /// The server, at once.
    AtOnce,
}

/// What a [`Store`] is made with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How many changes of each resource are remembered for watches; beyond that they get 410.
    pub history: usize,
    /// Where ClusterIPs come from.
    pub service_ranges: ServiceRanges,
    /// Who removes deleted pods.
    pub pod_removal: PodRemoval,
}

impl Default for StoreOptions {
    /// 32,768 changes, 10.96.0.0/16 and fd00:10:96::/112, pods removed by their kubelet.
    fn default() -> Self {
        Self {
            history: 32_768,
            service_ranges: ServiceRanges::default(),
            pod_removal: PodRemoval::default(),
        }
    }
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but `status`.
    Main,
    /// Only `status`.
    Status,
}

/// How to delete, as `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Grace period in seconds; absent for the object's own, 0 for at once.
    pub grace: Option<u64>,
    /// Only if this is the object's uid.
    pub uid: Option<String>,
    /// Only if this is the object's version.
    pub version: Option<u64>,
}

impl Deletion {
    /// At once, whatever the resource.
    #[must_use]
    pub fn now() -> Self {
        Self {
            grace: Some(0),
            ..Self::default()
        }
    }
}

/// What a delete led to.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Object),
    /// Its `deletionTimestamp` is set; whoever finishes it deletes it again.
    Terminating(Object),
}

/// All objects of some resource at one version.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The store's version when the objects were read: a watch from here misses nothing.
    pub version: u64,
    /// Sorted by namespace, then name.
    pub objects: Vec<Object>,
}

/// One page of a [`Listing`].
pub(crate) struct Page {
    pub(crate) listing: Listing,
    /// How many more objects lie behind this page (before selection).
    pub(crate) remaining: usize,
}

/// The objects behind the API, shared by the servers and everything else in this process.
/// Cloning gives another handle to the same store.
#[derive(Clone)]
pub struct Store {
    options: Arc<StoreOptions>,
    state: Arc<Mutex<State>>,
    /// Where writes go, if not here.
    upstream: Option<Arc<dyn Upstream>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Store@{}", self.version())
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new(StoreOptions::default())
    }
}

impl Store {
    /// A store with the namespaces every cluster has, and nothing else.
    #[must_use]
    pub fn new(options: StoreOptions) -> Self {
        let store = Self::empty(options, None);
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = serde_json::json!({"metadata": {"name": name}});
            // A fresh store refuses no well-formed namespace.
            drop(store.create(Resource::Namespace, namespace));
        }
        store
    }

    /// A store that shows what a server elsewhere has, which is nothing yet.
    pub(crate) fn of(upstream: Arc<dyn Upstream>) -> Self {
        Self::empty(StoreOptions::default(), Some(upstream))
    }

    fn empty(options: StoreOptions, upstream: Option<Arc<dyn Upstream>>) -> Self {
        let state = State::new(options.history, options.service_ranges);
        Self {
            options: Arc::new(options),
            state: Arc::new(Mutex::new(state)),
            upstream,
        }
    }

    /// The newest version given out.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// One object.
    #[must_use]
    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Object> {
        self.lock()
            .find(resource, &Key::new(namespace, name))
            .cloned()
    }

    /// All objects of a resource, or those of one namespace.
    #[must_use]
    pub fn list(&self, resource: Resource, namespace: Option<&str>) -> Listing {
        let selection = Selection::everything(namespace);
        self.page(resource, &selection, None, usize::MAX).listing
    }

    /// Up to `limit` selected objects that come after `after`.
    pub(crate) fn page(
        &self,
        resource: Resource,
        selection: &Selection,
        after: Option<&Key>,
        limit: usize,
    ) -> Page {
        let state = self.lock();
        let listing = |objects| Listing {
            version: state.version,
            objects,
        };
        let Some(shelf) = state.shelves.get(&resource) else {
            return Page {
                listing: listing(Vec::new()),
                remaining: 0,
            };
        };
        let first = Key::new(selection.namespace.as_deref().unwrap_or_default(), "");
        let start = after.map_or(Bound::Included(&first), Bound::Excluded);
        let mut rest = shelf
            .objects
            .range((start, Bound::Unbounded))
            .map(|(_, object)| object)
            .take_while(|object| selection.covers_namespace(object));
        let objects = rest
            .by_ref()
            .filter(|object| selection.matches(object))
            .take(limit)
            .cloned()
            .collect();
        Page {
            listing: listing(objects),
            remaining: rest.count(),
        }
    }

    /// Follows the changes of a resource after version `from` ([`Listing::version`]).
    ///
    /// # Errors
    /// 410 when the history does not reach back to `from`, or the store never gave it out.
    pub fn watch(&self, resource: Resource, from: u64) -> Result<Watch, Refusal> {
        let state = self.lock();
        if from < state.compacted || from > state.version {
            return Err(Refusal::expired(from, state.compacted));
        }
        let shelf = state.shelf(resource)?;
        shelf.history.since(from, 0)?;
        let changed = shelf.changed.subscribe();
        Ok(Watch::new(self.clone(), resource, from, changed))
    }

    /// The changes after `position`, and the position of who has seen them.
    pub(crate) fn since(
        &self,
        resource: Resource,
        position: u64,
        limit: usize,
    ) -> Result<(Vec<Event>, u64), Refusal> {
        let state = self.lock();
        let (events, complete) = state.shelf(resource)?.history.since(position, limit)?;
        let seen = match events.last() {
            Some(last) if !complete => last.object.version(),
            _ => state.version,
        };
        Ok((events, seen))
    }

    /// Forgets the history: whoever watches from an earlier version gets 410 and has to list
    /// again. Watches that are connected and have seen everything go on.
    pub fn compact(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.compacted = state.version;
        state
            .shelves
            .values_mut()
            .for_each(|shelf| shelf.history.forget_all());
    }

    /// Adds an object, with defaults, checks and allocations as Kubernetes makes them.
    /// Without `metadata.namespace` a namespaced object goes to `default`.
    ///
    /// # Errors
    /// 409 if it exists, 404 if its namespace does not, 422 and 400 for a bad object.
    pub fn create(&self, resource: Resource, mut object: Value) -> Result<Object, Refusal> {
        if let Some(upstream) = &self.upstream {
            return upstream.create(self, resource, object);
        }
        let mut state = self.lock();
        identity::prepare(resource, &mut object)?;
        let key = admission::named(resource, &mut object)?;
        if resource.namespaced() {
            let namespace = Key::new("", &key.namespace);
            if state.find(Resource::Namespace, &namespace).is_none() {
                return Err(Refusal::not_found(Resource::Namespace, &key.namespace));
            }
        }
        if state.find(resource, &key).is_some() {
            return Err(Refusal::already_exists(resource, &key.name));
        }
        identity::born(&mut object);
        admission::create(resource, &mut object, &mut state.allocators)?;
        state.put(resource, object, None)
    }

    /// Replaces an object's `part`. With `metadata.resourceVersion` set, only if that is still
    /// its version.
    ///
    /// # Errors
    /// 404 if there is none, 409 if it changed meanwhile, 422 and 400 for a bad object.
    pub fn update(
        &self,
        resource: Resource,
        part: Part,
        mut object: Value,
    ) -> Result<Object, Refusal> {
        identity::prepare(resource, &mut object)?;
        let key = Key::new(
            text(&object, "/metadata/namespace"),
            text(&object, "/metadata/name"),
        );
        self.change(resource, &key, part, |_| Ok(object.clone()))
    }

    /// Edits an object's `part`; nothing else is written between the read and the write.
    /// `edit` must not use the store.
    ///
    /// # Errors
    /// As [`Self::update`], and whatever `edit` refuses.
    pub fn modify(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        part: Part,
        mut edit: impl FnMut(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Object, Refusal> {
        self.change(resource, &Key::new(namespace, name), part, |mut object| {
            edit(&mut object)?;
            identity::prepare(resource, &mut object)?;
            Ok(object)
        })
    }

    /// Adds the object, or replaces everything but the status of the one there is.
    ///
    /// # Errors
    /// As [`Self::create`] and [`Self::update`].
    pub fn put(&self, resource: Resource, object: &Value) -> Result<Object, Refusal> {
        match self.create(resource, object.clone()) {
            Err(refusal) if refusal.reason == "AlreadyExists" => {
                self.update(resource, Part::Main, object.clone())
            }
            result => result,
        }
    }

    fn change(
        &self,
        resource: Resource,
        key: &Key,
        part: Part,
        mut edit: impl FnMut(Value) -> Result<Value, Refusal>,
    ) -> Result<Object, Refusal> {
        if let Some(upstream) = &self.upstream {
            return upstream.change(self, (resource, key, part), &mut edit);
        }
        let mut state = self.lock();
        let Some(before) = state.find(resource, key).cloned() else {
            return Err(Refusal::not_found(resource, &key.name));
        };
        let old = before.value();
        let mut new = edit(old.clone())?;
        identity::check(&before, &old, &new)?;
        identity::carry_over(resource, part, &old, &mut new);
        admission::update(resource, &old, &mut new, &mut state.allocators)?;
        if new == old {
            return Ok(before);
        }
        identity::next_generation(&old, &mut new);
        state.put(resource, new, Some(before))
    }

    /// Puts a pod on a node, unless it is on one.
    ///
    /// # Errors
    /// 404 if there is no such pod.
    pub fn bind(&self, namespace: &str, name: &str, node: &str) -> Result<(), Refusal> {
        if let Some(upstream) = &self.upstream {
            return upstream.bind(self, &Key::new(namespace, name), node);
        }
        let bind = |pod: &mut Value| {
            if text(pod, "/spec/nodeName").is_empty() {
                pod["spec"]["nodeName"] = node.into();
            }
            Ok(())
        };
        self.modify(Resource::Pod, namespace, name, Part::Main, bind)
            .map(drop)
    }

    /// Stores objects just as they are, valid or not, replacing what is there: no defaults, no
    /// checks, no allocation; only `metadata` is completed. For bulk loads and for objects no
    /// API server would let through.
    ///
    /// # Errors
    /// 400 for an object without a name; those before it are stored.
    pub fn seed(
        &self,
        resource: Resource,
        objects: impl IntoIterator<Item = Value>,
    ) -> Result<(), Refusal> {
        for mut object in objects {
            identity::prepare(resource, &mut object)?;
            let name = text(&object, "/metadata/name");
            if name.is_empty() {
                return Err(Refusal::bad_request(
                    "metadata.name: missing; every object needs one",
                ));
            }
            let key = Key::new(text(&object, "/metadata/namespace"), name);
            let mut state = self.lock();
            let before = state.find(resource, &key).cloned();
            match &before {
                Some(before) => identity::carry_identity(&before.value(), &mut object),
                None => identity::born(&mut object),
            }
            state.put(resource, object, before)?;
        }
        Ok(())
    }

    /// Deletes an object; see [`PodRemoval`] for pods. Deleting a namespace takes everything in
    /// it along.
    ///
    /// # Errors
    /// 404 if there is none, 409 if it is not the one `deletion` means.
    pub fn delete(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        deletion: &Deletion,
    ) -> Result<Deleted, Refusal> {
        let key = Key::new(namespace, name);
        if let Some(upstream) = &self.upstream {
            return upstream.delete(self, (resource, &key), deletion);
        }
        let mut state = self.lock();
        let Some(object) = state.find(resource, &key).cloned() else {
            return Err(Refusal::not_found(resource, name));
        };
        let value = object.value();
        identity::check_deletion(&object, &value, deletion)?;
        if self.options.pod_removal == PodRemoval::ByKubelet
            && let Some(grace) = admission::graceful(resource, &value, deletion)
        {
            let mut terminating = value;
            if identity::terminate(&mut terminating, grace) {
                return state
                    .put(resource, terminating, Some(object))
                    .map(Deleted::Terminating);
            }
            return Ok(Deleted::Terminating(object));
        }
        if resource == Resource::Namespace {
            state.empty_namespace(name)?;
        }
        state.remove(&object).map(Deleted::Gone)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every write completes or changes nothing, so a panic elsewhere leaves no half state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
