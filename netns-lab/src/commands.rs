//! What the command line says.

mod demo;
mod exec;
mod interrupt;
mod reach;
mod status;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use netns_lab::control_plane::VARIABLE;
use netns_lab::folder::DEFAULT_RUN_DIR;
use netns_lab::{Folder, Lab, Options, Plugins, Settings, daemon, teardown};

/// The lab's name unless told otherwise.
const DEFAULT_NAME: &str = "lab";

/// A Kubernetes cluster's network on this machine, out of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "netns-lab", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a cluster up: a control node, workers, and a client outside.
    Up(Make),
    /// Take it down, and check that nothing is left. Works after every crash.
    Down(Which),
    /// Show nodes, pods, services and proxies.
    Status(Which),
    /// Run a command inside a pod, on a node, or on the client outside.
    Exec(exec::Exec),
    /// Show how a frontend pod reaches Redis through a Service, on a cluster made for it.
    Demo(demo::Demo),
    /// Be the daemon of a lab; `up` runs it.
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        make: Make,
        /// End, and take the lab down, when standard input ends.
        #[arg(long)]
        tied: bool,
    },
    /// Connect to an address until it can be reached; the daemon runs it on each node.
    #[command(hide = true)]
    Reach(reach::Reach),
}

/// Which lab.
#[derive(Debug, Args)]
struct Which {
    /// The lab's name; not needed while there is only one.
    #[arg(long)]
    name: Option<String>,
    /// Where labs are kept.
    #[arg(long, default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

impl Which {
    /// The lab's folder.
    fn folder(&self) -> anyhow::Result<Folder> {
        if let Some(name) = &self.name {
            return Folder::new(&self.run_dir, name);
        }
        let entries = std::fs::read_dir(&self.run_dir)
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        match names.as_slice() {
            [] => bail!(
                "there is no lab in {}; `netns-lab up` makes one",
                self.run_dir.display()
            ),
            [name] => Folder::new(&self.run_dir, name),
            _ => bail!(
                "there are several labs, say which: --name {}",
                names.join(" | ")
            ),
        }
    }
}

/// What a lab is made of.
#[derive(Debug, Args)]
struct Make {
    /// The lab's name: several labs can be up at once [default: lab, or demo].
    #[arg(long)]
    name: Option<String>,
    /// Where labs are kept.
    #[arg(long, default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How many worker nodes.
    #[arg(long, default_value_t = 2)]
    workers: u8,
    /// The service proxies' data plane: nftables, iptables or ebpf, for which each node gets a
    /// cgroup and a folder on a bpffs.
    #[arg(long, default_value = "nftables")]
    mode: String,
    /// The causeway-cni binary, or a folder with the reference plugins [default: causeway-cni
    /// beside this program].
    #[arg(long, value_name = "PATH", env = "NETNS_LAB_CNI")]
    cni: Option<PathBuf>,
    /// The service proxy's binary [default: causeway-proxy beside this program].
    #[arg(long, value_name = "PATH", env = "NETNS_LAB_PROXY")]
    proxy: Option<PathBuf>,
    /// Run no service proxies: then no Service works, nor does the cluster's DNS.
    #[arg(long, conflicts_with = "proxy")]
    no_proxy: bool,
    /// Run on a real control plane, with etcd and kube-apiserver of this folder, and with the
    /// proxies' real account; without a folder, of the one that KUBEBUILDER_ASSETS names
    /// [default: an API server of the lab's own].
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = false)]
    control_plane: Option<Option<PathBuf>>,
}

impl Make {
    fn settings(&self, program: &Path) -> anyhow::Result<Settings> {
        let beside = |name: &str| program.with_file_name(name);
        let plugins = match &self.cni {
            Some(folder) if folder.is_dir() => Plugins::Reference(folder.clone()),
            Some(program) => Plugins::Causeway(program.clone()),
            None => Plugins::Causeway(beside("causeway-cni")),
        };
        let proxy = self
            .proxy
            .clone()
            .unwrap_or_else(|| beside("causeway-proxy"));
        Ok(Settings {
            workers: self.workers,
            mode: self.mode.clone(),
            plugins,
            proxy: (!self.no_proxy).then_some(proxy),
            control_plane: self.control_plane_folder()?,
        })
    }

    /// The variable alone changes nothing: it may be set for other tools.
    fn control_plane_folder(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some(said) = &self.control_plane else {
            return Ok(None);
        };
        let folder = said
            .clone()
            .or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let folder = folder.with_context(|| {
            format!(
                "--control-plane: no folder with etcd and kube-apiserver, and {VARIABLE} is not set"
            )
        })?;
        Ok(Some(std::path::absolute(folder)?))
    }

    fn options(&self, default_name: &str, tied: bool) -> anyhow::Result<Options> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        Ok(Options {
            name: self.name.clone().unwrap_or_else(|| default_name.to_owned()),
            run_dir: std::path::absolute(&self.run_dir)?,
            settings: self.settings(&program)?,
            program,
            tied,
        })
    }
}

impl Arguments {
    /// What is logged unless the environment says otherwise.
    pub(crate) fn log_level(&self) -> &'static str {
        match self.command {
            // Every question to the cluster's DNS would be a line.
            Command::Serve { .. } => "info,hickory_server=warn",
            _ => "warn",
        }
    }

    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if !nix::unistd::geteuid().is_root() {
            bail!("run as root: network namespaces need it");
        }
        match self.command {
            Command::Up(make) => up(&make)?,
            Command::Down(which) => teardown::take_down(&which.folder()?)?,
            Command::Status(which) => status::show(&Lab::open(which.folder()?)?)?,
            Command::Exec(exec) => return exec.run(),
            Command::Demo(demo) => return demo.run(),
            Command::Serve { make, tied } => {
                let options = make.options(DEFAULT_NAME, tied)?;
                let folder = Folder::new(&options.run_dir, &options.name)?;
                daemon::serve(&folder, &options.settings, tied)?;
            }
            Command::Reach(reach) => return Ok(reach.run()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn up(make: &Make) -> anyhow::Result<()> {
    let options = make.options(DEFAULT_NAME, false)?;
    let folder = Folder::new(&options.run_dir, &options.name)?;
    // Only what this very command began to make is its to take down.
    let _guard = interrupt::take_down_on_interrupt(folder)?;
    let lab = Lab::up(&options)?;
    status::show(&lab)?;
    println!();
    println!(
        "  kubectl --kubeconfig {} get all -A",
        lab.kubeconfig().display()
    );
    println!("  {} POD COMMAND…", retyped(&options, "exec"));
    println!("  {}", retyped(&options, "down"));
    Ok(())
}

/// How to call another command for the same lab.
fn retyped(options: &Options, command: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let program = options
        .program
        .strip_prefix(&here)
        .unwrap_or(&options.program);
    let mut words = format!("{} {command} --name {}", program.display(), options.name);
    if options.run_dir != Path::new(DEFAULT_RUN_DIR) {
        words.push_str(&format!(" --run-dir {}", options.run_dir.display()));
    }
    words
}
