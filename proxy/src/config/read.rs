//! From YAML to what was said: strict first, lenient with a warning where only unknown or
//! repeated fields stand in the way (as kube-proxy does).

use std::path::PathBuf;

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::said::{API_VERSION, KIND, KubeProxyConfiguration};
use crate::file;

/// Why a configuration file could not be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("--config {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no YAML.
    #[error("configuration file: not YAML: {0}")]
    Yaml(String),
    /// A field is of the wrong type.
    #[error("configuration file: {field}: {reason}")]
    Type {
        /// Path of the field.
        field: String,
        /// What was found and what is accepted.
        reason: String,
    },
    /// It is something else.
    #[error("configuration file: {field} is {value:?}; accepted: {accepted}")]
    Foreign {
        /// `apiVersion` or `kind`.
        field: &'static str,
        /// The value found.
        value: String,
        /// The one accepted.
        accepted: &'static str,
    },
}

/// Reads YAML (or JSON, which is YAML); gives warnings besides.
///
/// # Errors
/// See [`ReadError`].
pub fn read(text: &str) -> Result<(KubeProxyConfiguration, Vec<String>), ReadError> {
    let mut warnings = Vec::new();
    let mut value = match serde_saphyr::from_str::<Value>(text) {
        Ok(value) => value,
        Err(strict) => {
            let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
            let value = serde_saphyr::from_str_with_options::<Value>(text, options)
                .map_err(|_| ReadError::Yaml(file::trouble(&strict)))?;
            let said = file::trouble(&strict);
            let repeated = said.split(", set ").next().unwrap_or_default();
            warnings.push(format!(
                "configuration file: {repeated}: the last one counts"
            ));
            value
        }
    };
    if value.is_null() {
        value = Value::Object(serde_json::Map::new());
    }
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string().replace(".?", ""));
    let said: KubeProxyConfiguration =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(value, &mut note))
            .map_err(|error| ReadError::Type {
                field: error.path().to_string(),
                reason: error.into_inner().to_string(),
            })?;
    if !unknown.is_empty() {
        unknown.sort();
        warnings.push(format!(
            "configuration file: unknown fields are ignored: {}",
            unknown.join(", ")
        ));
    }
    is_ours(&said)?;
    Ok((without_blanks(said), warnings))
}

fn is_ours(said: &KubeProxyConfiguration) -> Result<(), ReadError> {
    for (field, found, accepted) in [
        ("apiVersion", &said.api_version, API_VERSION),
        ("kind", &said.kind, KIND),
    ] {
        if found.as_deref() != Some(accepted) {
            return Err(ReadError::Foreign {
                field,
                value: found.clone().unwrap_or_default(),
                accepted,
            });
        }
    }
    Ok(())
}

/// In the file an empty text means "the default" (kubeadm writes them all out), while the same
/// text as a flag can mean "none".
fn without_blanks(mut said: KubeProxyConfiguration) -> KubeProxyConfiguration {
    for field in [
        &mut said.hostname_override,
        &mut said.bind_address,
        &mut said.healthz_bind_address,
        &mut said.metrics_bind_address,
        &mut said.mode,
        &mut said.detect_local_mode,
        &mut said.cluster_cidr,
    ] {
        if field.as_deref() == Some("") {
            *field = None;
        }
    }
    said
}
