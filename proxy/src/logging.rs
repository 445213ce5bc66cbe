//! Where log lines go: standard error, as kube-proxy's.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// Sends log lines to standard error. klog's verbosity 0 to 3 shows what happens, 4 and 5 every
/// pass, from 6 on everything, the API client included. Only the first call has an effect.
pub fn start(logging: Logging) {
    let filter = match logging.verbosity {
        // The API client's own warnings repeat, at every reconnection, what `watch` says once.
        0..=3 => "info,kube_client=off,kube_runtime=off,tower=off",
        4..=5 => "info,causeway_proxy=debug,kube_client=off,kube_runtime=off,tower=off",
        _ => "debug,causeway_proxy=trace",
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new(filter))
        .with_target(logging.verbosity >= 4);
    let started = match logging.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
