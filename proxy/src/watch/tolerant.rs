//! JSON to a slim object. Where a field is of the wrong type, that field is left out and named;
//! the rest of the object counts.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// More wrong fields than this, and the object is given up.
const MOST_WRONG_FIELDS: usize = 64;
/// Characters of a wrong value that are shown.
const SHOWN: usize = 80;

/// A field that could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unread {
    /// Path of the field, as `spec.ports[1].port`.
    pub(super) field: String,
    /// The value found, shortened.
    pub(super) value: String,
}

/// Reads `json`; the way nearly every object takes costs no more than reading it.
pub(super) fn read<T: DeserializeOwned>(json: &str) -> (Option<T>, Vec<Unread>) {
    match serde_json::from_str(json) {
        Ok(object) => (Some(object), Vec::new()),
        Err(_) => read_what_can_be_read(json),
    }
}

fn read_what_can_be_read<T: DeserializeOwned>(json: &str) -> (Option<T>, Vec<Unread>) {
    let whole = |json: &str| Unread {
        field: "the whole object".to_owned(),
        value: shorten(json),
    };
    let Ok(mut value) = serde_json::from_str::<Value>(json) else {
        return (None, vec![whole(json)]);
    };
    let mut unread = Vec::new();
    while unread.len() < MOST_WRONG_FIELDS {
        let path = match serde_path_to_error::deserialize(&value) {
            Ok(object) => return (Some(object), unread),
            Err(error) => error.path().clone(),
        };
        match take(&mut value, &path) {
            Some(found) => unread.push(Unread {
                field: path.to_string(),
                value: shorten(&found.to_string()),
            }),
            None => break,
        }
    }
    unread.push(whole(json));
    (None, unread)
}

/// Takes what is at `path` out of `value`, or, where the path goes past it, what it goes through.
fn take(value: &mut Value, path: &Path) -> Option<Value> {
    let mut segments = path.iter().peekable();
    let mut at = value;
    loop {
        let segment = segments.next()?;
        let last = segments.peek().is_none();
        at = match (segment, at) {
            (Segment::Map { key }, Value::Object(fields)) if last => return fields.remove(key),
            (Segment::Map { key }, Value::Object(fields)) => fields.get_mut(key)?,
            (Segment::Seq { index }, Value::Array(items)) if last && *index < items.len() => {
                return Some(items.remove(*index));
            }
            (Segment::Seq { index }, Value::Array(items)) => items.get_mut(*index)?,
            _ => return None,
        };
    }
}

/// The beginning of `text`, as much as is shown.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct Object {
        name: Option<String>,
        ports: Option<Vec<Port>>,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct Port {
        port: Option<i32>,
    }

    #[test]
    fn a_good_object_is_read_whole() {
        let (object, unread) = read::<Object>(r#"{"name":"a","ports":[{"port":1}],"more":{}}"#);
        assert_eq!(object.unwrap().ports.unwrap(), [Port { port: Some(1) }]);
        assert_eq!(unread, []);
    }

    #[test]
    fn wrong_fields_are_left_out_and_named() {
        let (object, unread) =
            read::<Object>(r#"{"name":7,"ports":[{"port":1},{"port":"http"},4,{"port":2}]}"#);
        let object = object.unwrap();
        assert_eq!(object.name, None);
        let ports: Vec<_> = object.ports.unwrap().into_iter().map(|p| p.port).collect();
        assert_eq!(ports, [Some(1), None, Some(2)]);
        let fields: Vec<_> = unread
            .iter()
            .map(|u| (u.field.as_str(), u.value.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("name", "7"),
                ("ports[1].port", "\"http\""),
                ("ports[2]", "4")
            ]
        );
    }

    #[test]
    fn what_is_no_object_is_given_up() {
        let (object, unread) = read::<Object>("[1]");
        // A sequence is how serde writes a struct, too: `name` is 1, and then there is nothing.
        assert!(object.is_none_or(|object| object == Object::default()));
        assert!(!unread.is_empty());
        let (object, unread) = read::<Object>("\"text\"");
        assert_eq!(object, None);
        assert_eq!(unread[0].field, "the whole object");
    }
}
