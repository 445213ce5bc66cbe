//! What is watched, and the wrapper through which kube sees it.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use lb_model::Complaint;
use lb_model::said::Event;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::tolerant;

/// One kind of object that is watched.
pub(super) trait Kind: Clone + Debug + Send + Sync + 'static {
    /// The slim form of the object: only the fields that are used.
    type Object: DeserializeOwned + Named;
    /// What it says, in the model's words.
    type Said: Clone + Debug + Send;
    /// The kind's name.
    const NAME: &'static str;
    /// API group; empty for core.
    const GROUP: &'static str;
    /// Name in URLs.
    const PLURAL: &'static str;
    /// Not every API server has it, and not every role may see it: then it is done without.
    const OPTIONAL: bool = false;

    /// What `object` says.
    fn said(object: Self::Object) -> Self::Said;
    /// A full list follows.
    fn list_begins() -> Option<Event>;
    /// An object is there, or changed.
    fn there(said: Self::Said) -> Event;
    /// An object is gone.
    fn gone(namespace: String, name: String) -> Event;
    /// The full list is in; it named `count` objects.
    fn list_ends(count: usize) -> Option<Event>;
}

/// What is used of any object's metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<IgnoredAny>,
    pub(super) labels: Option<Labels>,
    pub(super) annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Labels {
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    pub(super) proxy_name: Option<IgnoredAny>,
    #[serde(rename = "service.kubernetes.io/headless")]
    pub(super) headless: Option<IgnoredAny>,
    #[serde(rename = "kubernetes.io/service-name")]
    pub(super) service: Option<String>,
    #[serde(rename = "topology.kubernetes.io/zone")]
    pub(super) zone: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub(super) trigger_time: Option<String>,
}

/// An object that can say who it is.
pub(super) trait Named {
    /// Its metadata; `None`: there is none.
    fn metadata(&self) -> Option<&Metadata>;
}

/// An object as kube's watcher hands it over: already in the model's words.
#[derive(Clone, Debug)]
pub(super) struct Watched<K: Kind> {
    meta: ObjectMeta,
    /// `None`: it has no name, or is no object at all.
    pub(super) said: Option<K::Said>,
    pub(super) complaints: Vec<Complaint>,
    kind: PhantomData<K>,
}

impl<K: Kind> Watched<K> {
    /// Namespace and name, owned.
    pub(super) fn into_key(self) -> (String, String) {
        (
            self.meta.namespace.unwrap_or_default(),
            self.meta.name.unwrap_or_default(),
        )
    }
}

impl<'de, K: Kind> Deserialize<'de> for Watched<K> {
    /// Never fails on what an API server writes: an object that does not parse must not stop the
    /// others. (A watch event has its `type` before its `object`, as `metav1.WatchEvent` declares
    /// them; the other way round serde would hand over no raw text.)
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let (object, unread) = tolerant::read::<K::Object>(raw.get());
        let metadata = object.as_ref().and_then(Named::metadata);
        let meta = ObjectMeta {
            name: metadata.and_then(|metadata| metadata.name.clone()),
            namespace: metadata.and_then(|metadata| metadata.namespace.clone()),
            resource_version: metadata.and_then(|metadata| metadata.resource_version.clone()),
            ..ObjectMeta::default()
        };
        let name = meta.name.as_deref().map(tolerant::shorten);
        let name = name.unwrap_or_else(|| "without a name".to_owned());
        let label = match &meta.namespace {
            Some(namespace) if meta.name.is_some() => {
                format!("{} {}/{name}", K::NAME, tolerant::shorten(namespace))
            }
            _ => format!("{} {name}", K::NAME),
        };
        let mut complaints: Vec<Complaint> = unread
            .into_iter()
            .map(|unread| Complaint {
                object: label.clone(),
                field: unread.field,
                value: unread.value,
                accepted: "what the API's schema says",
            })
            .collect();
        let named = meta.name.as_ref().is_some_and(|name| !name.is_empty());
        if object.is_some() && !named {
            complaints.push(Complaint {
                object: label,
                field: "metadata.name".to_owned(),
                value: String::new(),
                accepted: "a name",
            });
        }
        Ok(Self {
            meta,
            said: object.filter(|_| named).map(K::said),
            complaints,
            kind: PhantomData,
        })
    }
}

impl<K: Kind> Resource for Watched<K> {
    type DynamicType = ();
    /// Whole cluster: the watches are never limited to a namespace.
    type Scope = kube::core::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        K::NAME.into()
    }
    fn group((): &()) -> Cow<'_, str> {
        K::GROUP.into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use kube::api::WatchEvent;
    use kube::core::ObjectList;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::watch::service::Services;
    use crate::watch::slice::Slices;

    /// Names of fields, so that some are those that are read.
    const FIELDS: &[&str] = &[
        "metadata",
        "name",
        "namespace",
        "labels",
        "spec",
        "clusterIP",
        "ports",
        "port",
        "status",
        "endpoints",
        "addresses",
        "type",
        "object",
        "other",
    ];

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let field = proptest::sample::select(FIELDS).prop_map(str::to_owned);
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(field.clone(), inner, 0..6)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    fn is_heard<K: Kind>(object: &Value) {
        let good = json!({"metadata": {"name": "good", "namespace": "default"}});
        // As an API server writes them, and kube reads them.
        let event = format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}");
        let event: WatchEvent<Watched<K>> = serde_json::from_str(&event).unwrap();
        assert!(matches!(event, WatchEvent::Modified(_)));
        let list = json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
            "items": [&good, object, &good],
        });
        let list: ObjectList<Watched<K>> = serde_json::from_str(&list.to_string()).unwrap();
        assert_eq!(list.items.len(), 3);
        for item in [&list.items[0], &list.items[2]] {
            assert!(item.said.is_some() && item.complaints.is_empty());
        }
        let odd = &list.items[1];
        assert!(odd.said.is_some() || !odd.complaints.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_object_of_any_kind_leaves_those_around_it(object in any_json()) {
            is_heard::<Services>(&object);
            is_heard::<Slices>(&object);
        }
    }
}
