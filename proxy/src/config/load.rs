//! File and flags together, at the start and whenever the file changes.

use lb_model::DetectLocal;
use serde_json::Value;

use super::said::KubeProxyConfiguration;
use super::{FlagError, Invalid, Mode, ReadError, Settings, gate_warnings, overlay, read};
use crate::backend::ebpf;
use crate::cli::Flags;
use crate::file;

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub settings: Settings,
    /// What it says, flags and defaults included.
    pub config: Value,
    /// What should be said about it.
    pub warnings: Vec<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The flags cannot be laid over it.
    #[error(transparent)]
    Flags(#[from] FlagError),
    /// Values cannot be used.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The configuration cannot be written as JSON.
    #[error("the configuration as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads the configuration's file, if `--config` names one.
///
/// # Errors
/// [`ReadError::File`].
pub fn file_text(flags: &Flags) -> Result<Option<String>, ReadError> {
    let Some(path) = &flags.config else {
        return Ok(None);
    };
    let text = file::text(path).map_err(|source| ReadError::File {
        path: path.clone(),
        source,
    })?;
    Ok(Some(text))
}

/// Understands the file's `text` (`None`: there is no file) with the flags over it.
///
/// # Errors
/// See [`LoadError`].
pub fn load(text: Option<&str>, flags: &Flags, host_name: &str) -> Result<Loaded, LoadError> {
    let (mut said, mut warnings) = match text {
        Some(text) => read(text)?,
        None => (KubeProxyConfiguration::nothing(), Vec::new()),
    };
    overlay(&mut said, &flags.fields)?;
    warnings.extend(gate_warnings(&said));
    let mut settings = Settings::understand(&said, flags.master.clone(), host_name)?;
    let more = [settings_warning(&settings), warning_of_mode(&settings)];
    warnings.extend(more.into_iter().flatten().map(str::to_owned));
    settings.planes.ebpf = ebpf::Options {
        lifetimes: settings.conntrack.lifetimes(),
        ..flags.ebpf()
    };
    Ok(Loaded {
        settings,
        config: said.with_defaults().to_json()?,
        warnings,
    })
}

/// What has to be said about settings that are usable, and perhaps not what was meant.
fn settings_warning(settings: &Settings) -> Option<&'static str> {
    (settings.detect_local == DetectLocal::None).then_some(
        "detectLocalMode ClusterCIDR without clusterCIDR: no source counts as a pod's, so \
         traffic to ClusterIPs from outside the cluster is not masqueraded",
    )
}

/// The same about what the data plane that comes first cannot do.
pub fn warning_of_mode(settings: &Settings) -> Option<&'static str> {
    let node_ports = settings.node_port_addresses.as_ref();
    let on_loopback = node_ports.is_some_and(|wanted| {
        let mut networks = wanted.within.iter();
        networks.any(|network| network.ip().is_loopback())
    });
    (on_loopback && settings.modes.first() == Some(&Mode::Nftables))
        .then_some("nodePortAddresses: nftables cannot serve node ports on loopback addresses")
}
