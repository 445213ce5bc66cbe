//! Where log lines go: standard error, as kube-proxy's.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use crate::config::{LogFormat, Logging};

/// Sends log lines to standard error; gives the knob for how many. Only the first call has an
/// effect.
pub fn start(logging: Logging) -> Verbosity {
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter(logging.verbosity))
        .with_target(logging.verbosity >= 4);
    let (started, verbosity) = match logging.format {
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let knob = Verbosity::of(builder.reload_handle());
            (builder.try_init(), knob)
        }
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            let builder = builder.with_ansi(ansi).with_filter_reloading();
            let knob = Verbosity::of(builder.reload_handle());
            (builder.try_init(), knob)
        }
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    verbosity
}

/// How much is logged, while the daemon runs.
pub struct Verbosity(Box<dyn Fn(u32)>);

impl Verbosity {
    fn of<S: 'static>(handle: Handle<EnvFilter, S>) -> Self {
        Self(Box::new(move |level| {
            if let Err(error) = handle.reload(filter(level)) {
                tracing::warn!(%error, "the log's verbosity cannot be changed");
            }
        }))
    }

    /// As klog's `-v`.
    pub fn set(&self, level: u32) {
        (self.0)(level);
    }
}

/// klog's verbosity 0 to 3 shows what happens, 4 and 5 every pass, from 6 on everything, the API
/// client included.
fn filter(verbosity: u32) -> EnvFilter {
    EnvFilter::new(match verbosity {
        // The API client's own warnings repeat, at every reconnection, what `watch` says once.
        0..=3 => "info,kube_client=off,kube_runtime=off,tower=off",
        4..=5 => "info,causeway_proxy=debug,kube_client=off,kube_runtime=off,tower=off",
        _ => "debug,causeway_proxy=trace",
    })
}
