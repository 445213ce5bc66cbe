use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::{Code, Error};

/// A released version of the specification, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The first; what a configuration without `cniVersion` means.
    V0_1_0,
    /// Adds VERSION.
    V0_2_0,
    /// Adds chaining and the result with interfaces.
    V0_3_0,
    /// A correction of 0.3.0.
    V0_3_1,
    /// Adds CHECK and `prevResult` on DEL.
    V0_4_0,
    /// Drops configurations that are no lists and `version` from `ips`.
    V1_0_0,
    /// Adds GC, STATUS and further keys of routes and interfaces.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As written in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether the version has CHECK.
    #[must_use]
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether the version has GC and STATUS.
    #[must_use]
    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                Error::new(
                    Code::INCOMPATIBLE_VERSION,
                    format!("cniVersion {text:?} is not a version of the specification known here"),
                )
                .with_details(format!("known are {}", join(&Self::ALL)))
            })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The versions one plugin serves.
#[derive(Debug, Clone, Copy)]
pub struct Supported(pub &'static [Version]);

impl Supported {
    /// Every version.
    pub const ALL: Self = Self(&Version::ALL);

    /// The version to answer in: exactly the one that the configuration names.
    ///
    /// # Errors
    /// Code 1, with the supported versions in the details.
    pub fn negotiate(self, requested: Option<&str>) -> Result<Version, Error> {
        let requested = requested.unwrap_or(Version::V0_1_0.as_str());
        self.0
            .iter()
            .copied()
            .find(|version| version.as_str() == requested)
            .ok_or_else(|| {
                Error::new(
                    Code::INCOMPATIBLE_VERSION,
                    format!("incompatible cniVersion {requested:?}"),
                )
                .with_details(format!("supported are {self}"))
            })
    }

    /// The newest version among those that are offered and supported, if any.
    #[must_use]
    pub fn newest_of(self, offered: &[String]) -> Option<Version> {
        self.0
            .iter()
            .copied()
            .filter(|known| offered.iter().any(|o| o == known.as_str()))
            .max()
    }

    /// The answer to VERSION, in the version that was asked in.
    #[must_use]
    pub fn to_json(self, asked_in: Version) -> Value {
        let names: Vec<_> = self.0.iter().map(|version| version.as_str()).collect();
        json!({ "cniVersion": asked_in.as_str(), "supportedVersions": names })
    }
}

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(self.0))
    }
}

fn join(versions: &[Version]) -> String {
    versions
        .iter()
        .map(|version| version.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_matched_exactly() {
        assert_eq!(
            Supported::ALL.negotiate(Some("0.3.1")).unwrap(),
            Version::V0_3_1
        );
        assert_eq!(Supported::ALL.negotiate(None).unwrap(), Version::V0_1_0);
        for text in ["9.9.9", "1.0", "1.0.0 ", "", "1.1.0-rc1"] {
            let error = Supported::ALL.negotiate(Some(text)).unwrap_err();
            assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
            assert!(error.details.contains("0.1.0") && error.details.contains("1.1.0"));
        }
    }

    #[test]
    fn only_the_supported_are_offered() {
        let few = Supported(&[Version::V0_4_0, Version::V1_0_0]);
        assert_eq!(
            few.negotiate(Some("1.1.0")).unwrap_err().details,
            "supported are 0.4.0, 1.0.0"
        );
        let offered = ["0.4.0", "1.0.0", "1.1.0", "7.0.0"].map(str::to_owned);
        assert_eq!(few.newest_of(&offered), Some(Version::V1_0_0));
        assert_eq!(few.newest_of(&offered[2..]), None);
        assert_eq!(
            few.to_json(Version::V1_1_0),
            json!({"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0"]})
        );
    }

    #[test]
    fn newer_operations_need_newer_versions() {
        assert!(!Version::V0_3_1.has_check() && Version::V0_4_0.has_check());
        assert!(!Version::V1_0_0.has_gc_and_status() && Version::V1_1_0.has_gc_and_status());
    }
}
