//! The store's content, behind its lock: objects, versions, histories, allocations.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::watch;

use super::admission::Held;
use super::allocation::{Allocators, ServiceRanges};
use super::history::History;
use super::identity;
use super::object::Key;
use super::{Change, Event, Object, Refusal, Resource};

pub(super) struct State {
    /// The version last given out; one counter for everything, as etcd has it.
    pub(super) version: u64,
    /// Watches from before this version are refused.
    pub(super) compacted: u64,
    pub(super) shelves: BTreeMap<Resource, Shelf>,
    pub(super) allocators: Allocators,
}

pub(super) struct Shelf {
    pub(super) objects: BTreeMap<Key, Object>,
    pub(super) history: History,
    pub(super) changed: watch::Sender<u64>,
}

impl State {
    /// Nothing yet; each resource remembers `history` changes.
    pub(super) fn new(history: usize, ranges: ServiceRanges) -> Self {
        let shelves = Resource::ALL.into_iter().map(|resource| {
            let history = History::new(history);
            let changed = watch::Sender::new(0);
            (
                resource,
                Shelf {
                    objects: BTreeMap::new(),
                    history,
                    changed,
                },
            )
        });
        let allocators = Allocators::new(ranges);
        Self {
            version: 0,
            compacted: 0,
            shelves: shelves.collect(),
            allocators,
        }
    }

    pub(super) fn shelf(&self, resource: Resource) -> Result<&Shelf, Refusal> {
        self.shelves
            .get(&resource)
            .ok_or_else(|| Refusal::no_such_path(resource.plural()))
    }

    pub(super) fn find(&self, resource: Resource, key: &Key) -> Option<&Object> {
        self.shelves.get(&resource)?.objects.get(key)
    }

    /// Gives `value` the next version and stores it.
    pub(super) fn put(
        &mut self,
        resource: Resource,
        mut value: Value,
        before: Option<Object>,
    ) -> Result<Object, Refusal> {
        let version = self.version + 1;
        identity::set_version(&mut value, version);
        if resource == Resource::Service {
            let old = before.as_ref().map(|object| Held::by(&object.value()));
            self.allocators
                .hand_over(&old.unwrap_or_default(), &Held::by(&value));
        }
        let object = Object::new(resource, version, &value);
        let change = if before.is_some() {
            Change::Modified
        } else {
            Change::Added
        };
        self.publish(Event {
            change,
            object: object.clone(),
            before,
        })?;
        Ok(object)
    }

    pub(super) fn remove(&mut self, object: &Object) -> Result<Object, Refusal> {
        if object.resource() == Resource::Service {
            self.allocators
                .hand_over(&Held::by(&object.value()), &Held::default());
        }
        let last = object.at_version(self.version + 1);
        let before = Some(object.clone());
        self.publish(Event {
            change: Change::Deleted,
            object: last.clone(),
            before,
        })?;
        Ok(last)
    }

    pub(super) fn empty_namespace(&mut self, namespace: &str) -> Result<(), Refusal> {
        let first = Key::new(namespace, "");
        let shelves = self.shelves.values();
        let objects: Vec<Object> = shelves
            .flat_map(|shelf| shelf.objects.range(first.clone()..))
            .map(|(_, object)| object)
            .filter(|object| object.namespace() == namespace)
            .cloned()
            .collect();
        objects
            .iter()
            .try_for_each(|object| self.remove(object).map(drop))
    }

    fn publish(&mut self, event: Event) -> Result<(), Refusal> {
        let resource = event.object.resource();
        let Some(shelf) = self.shelves.get_mut(&resource) else {
            return Err(Refusal::no_such_path(resource.plural()));
        };
        self.version = event.object.version();
        if event.change == Change::Deleted {
            shelf.objects.remove(event.object.key());
        } else {
            shelf
                .objects
                .insert(event.object.key().clone(), event.object.clone());
        }
        shelf.history.record(event);
        shelf.changed.send_replace(self.version);
        Ok(())
    }
}
