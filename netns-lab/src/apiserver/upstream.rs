//! A [`Store`] that shows what an API server elsewhere has.
//!
//! Reading and watching are as ever, from memory. Writing goes to that server, and is over when
//! its result can be read here. Versions are this store's own; whoever writes through it never
//! sees that server's.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::identity;
use super::object::{Key, text};
use super::{Deleted, Deletion, Object, Part, Refusal, Resource, Store};

/// The server elsewhere, and whatever brings its objects here.
pub(crate) trait Upstream: fmt::Debug + Send + Sync {
    /// As [`Store::create`].
    fn create(&self, store: &Store, resource: Resource, object: Value) -> Result<Object, Refusal>;

    /// As [`Store::modify`]. `edit` is given the object as that server has it; again when somebody
    /// else's write came between.
    fn change(
        &self,
        store: &Store,
        what: (Resource, &Key, Part),
        edit: &mut dyn FnMut(Value) -> Result<Value, Refusal>,
    ) -> Result<Object, Refusal>;

    /// As [`Store::delete`].
    fn delete(
        &self,
        store: &Store,
        what: (Resource, &Key),
        deletion: &Deletion,
    ) -> Result<Deleted, Refusal>;

    /// As [`Store::bind`].
    fn bind(&self, store: &Store, pod: &Key, node: &str) -> Result<(), Refusal>;
}

impl Store {
    /// Takes in an object as the server elsewhere has it; that it is as before is no change.
    pub(crate) fn reflect(&self, resource: Resource, mut object: Value) -> Result<(), Refusal> {
        identity::prepare(resource, &mut object)?;
        let key = key(&object);
        let mut state = self.lock();
        let before = state.find(resource, &key).cloned();
        if let Some(before) = &before {
            identity::set_version(&mut object, before.version());
            if before.value() == object {
                return Ok(());
            }
        }
        state.put(resource, object, before).map(drop)
    }

    /// Takes in that there are these objects and no others.
    pub(crate) fn reflect_all(
        &self,
        resource: Resource,
        objects: Vec<Value>,
    ) -> Result<(), Refusal> {
        let there: BTreeSet<Key> = objects.iter().map(key).collect();
        for object in objects {
            self.reflect(resource, object)?;
        }
        for known in self.list(resource, None).objects {
            if !there.contains(known.key()) {
                self.reflect_gone(resource, known.key())?;
            }
        }
        Ok(())
    }

    /// Takes in that an object is gone.
    pub(crate) fn reflect_gone(&self, resource: Resource, key: &Key) -> Result<(), Refusal> {
        let mut state = self.lock();
        match state.find(resource, key).cloned() {
            Some(object) => state.remove(&object).map(drop),
            None => Ok(()),
        }
    }
}

fn key(object: &Value) -> Key {
    Key::new(
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    )
}
