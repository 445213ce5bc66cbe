use serde::Serialize;

use crate::{Error, Object};

/// The name resolution a pod should use (spec 1.1.0, "dns" of configuration and result).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Addresses of name servers, the preferred first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains in which short names are searched, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the `dns` object of a configuration or a result.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong kind.
    pub fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        Ok(Self {
            nameservers: object.texts("nameservers")?,
            domain: object.text("domain")?.unwrap_or_default().to_owned(),
            search: object.texts("search")?,
            options: object.texts("options")?,
        })
    }

    /// Reads the `dns` capability as a runtime sends it: `servers`, `searches`, `options`.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong kind.
    pub fn from_capability(object: &Object<'_>) -> Result<Self, Error> {
        Ok(Self {
            nameservers: object.texts("servers")?,
            domain: String::new(),
            search: object.texts("searches")?,
            options: object.texts("options")?,
        })
    }
}
