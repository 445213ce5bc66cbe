//! The metadata the server owns: names, uids, versions, times, generations.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{Timestamp, ToSpan};
use serde_json::{Map, Value, json};

use super::object::text;
use super::{Deletion, Object, Part, Refusal, Resource};

/// Makes `object` one of this resource: kind, apiVersion, a metadata object, its namespace.
///
/// 400 for what is no object of this resource.
pub(crate) fn prepare(resource: Resource, object: &mut Value) -> Result<(), Refusal> {
    let Value::Object(fields) = object else {
        return Err(Refusal::bad_request("the object must be a JSON object"));
    };
    for (field, ours) in [
        ("kind", resource.kind().to_owned()),
        ("apiVersion", resource.api_version()),
    ] {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(theirs)) if *theirs == ours || theirs.is_empty() => {}
            Some(other) => {
                let message = format!("{field}: {other} does not fit the URL; it must be {ours:?}");
                return Err(Refusal::bad_request(message));
            }
        }
        fields.insert(field.to_owned(), Value::String(ours));
    }
    let metadata = metadata(object)?;
    for text_field in [
        "name",
        "generateName",
        "namespace",
        "resourceVersion",
        "uid",
    ] {
        if let Some(value) = metadata.get(text_field)
            && !value.is_string()
        {
            if !value.is_null() {
                let message = format!("metadata.{text_field}: {value} must be a string");
                return Err(Refusal::bad_request(message));
            }
            metadata.remove(text_field);
        }
    }
    for map_field in ["labels", "annotations"] {
        check_string_map(metadata, map_field)?;
    }
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    if resource.namespaced() {
        let namespace = metadata.entry("namespace").or_insert_with(|| json!(""));
        if namespace == "" {
            *namespace = json!("default");
        }
    } else {
        metadata.remove("namespace");
    }
    Ok(())
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, Refusal> {
    let Value::Object(fields) = object else {
        return Err(Refusal::bad_request("the object must be a JSON object"));
    };
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata
        .as_object_mut()
        .ok_or_else(|| Refusal::bad_request("metadata: must be a JSON object"))
}

fn check_string_map(metadata: &mut Map<String, Value>, field: &str) -> Result<(), Refusal> {
    match metadata.get_mut(field) {
        None => {}
        Some(Value::Null) => {
            metadata.remove(field);
        }
        Some(Value::Object(entries)) => {
            if let Some((key, value)) = entries.iter().find(|(_, value)| !value.is_string()) {
                let message = format!("metadata.{field}[{key}]: {value} must be a string");
                return Err(Refusal::bad_request(message));
            }
        }
        Some(other) => {
            let message = format!("metadata.{field}: {other} must be an object of strings");
            return Err(Refusal::bad_request(message));
        }
    }
    Ok(())
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(field.to_owned(), value);
    }
}

/// Completes the metadata of a new object; what it brings along is kept.
pub(crate) fn born(object: &mut Value) {
    let metadata = object.get("metadata");
    let missing = |field: &str| metadata.and_then(|metadata| metadata.get(field)).is_none();
    let (no_uid, no_time) = (missing("uid"), missing("creationTimestamp"));
    if no_uid {
        set(object, "uid", json!(uid()));
    }
    if no_time
        || object
            .pointer("/metadata/creationTimestamp")
            .is_some_and(Value::is_null)
    {
        set(object, "creationTimestamp", json!(now()));
    }
    set(object, "generation", json!(1));
}

pub(crate) fn set_version(object: &mut Value, version: u64) {
    set(object, "resourceVersion", json!(version.to_string()));
}

/// Refuses a write to another version or another life of the object.
pub(crate) fn check(before: &Object, old: &Value, new: &Value) -> Result<(), Refusal> {
    let resource = before.resource();
    for (pointer, field) in [
        ("/metadata/name", "name"),
        ("/metadata/namespace", "namespace"),
    ] {
        if text(old, pointer) != text(new, pointer) {
            let message = format!(
                "metadata.{field}: {:?} does not fit {:?}; it cannot change",
                text(new, pointer),
                text(old, pointer)
            );
            return Err(Refusal::bad_request(message));
        }
    }
    let uid = text(new, "/metadata/uid");
    if !uid.is_empty() && uid != text(old, "/metadata/uid") {
        let why = "the UID in the precondition does not match the UID in record; it was \
                   deleted and made anew";
        return Err(Refusal::conflict(resource, before.name(), why));
    }
    let version = text(new, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(old, "/metadata/resourceVersion") {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        return Err(Refusal::conflict(resource, before.name(), why));
    }
    Ok(())
}

/// Refuses to delete another object than the one that was meant.
pub(crate) fn check_deletion(
    object: &Object,
    value: &Value,
    deletion: &Deletion,
) -> Result<(), Refusal> {
    let other_uid = deletion
        .uid
        .as_deref()
        .is_some_and(|uid| uid != text(value, "/metadata/uid"));
    if other_uid
        || deletion
            .version
            .is_some_and(|version| version != object.version())
    {
        let why = "the precondition does not hold; the object changed";
        return Err(Refusal::conflict(object.resource(), object.name(), why));
    }
    Ok(())
}

const OWNED: [&str; 6] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

/// Keeps what a writer cannot change: the server's metadata.
pub(crate) fn carry_identity(old: &Value, new: &mut Value) {
    for field in OWNED {
        match old.get("metadata").and_then(|metadata| metadata.get(field)) {
            Some(value) => set(new, field, value.clone()),
            None => {
                if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove(field);
                }
            }
        }
    }
}

/// Keeps what this write does not concern.
pub(crate) fn carry_over(resource: Resource, part: Part, old: &Value, new: &mut Value) {
    match part {
        Part::Main => {
            carry_identity(old, new);
            if resource.description().has_status
                && let Some(fields) = new.as_object_mut()
            {
                match old.get("status") {
                    Some(status) => fields.insert("status".to_owned(), status.clone()),
                    None => fields.remove("status"),
                };
            }
        }
        Part::Status => {
            let status = new.get("status").cloned();
            *new = old.clone();
            if let (Some(fields), Some(status)) = (new.as_object_mut(), status) {
                fields.insert("status".to_owned(), status);
            }
        }
    }
}

/// Counts a change of anything but metadata and status.
pub(crate) fn next_generation(old: &Value, new: &mut Value) {
    let content = |value: &Value| {
        let mut value = value.clone();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("metadata");
            fields.remove("status");
        }
        value
    };
    if content(old) != content(new) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_u64);
        set(new, "generation", json!(generation.unwrap_or(0) + 1));
    }
}

/// Marks an object as going away in `grace` seconds; false if it already was.
pub(crate) fn terminate(object: &mut Value, grace: u64) -> bool {
    if !text(object, "/metadata/deletionTimestamp").is_empty() {
        return false;
    }
    let grace = i64::try_from(grace).unwrap_or(i64::MAX);
    let end = Timestamp::now().checked_add(grace.min(1_000_000_000).seconds());
    set(
        object,
        "deletionTimestamp",
        json!(end.map_or_else(|_| now(), seconds)),
    );
    set(object, "deletionGracePeriodSeconds", json!(grace));
    true
}

/// The time now as `metav1.Time`.
fn now() -> String {
    seconds(Timestamp::now())
}

fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// Random enough for names that must differ between objects and between runs.
fn random() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    SEED.hash_one(DRAWN.fetch_add(1, Ordering::Relaxed))
}

/// A UUID, version 4.
fn uid() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

/// Five characters as `generateName` appends them: no vowels, so no words.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut drawn = random();
    let mut name = String::new();
    for _ in 0..5 {
        let letter = usize::try_from(drawn % 27).unwrap_or(0);
        name.push(char::from(LETTERS[letter]));
        drawn /= 27;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_and_differ() {
        let (one, other) = (uid(), uid());
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }

    #[test]
    fn times_have_whole_seconds() {
        let time = now();
        assert_eq!(time.len(), "2026-01-01T00:00:00Z".len(), "{time}");
        assert!(time.ends_with('Z'));
    }
}
