//! What `/flagz` shows: every flag and its value, given or not, as kube-proxy shows its own
//! (`k8s.io/apiserver/pkg/server/flagz` of Kubernetes 1.36). What a file said over a flag's default is
//! not in it.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};
use serde_json::Value;

use crate::config::{Given, flag_defaults};

/// Every flag of `command` by name. `given`: those that set fields of the configuration.
pub(super) fn shown(
    command: &Command,
    matches: &ArgMatches,
    given: &[Given],
) -> BTreeMap<String, String> {
    let own = command.get_arguments().filter_map(|argument| {
        let name = argument.get_long()?;
        let raw = matches.try_get_raw(argument.get_id().as_str());
        let last = raw.ok().flatten().and_then(Iterator::last);
        let value = last.map(|value| value.to_string_lossy().into_owned());
        Some((name.to_owned(), value.unwrap_or_default()))
    });
    let defaults = flag_defaults().map(|(flag, value)| (flag.name.to_owned(), written(&value)));
    let given = given
        .iter()
        .map(|(flag, value)| (flag.name.to_owned(), written(value)));
    own.chain(defaults).chain(given).collect()
}

/// A value as Go's flag packages write it.
fn written(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => format!("[{}]", joined(parts.iter().map(written).collect())),
        Value::Object(parts) => {
            let pairs = parts.iter();
            joined(
                pairs
                    .map(|(name, value)| format!("{name}={}", written(value)))
                    .collect(),
            )
        }
        // 5.0 is 5.
        Value::Number(number) => match number.as_f64() {
            Some(fraction) if number.is_f64() => fraction.to_string(),
            _ => number.to_string(),
        },
        Value::Bool(_) => value.to_string(),
    }
}
