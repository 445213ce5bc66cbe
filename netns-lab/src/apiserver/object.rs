//! One stored object: its JSON, serialised once, and what selectors ask of it.

use std::fmt;
use std::sync::Arc;

use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Resource, identity};

/// One version of one object. Cloning is cheap.
///
/// Kept as JSON text, not as a tree: lists and watches send these very bytes, and a slice of
/// fifty endpoints takes 7 KiB instead of ten times as much.
#[derive(Clone)]
pub struct Object(Arc<Inner>);

struct Inner {
    key: Key,
    resource: Resource,
    version: u64,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[Box<str>]>,
    json: Bytes,
}

/// Where an object is found; a namespace's objects are neighbours in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}({}/{}@{})",
            self.0.resource.kind(),
            self.namespace(),
            self.name(),
            self.0.version
        )
    }
}

impl Object {
    /// Serialises `value`, whose `metadata.resourceVersion` is already `version`.
    pub(crate) fn new(resource: Resource, version: u64, value: &Value) -> Self {
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.map(|labels| {
            labels
                .iter()
                .map(|(key, value)| (key.as_str().into(), scalar(value).into()))
                .collect()
        });
        let fields = resource.description().fields.iter();
        let fields = fields.map(|path| scalar(at(value, path)).into()).collect();
        Self(Arc::new(Inner {
            key: Key::new(
                text(value, "/metadata/namespace"),
                text(value, "/metadata/name"),
            ),
            resource,
            version,
            labels: labels.unwrap_or_default(),
            fields,
            json: Bytes::from(value.to_string()),
        }))
    }

    /// Which resource this is.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.0.resource
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.key.name
    }

    /// `metadata.namespace`; empty for what lives in none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.key.namespace
    }

    /// `metadata.resourceVersion`.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// All labels, sorted by key.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.labels.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The object as JSON text.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.0.json
    }

    /// The object as a JSON tree; parsed anew at each call.
    #[must_use]
    pub fn value(&self) -> Value {
        self.parse().unwrap_or_default()
    }

    /// The object as one's own type; parsed anew at each call.
    ///
    /// # Errors
    /// Where the object does not fit the type.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.0.json)
    }

    /// The same content under another version.
    pub(crate) fn at_version(&self, version: u64) -> Self {
        let mut value = self.value();
        identity::set_version(&mut value, version);
        Self::new(self.0.resource, version, &value)
    }

    pub(crate) fn key(&self) -> &Key {
        &self.0.key
    }

    /// What a field selector compares; `None` for a path this resource does not offer.
    pub(crate) fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => {
                let known = self.0.resource.description().fields;
                let place = known.iter().position(|field| *field == path)?;
                self.0.fields.get(place).map(|field| &**field)
            }
        }
    }
}

/// The string at a JSON pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn at<'a>(value: &'a Value, dotted: &str) -> &'a Value {
    dotted
        .split('.')
        .fold(value, |value, name| value.get(name).unwrap_or(&Value::Null))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}
