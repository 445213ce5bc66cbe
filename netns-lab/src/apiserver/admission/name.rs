//! Names and labels, after RFC 1123 and RFC 1035 as Kubernetes reads them
//! (apimachinery, `pkg/util/validation`).

use crate::apiserver::Resource;

/// Whether `name` may name an object of this resource.
pub(super) fn check(resource: Resource, name: &str) -> Result<(), String> {
    match resource {
        Resource::Service => {
            check_label(name)?;
            if name.starts_with(|letter: char| letter.is_ascii_digit()) {
                return Err(format!(
                    "Invalid value: {name:?}: a Service's name must start with a letter \
                     (a DNS-1035 label)"
                ));
            }
            Ok(())
        }
        Resource::Namespace => check_label(name),
        _ => check_subdomain(name),
    }
}

fn check_label(name: &str) -> Result<(), String> {
    if name.len() <= 63 && label(name) {
        return Ok(());
    }
    Err(format!(
        "Invalid value: {name:?}: must be 1 to 63 lower case letters, digits or '-', and start and \
         end with a letter or digit (a DNS label)"
    ))
}

fn check_subdomain(name: &str) -> Result<(), String> {
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    Err(format!(
        "Invalid value: {name:?}: must be at most 253 lower case letters, digits, '-' or '.', and \
         each part between dots start and end with a letter or digit (a DNS subdomain)"
    ))
}

fn label(part: &str) -> bool {
    let inner =
        |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

/// `[subdomain/]name`, the name at most 63 characters.
pub(super) fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_none_or(|prefix| check_subdomain(prefix).is_ok())
        && !name.is_empty()
        && check_label_value(name).is_ok()
    {
        return Ok(());
    }
    Err(format!(
        "{key:?}: a label's key is a name, or a DNS subdomain, a slash and a name"
    ))
}

/// Empty, or at most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends.
pub(super) fn check_label_value(value: &str) -> Result<(), String> {
    let inner = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    let edge = |letter: Option<&u8>| letter.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    if bytes.len() <= 63
        && bytes.iter().copied().all(inner)
        && edge(bytes.first())
        && edge(bytes.last())
    {
        return Ok(());
    }
    Err(format!(
        "{value:?}: at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_resource() {
        for (resource, name, fits) in [
            (Resource::Service, "redis-service", true),
            (Resource::Service, "0redis", false),
            (Resource::Service, "redis.cache", false),
            (Resource::Pod, "redis.cache-0", true),
            (Resource::Pod, "Redis", false),
            (Resource::Pod, "redis-", false),
            (Resource::Pod, "a..b", false),
            (Resource::Namespace, "0shop", true),
            (Resource::Namespace, "shop.eu", false),
            (Resource::Node, "", false),
        ] {
            assert_eq!(check(resource, name).is_ok(), fits, "{resource:?} {name:?}");
        }
        assert!(check(Resource::Service, &"a".repeat(63)).is_ok());
        assert!(check(Resource::Service, &"a".repeat(64)).is_err());
    }

    #[test]
    fn labels_have_a_shape() {
        for key in ["app", "kubernetes.io/service-name", "A_b.c"] {
            assert!(check_label_key(key).is_ok(), "{key:?}");
        }
        for key in ["", "/app", "a/b/c", "-app", "a b"] {
            assert!(check_label_key(key).is_err(), "{key:?}");
        }
        assert!(check_label_value("").is_ok());
        assert!(check_label_value("v1.2_x-y").is_ok());
        assert!(check_label_value("-x").is_err());
    }
}
