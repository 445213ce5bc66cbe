//! `causeway-proxy`: flags and file in, exit status out. Everything else is in the library.

use std::process::ExitCode;

use anyhow::Context;
use causeway_proxy::cli::Flags;
use causeway_proxy::config::said::KubeProxyConfiguration;
use causeway_proxy::config::{Mode, Settings, overlay, read_file};
use causeway_proxy::{backend, daemon, logging};

fn main() -> ExitCode {
    match run(&Flags::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    if flags.cleanup == Some(true) {
        for mode in Mode::ALL {
            backend::cleanup(mode, &flags.ebpf()).with_context(|| format!("--cleanup: {mode}"))?;
        }
        return Ok(());
    }
    let (mut said, mut warnings) = match &flags.config {
        Some(path) => read_file(path)?,
        None => (KubeProxyConfiguration::nothing(), Vec::new()),
    };
    overlay(&mut said, flags);
    if !flags.without_effect.is_empty() {
        let names: Vec<_> = flags
            .without_effect
            .iter()
            .map(|name| format!("--{name}"))
            .collect();
        warnings.push(format!(
            "these flags have no effect yet: {}",
            names.join(", ")
        ));
    }
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut settings = Settings::understand(&said, flags.master.clone(), host_name.trim())?;
    settings.ebpf = flags.ebpf();
    logging::start(settings.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let config = said.to_json().context("the configuration as JSON")?;
    if let Some(path) = &flags.write_config_to {
        let yaml = serde_saphyr::to_string(&config).context("the configuration as YAML")?;
        return std::fs::write(path, yaml)
            .with_context(|| format!("--write-config-to {}", path.display()));
    }
    if flags.init_only == Some(true) {
        tracing::info!("--init-only: nothing needs more privileges than the daemon has");
        return Ok(());
    }
    Ok(daemon::run(&settings, &config)?)
}
