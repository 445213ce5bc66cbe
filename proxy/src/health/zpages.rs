//! In which form `/statusz` and `/flagz` are wanted: text for people, or an object of the group
//! `config.k8s.io` (KEPs 4827 and 4828; `k8s.io/apiserver/pkg/server/statusz` of Kubernetes 1.36).

use std::collections::BTreeMap;

use hyper::header::{ACCEPT, HeaderMap};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

/// The group of both objects.
const GROUP: &str = "config.k8s.io";

/// A version of the objects. Both have the same fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Deprecated in Kubernetes 1.36.
    V1alpha1,
    V1beta1,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V1alpha1 => "v1alpha1",
            Self::V1beta1 => "v1beta1",
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    Json(Version),
    Yaml(Version),
}

/// The form of an object of `kind` that a request with these `headers` likes best; `None`: it likes
/// none of them (406). Without the header, and to whom takes anything, it is text.
pub(super) fn wanted(headers: &HeaderMap, kind: &str) -> Option<Form> {
    let said = headers.get_all(ACCEPT).iter();
    let said: Vec<&str> = said.filter_map(|value| value.to_str().ok()).collect();
    let said = said.join(",");
    if said.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut clauses: Vec<Clause<'_>> = said.split(',').map(Clause::read).collect();
    // Stable: of equal weight the first one counts.
    clauses.sort_by(|one, other| other.weight.total_cmp(&one.weight));
    clauses.iter().find_map(|clause| clause.form(kind))
}

/// One media range of RFC 9110, section 12.5.1.
struct Clause<'a> {
    media: &'a str,
    parameters: BTreeMap<&'a str, &'a str>,
    weight: f32,
}

impl<'a> Clause<'a> {
    fn read(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let mut parameters: BTreeMap<_, _> =
            parts.filter_map(|part| part.split_once('=')).collect();
        let weight = parameters.remove("q").and_then(|q| q.parse().ok());
        let weight = weight.filter(|weight| (0.0..=1.0).contains(weight));
        Self {
            media,
            parameters,
            weight: weight.unwrap_or(1.0),
        }
    }

    fn form(&self, kind: &str) -> Option<Form> {
        if self.weight <= 0.0 {
            return None;
        }
        match self.version(kind) {
            Asked::AsIs if matches!(self.media, "*/*" | "text/*" | "text/plain") => {
                Some(Form::Text)
            }
            Asked::Object(version) => match self.media {
                "*/*" | "application/*" | "application/json" => Some(Form::Json(version)),
                "application/yaml" => Some(Form::Yaml(version)),
                _ => None,
            },
            _ => None,
        }
    }

    /// What `g`, `v` and `as` say.
    fn version(&self, kind: &str) -> Asked {
        let said = ["g", "v", "as"].map(|name| self.parameters.get(name).copied());
        match said {
            [None, None, None] => Asked::AsIs,
            [Some(GROUP), Some(version), Some(asked)] if asked == kind => {
                let mut known = [Version::V1alpha1, Version::V1beta1].into_iter();
                let found = known.find(|known| known.name() == version);
                found.map_or(Asked::Unknown, Asked::Object)
            }
            _ => Asked::Unknown,
        }
    }
}

enum Asked {
    AsIs,
    Object(Version),
    Unknown,
}

/// An object of the group, with what is its kind's own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object<T> {
    kind: &'static str,
    api_version: String,
    metadata: Metadata,
    #[serde(flatten)]
    own: T,
}

#[derive(Debug, Serialize)]
struct Metadata {
    name: &'static str,
}

impl<T> Object<T> {
    pub(super) fn new(kind: &'static str, version: Version, own: T) -> Self {
        Self {
            kind,
            api_version: format!("{GROUP}/{}", version.name()),
            metadata: Metadata {
                name: env!("CARGO_PKG_NAME"),
            },
            own,
        }
    }
}

/// What `Statusz` says. Not the emulated version: none is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statusz {
    pub(super) start_time: Timestamp,
    pub(super) uptime_seconds: u64,
    /// Of whom Go has not built: empty.
    pub(super) go_version: &'static str,
    pub(super) binary_version: &'static str,
    pub(super) paths: &'static [&'static str],
}

/// What `Flagz` says.
#[derive(Debug, Serialize)]
pub(super) struct Flagz<'a> {
    pub(super) flags: &'a BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(accept: &[&str]) -> Option<Form> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        wanted(&headers, "Statusz")
    }

    #[test]
    fn who_says_nothing_or_takes_anything_reads_text() {
        for accept in [
            "",
            " ",
            "*/*",
            "text/plain",
            "text/*",
            "text/html, */*;q=0.1",
        ] {
            assert_eq!(form(&[accept]), Some(Form::Text), "{accept:?}");
        }
        assert_eq!(form(&[]), Some(Form::Text));
    }

    #[test]
    fn an_object_is_asked_for_with_group_version_and_kind() {
        const BETA: &str = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";
        const ALPHA: &str = "application/json; as=Statusz; v=v1alpha1; g=config.k8s.io";
        assert_eq!(form(&[BETA]), Some(Form::Json(Version::V1beta1)));
        assert_eq!(form(&[ALPHA]), Some(Form::Json(Version::V1alpha1)));
        let yaml = BETA.replace("json", "yaml");
        assert_eq!(form(&[&yaml]), Some(Form::Yaml(Version::V1beta1)));
        // The first that is there, by weight and then by order, in however many headers.
        let newer = BETA.replace("v1beta1", "v2");
        for list in [
            &format!("{newer},{BETA}, {ALPHA}")[..],
            &format!("{ALPHA};q=0.5,{BETA};q=0.9,text/plain;q=0.1"),
            &format!("text/plain;q=0,{BETA}"),
            &format!("{BETA};q=0.9,text/plain;q=0.8"),
            // No weights: as if nothing was said.
            &format!("{BETA},text/plain;q=nan"),
            &format!("{BETA},text/plain;q=7"),
        ] {
            assert_eq!(form(&[list]), Some(Form::Json(Version::V1beta1)), "{list}");
        }
        assert_eq!(
            form(&["text/html", ALPHA]),
            Some(Form::Json(Version::V1alpha1))
        );
    }

    proptest! {
        /// Whoever is given an object said all of it.
        #[test]
        fn any_header_is_read(text in "[a-z*/,;=.+ -]{0,30}(config.k8s.io|v1beta1|json|q=[-.0-9naif]{0,4}|;g=|;v=|;as=|Statusz){0,6}.{0,8}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = text.parse() {
                headers.append(ACCEPT, value);
            }
            if let Some(Form::Json(_) | Form::Yaml(_)) = wanted(&headers, "Statusz") {
                prop_assert!(text.contains(GROUP) && text.contains("Statusz"));
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_given() {
        for accept in [
            "application/json",
            "application/json;v=v1beta1;g=config.k8s.io;as=Flagz",
            "application/json;v=v1;g=config.k8s.io;as=Statusz",
            "application/json;v=v1beta1;as=Statusz",
            "application/vnd.kubernetes.protobuf;v=v1beta1;g=config.k8s.io;as=Statusz",
            "text/plain;v=v1beta1;g=config.k8s.io;as=Statusz",
            "text/html",
            "*/*;q=0",
        ] {
            assert_eq!(form(&[accept]), None, "{accept}");
        }
    }
}
