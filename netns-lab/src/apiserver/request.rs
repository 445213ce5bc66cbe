//! What a URL asks for.

use super::{Refusal, Resource};

/// The object or collection a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// Whether the path ends in `/status`.
    pub(crate) status: bool,
}

impl Target {
    /// Reads `/api/v1/...` and `/apis/GROUP/v1/...`; 404 for anything else.
    pub(crate) fn parse(path: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::no_such_path(path);
        let segments: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(decode)
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, rest) = match &*segments {
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return Err(unknown()),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && *rest != ["status"] && *rest != ["finalize"] =>
            {
                (Some((*namespace).to_owned()), rest)
            }
            _ => (None, rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (plural, None, false),
            [plural, name] => (plural, Some((*name).to_owned()), false),
            [plural, name, "status"] => (plural, Some((*name).to_owned()), true),
            _ => return Err(unknown()),
        };
        let resource = Resource::find(group, plural).ok_or_else(unknown)?;
        let misplaced = if name.is_some() {
            resource.namespaced() != namespace.is_some()
        } else {
            namespace.is_some() && !resource.namespaced()
        };
        if misplaced || (status && !resource.description().has_status) {
            return Err(unknown());
        }
        Ok(Self {
            resource,
            namespace,
            name,
            status,
        })
    }

    /// The namespace, empty for what lives in none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// The parameters behind the `?`.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(name), decode_form(value))
        });
        Self(pairs.collect())
    }

    /// The parameter's value; empty where it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        let pair = self.0.iter().find(|(other, _)| other == name);
        pair.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            "" | "0" | "false" => Ok(false),
            "1" | "true" => Ok(true),
            other => Err(Refusal::bad_request(format!(
                "{name}: {other:?} is neither true (1) nor false (0)"
            ))),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Refusal::bad_request(format!("{name}: {text:?} is no non-negative number"))
            }),
        }
    }
}

fn decode_form(text: &str) -> String {
    decode(&text.replace('+', " "))
}

/// Percent-decoding; what is no escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape = tail.get(..2).filter(|_| *first == b'%');
        let escaped = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> String {
        match Target::parse(path) {
            Err(refusal) => refusal.code.to_string(),
            Ok(target) => format!(
                "{:?} {:?} {:?} {}",
                target.resource, target.namespace, target.name, target.status
            ),
        }
    }

    #[test]
    fn paths_name_objects_and_collections() {
        for (path, expected) in [
            ("/api/v1/pods", "Pod None None false"),
            ("/api/v1/namespaces", "Namespace None None false"),
            (
                "/api/v1/namespaces/shop",
                "Namespace None Some(\"shop\") false",
            ),
            (
                "/api/v1/namespaces/shop/status",
                "Namespace None Some(\"shop\") true",
            ),
            (
                "/api/v1/namespaces/shop/pods",
                "Pod Some(\"shop\") None false",
            ),
            (
                "/api/v1/namespaces/shop/pods/a/status",
                "Pod Some(\"shop\") Some(\"a\") true",
            ),
            ("/api/v1/nodes/n%31", "Node None Some(\"n1\") false"),
            (
                "/apis/discovery.k8s.io/v1/endpointslices",
                "EndpointSlice None None false",
            ),
            ("/api/v1/endpointslices", "404"),
            ("/api/v1/pods/a", "404"),
            ("/api/v1/namespaces/shop/nodes", "404"),
            ("/api/v1/namespaces/shop/pods/a/log", "404"),
            ("/api/v1/namespaces/shop/configmaps/a/status", "404"),
            ("/metrics", "404"),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded_and_checked() {
        let query = Query::parse("watch=1&labelSelector=a+in+%28b%2Cc%29&limit=x&bad=%zz&on");
        assert!(query.flag("watch").unwrap());
        assert_eq!(query.get("labelSelector"), "a in (b,c)");
        assert_eq!(query.get("bad"), "%zz");
        assert_eq!(query.number("limit").unwrap_err().code, 400);
        assert_eq!(query.number("timeoutSeconds").unwrap(), None);
        assert_eq!(
            Query::parse("watch=yes").flag("watch").unwrap_err().code,
            400
        );
    }
}
