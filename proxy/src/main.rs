//! `causeway-proxy`: flags and file in, exit status out. Everything else is in the library.

use std::fmt::Display;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use causeway_proxy::backend::ebpf;
use causeway_proxy::cli::{EbpfTask, Flags, Task};
use causeway_proxy::config::{ConfigFile, Loaded, Mode, file_text, load};
use causeway_proxy::daemon::Ended;
use causeway_proxy::{backend, choice, daemon, host_setup, logging, monitor};
use serde::Serialize;

fn main() -> ExitCode {
    match run(Flags::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    match flags.command {
        Some(Task::Ebpf(task)) => {
            let looked = look(&task, &flags.ebpf_pin_dir);
            return looked.with_context(|| format!("ebpf {}", task.name()));
        }
        Some(Task::Monitor { json, drops }) => {
            let wanted = monitor::Wanted { json, drops };
            return monitor::run(&flags.ebpf_pin_dir, wanted).context("monitor");
        }
        None => {}
    }
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host_name = host_name.trim().to_owned();
    if flags.cleanup {
        return clean_up(&flags, &host_name);
    }
    let text = file_text(&flags)?;
    let loaded = load(text.as_deref(), &flags, &host_name)?;
    let verbosity = logging::start(loaded.settings.logging);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &flags.write_config_to {
        let yaml = serde_saphyr::to_string(&loaded.config).context("the configuration as YAML")?;
        return std::fs::write(path, yaml)
            .with_context(|| format!("--write-config-to {}", path.display()));
    }
    if flags.init_only {
        return init_only(&loaded);
    }
    let file = ConfigFile::new(flags, host_name, text);
    match daemon::run(loaded, file, &verbosity)? {
        Ended::Signal => Ok(()),
        // In place and not by ending, so that the kubelet does not wait ever longer in between.
        Ended::Restart => Err(start_again()).context("starting again"),
    }
}

/// What is in the pinned maps.
fn look(task: &EbpfTask, pins: &Path) -> anyhow::Result<()> {
    match *task {
        EbpfTask::Dump { json } => show(&ebpf::Dump::read(pins)?, json),
        EbpfTask::Sockets { json } => show(&ebpf::HeldSockets::read(pins)?, json),
        EbpfTask::Tracks { json } => show(&ebpf::Tracked::read(pins)?, json),
        EbpfTask::Traffic { json } => show(&ebpf::TrafficDump::read(pins)?, json),
        EbpfTask::Affinity { json } => show(&ebpf::Clients::read(pins)?, json),
    }
}

fn show(found: &(impl Serialize + Display), json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(found)? + "\n"
    } else {
        found.to_string()
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.context("writing")
}

/// Every data plane's, whatever the configuration file says; one failure does not keep the others.
fn clean_up(flags: &Flags, host_name: &str) -> anyhow::Result<()> {
    let options = load(None, flags, host_name)?.settings.planes;
    let mut result = Ok(());
    let mut failed = |what: &dyn Display, error| {
        eprintln!("causeway-proxy: --cleanup: {what}: {error}");
        result = Err(anyhow::anyhow!(
            "--cleanup: not everything could be removed"
        ));
    };
    for mode in Mode::ALL {
        if let Err(error) = backend::cleanup(mode, &options) {
            failed(&mode, error);
        }
    }
    if let Err(error) = backend::remove_kube_proxy_sets() {
        failed(&"what kube-proxy left", error);
    }
    result
}

fn init_only(loaded: &Loaded) -> anyhow::Result<()> {
    let settings = &loaded.settings;
    let mode = match settings.modes[..] {
        [mode] => mode,
        // Mode ebpf asks for the same as nftables, without which it can't be.
        _ => choice::works_here(settings).unwrap_or(Mode::Nftables),
    };
    host_setup::set_up(settings, mode);
    tracing::info!(%mode, "--init-only: done what needs full privileges");
    Ok(())
}

/// Executes this program anew, with the same arguments, in the same process. Every descriptor of
/// it is closed by that.
fn start_again() -> std::io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).exec()
}
