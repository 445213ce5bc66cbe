use std::net::IpAddr;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::{Cidr, Code, Error};

/// One JSON object, read key by key; every error names the key's full path and the value.
///
/// A key is found by its exact spelling or else without regard to ASCII case. `null` counts as
/// absent. Keys that nobody asks for are ignored.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    path: String,
    keys: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// Reads `value`, which stands at `path` (empty for the whole document).
    ///
    /// # Errors
    /// Code 6 when the value is not an object.
    pub fn new(path: &str, value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Object(keys) => Ok(Self {
                path: path.to_owned(),
                keys,
            }),
            other => Err(wrong(Code::DECODE, path, other, "an object")),
        }
    }

    /// The whole document.
    pub(crate) fn document(keys: &'a Map<String, Value>) -> Self {
        Self {
            path: String::new(),
            keys,
        }
    }

    /// All keys as they stand.
    pub(crate) fn keys(&self) -> &'a Map<String, Value> {
        self.keys
    }

    /// The keys whose value is true.
    pub(crate) fn switched_on(&self) -> Result<Vec<String>, Error> {
        let mut on = Vec::new();
        for key in self.keys.keys() {
            if self.boolean(key)?.unwrap_or_default() {
                on.push(key.clone());
            }
        }
        Ok(on)
    }

    /// The path of a key of this object, as errors show it.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value as it stands.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let exact = self.keys.get(key);
        let found = exact.or_else(|| {
            self.keys
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        });
        found.filter(|value| !value.is_null())
    }

    /// A boolean. As the Go runtime library does, the words "true" and "false" are taken too.
    ///
    /// # Errors
    /// Code 6 for anything else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(word)) if word == "true" => Ok(Some(true)),
            Some(Value::String(word)) if word == "false" => Ok(Some(false)),
            Some(other) => Err(self.decode_error(key, other, "true or false")),
        }
    }

    /// A whole number from 0 to `most`.
    ///
    /// # Errors
    /// Code 6 for what is no whole number, code 7 for one that is out of range.
    pub fn number(&self, key: &str, most: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let expected = format!("a whole number from 0 to {most}");
        match value.as_u64() {
            Some(number) if number <= most => Ok(Some(number)),
            _ if value.is_i64() || value.is_u64() => Err(self.invalid(key, &expected)),
            _ => Err(self.decode_error(key, value, &expected)),
        }
    }

    /// A whole number of 32 bits.
    ///
    /// # Errors
    /// As [`Object::number`].
    pub fn number_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        let number = self.number(key, u64::from(u32::MAX))?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// A string.
    ///
    /// # Errors
    /// Code 6 for anything else.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.decode_error(key, other, "a string")),
        }
    }

    /// A string that is not empty.
    ///
    /// # Errors
    /// Code 6 for what is no string.
    pub fn filled_text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        Ok(self.text(key)?.filter(|text| !text.is_empty()))
    }

    /// An address; an empty string counts as absent, as in the Go library.
    ///
    /// # Errors
    /// Code 6 for what is no string, code 7 for what is no address.
    pub fn address(&self, key: &str) -> Result<Option<IpAddr>, Error> {
        self.parsed(key, "an IP address")
    }

    /// An address with a prefix; an empty string counts as absent.
    ///
    /// # Errors
    /// Code 6 for what is no string, code 7 for what is no address with a prefix.
    pub fn cidr(&self, key: &str) -> Result<Option<Cidr>, Error> {
        self.parsed(key, "an address with a prefix, as 10.0.0.0/24")
    }

    fn parsed<T: FromStr>(&self, key: &str, expected: &str) -> Result<Option<T>, Error> {
        match self.filled_text(key)? {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| self.invalid(key, expected)),
        }
    }

    /// A list of strings; empty when absent.
    ///
    /// # Errors
    /// Code 6 for anything else.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, Error> {
        let texts = self
            .list(key)?
            .iter()
            .enumerate()
            .map(|(index, value)| match value {
                Value::String(text) => Ok(text.clone()),
                other => {
                    let path = format!("{}[{index}]", self.path_of(key));
                    Err(wrong(Code::DECODE, &path, other, "a string"))
                }
            });
        texts.collect()
    }

    /// An object inside this one.
    ///
    /// # Errors
    /// Code 6 for anything else.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, Error> {
        self.get(key)
            .map(|value| Object::new(&self.path_of(key), value))
            .transpose()
    }

    /// A list of objects; empty when absent.
    ///
    /// # Errors
    /// Code 6 for anything else.
    pub fn objects(&self, key: &str) -> Result<Vec<Object<'a>>, Error> {
        objects_of(&self.path_of(key), self.list(key)?)
    }

    /// A list of lists of objects; empty when absent.
    ///
    /// # Errors
    /// Code 6 for anything else.
    pub fn object_lists(&self, key: &str) -> Result<Vec<Vec<Object<'a>>>, Error> {
        let lists = self.list(key)?.iter().enumerate().map(|(index, value)| {
            let path = format!("{}[{index}]", self.path_of(key));
            match value {
                Value::Array(inner) => objects_of(&path, inner),
                other => Err(wrong(Code::DECODE, &path, other, "a list of objects")),
            }
        });
        lists.collect()
    }

    fn list(&self, key: &str) -> Result<&'a [Value], Error> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(self.decode_error(key, other, "a list")),
        }
    }

    /// Code 7: the key's value is of the right kind and wrong; `expected` says what is accepted.
    #[must_use]
    pub fn invalid(&self, key: &str, expected: &str) -> Error {
        self.refuse(Code::INVALID_CONFIG, key, expected)
    }

    /// Code 2: the key, or this value of it, is not supported; `expected` says what is.
    #[must_use]
    pub fn unsupported(&self, key: &str, expected: &str) -> Error {
        self.refuse(Code::UNSUPPORTED_FIELD, key, expected)
    }

    fn refuse(&self, code: Code, key: &str, expected: &str) -> Error {
        wrong(
            code,
            &self.path_of(key),
            self.get(key).unwrap_or(&Value::Null),
            expected,
        )
    }

    fn decode_error(&self, key: &str, value: &Value, expected: &str) -> Error {
        wrong(Code::DECODE, &self.path_of(key), value, expected)
    }
}

fn objects_of<'a>(path: &str, values: &'a [Value]) -> Result<Vec<Object<'a>>, Error> {
    let objects = values.iter().enumerate();
    objects
        .map(|(index, value)| Object::new(&format!("{path}[{index}]"), value))
        .collect()
}

fn wrong(code: Code, path: &str, value: &Value, expected: &str) -> Error {
    const SHOWN: usize = 120;
    let mut shown = value.to_string();
    if shown.chars().count() > SHOWN {
        shown = shown.chars().take(SHOWN).chain("…".chars()).collect();
    }
    let path = if path.is_empty() {
        "the configuration"
    } else {
        path
    };
    let word = if code == Code::UNSUPPORTED_FIELD {
        "unsupported "
    } else {
        ""
    };
    Error::new(
        code,
        format!("{word}{path}: {shown}; accepted is {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_exact_key_goes_before_one_of_other_case() {
        let value = json!({"HOSTPORT": 1, "hostPort": 2, "Other": null});
        let object = Object::new("", &value).unwrap();
        assert_eq!(object.number("hostPort", 10).unwrap(), Some(2));
        assert_eq!(object.number("HostPort", 10).unwrap(), Some(1));
        assert!(object.get("other").is_none());
    }

    #[test]
    fn errors_name_path_value_and_what_is_accepted() {
        let value = json!({"ranges": [[{"subnet": "10.0.0.0"}, {"mtu": -4}], "x"], "on": "yes"});
        let object = Object::new("ipam", &value).unwrap();
        let error = object.object_lists("ranges").unwrap_err();
        assert_eq!(
            error.message,
            "ipam.ranges[1]: \"x\"; accepted is a list of objects"
        );
        let error = object.boolean("on").unwrap_err();
        assert_eq!(error.message, "ipam.on: \"yes\"; accepted is true or false");

        let value = json!({"ranges": [[{"subnet": "10.0.0.0"}, {"mtu": -4}]]});
        let lists = Object::new("ipam", &value)
            .unwrap()
            .object_lists("ranges")
            .unwrap();
        let error = lists[0][0].cidr("subnet").unwrap_err();
        assert_eq!(error.code, Code::INVALID_CONFIG);
        assert!(
            error
                .message
                .starts_with("ipam.ranges[0][0].subnet: \"10.0.0.0\";")
        );
        let error = lists[0][1].number("mtu", 9000).unwrap_err();
        assert_eq!(
            error.message,
            "ipam.ranges[0][1].mtu: -4; accepted is a whole number from 0 to 9000"
        );
    }

    #[test]
    fn a_long_value_is_cut_in_the_message() {
        let value = json!({"name": ["x".repeat(10_000)]});
        let error = Object::new("", &value).unwrap().text("name").unwrap_err();
        assert!(error.message.len() < 300, "{}", error.message.len());
    }
}
