use std::fmt;

use serde_json::{Map, Value};

use crate::{Object, Version};

/// The number of an error, as a runtime reads it (spec 1.1.0, section "Error").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u32);

impl Code {
    /// 1: the configuration's version is not one of the plugin's.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// 2: a key or value of the configuration is not supported; the message carries both.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// 3: the container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// 4: a needed environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// 5: reading or writing failed.
    pub const IO: Self = Self(5);
    /// 6: the content could not be decoded.
    pub const DECODE: Self = Self(6);
    /// 7: the configuration was decoded and is wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// 8: the network namespace is not one, or is the plugin's own (used by the Go library).
    pub const INVALID_NETNS: Self = Self(8);
    /// 11: a passing condition; the runtime should try again later.
    pub const TRY_AGAIN: Self = Self(11);
    /// 50: the plugin cannot serve ADD (STATUS).
    pub const NOT_AVAILABLE: Self = Self(50);
    /// 51: as 50, and existing containers may have limited connectivity (STATUS).
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// 999: a fault inside the plugin (used by the Go library).
    pub const INTERNAL: Self = Self(999);

    /// A plugin's own code: numbers from 100 up.
    #[must_use]
    pub const fn plugin(index: u8) -> Self {
        Self(100 + index as u32)
    }

    /// The number itself.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What a plugin prints on standard output instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure, for the runtime.
    pub code: Code,
    /// What went wrong, in one line.
    pub message: String,
    /// More, over several lines where needed; empty when there is nothing to add.
    pub details: String,
}

impl Error {
    /// An error without details.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// The same error with more details.
    #[must_use]
    pub fn with_details(mut self, details: impl AsRef<str>) -> Self {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(details.as_ref());
        self
    }

    /// Reads an error object that a plugin printed, to pass it on as it is.
    ///
    /// # Errors
    /// Code 6 or 7 when it is none, or its code is not a number above 0.
    pub fn from_json(value: &Value) -> Result<Self, Self> {
        let object = Object::new("error", value)?;
        let Some(code) = object.number_u32("code")?.filter(|code| *code != 0) else {
            return Err(Self::new(Code::DECODE, "error.code: missing or 0"));
        };
        let text = |key| object.text(key).map(Option::unwrap_or_default);
        Ok(Self::new(Code(code), text("msg")?).with_details(text("details")?))
    }

    /// Puts the place in front of the message: `place: message`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The error object to print, in the version the configuration asked for.
    #[must_use]
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), version.as_str().into());
        object.insert("code".to_owned(), self.code.number().into());
        object.insert("msg".to_owned(), self.message.as_str().into());
        if !self.details.is_empty() {
            object.insert("details".to_owned(), self.details.as_str().into());
        }
        Value::Object(object)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_keys_of_the_specification() {
        let error = Error::new(Code::TRY_AGAIN, "busy")
            .with_details("wait")
            .at("bridge");
        assert_eq!(
            error.to_json(Version::V0_4_0),
            serde_json::json!({
                "cniVersion": "0.4.0", "code": 11, "msg": "bridge: busy", "details": "wait",
            })
        );
        assert_eq!(Error::from_json(&error.to_json(Version::V0_4_0)), Ok(error));
        for none in [
            serde_json::json!(1),
            serde_json::json!({}),
            serde_json::json!({"code": 0}),
            serde_json::json!({"code": -1}),
            serde_json::json!({"code": 7, "msg": 4}),
        ] {
            assert!(Error::from_json(&none).is_err(), "{none}");
        }
        let bare = Error::new(Code::plugin(3), "x").to_json(Version::V1_1_0);
        assert_eq!(
            bare,
            serde_json::json!({"cniVersion": "1.1.0", "code": 103, "msg": "x"})
        );
    }
}
