//! The command line: kube-proxy's flag names.

mod shown;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use lb_plan::bpf::{MAGLEV_SIZES, Maglev};
use serde_json::Value;

use crate::backend::ebpf;
use crate::config::{FLAGS, Flag, Given, Takes};

/// What the command line says. The flags that stand for fields of the configuration are in
/// [`FLAGS`].
#[derive(Clone, Debug, Parser)]
#[command(
    name = "causeway-proxy",
    version,
    about = "The service proxy of Causeway: a drop-in replacement for kube-proxy.",
    args_override_self = true,
    disable_help_subcommand = true
)]
pub struct Flags {
    /// KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) to start from; flags win over it.
    /// The file is watched.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the configuration in effect, defaults included, to this file, and exit.
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove everything that this program made in the kernel, and exit.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub cleanup: bool,
    /// Do what needs full privileges, and exit: then run with CAP_NET_ADMIN only.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub init_only: bool,
    /// Mode ebpf: the cgroup2 folder whose sockets are translated; without it, the first cgroup2
    /// that is mounted.
    #[arg(long, value_name = "FOLDER")]
    pub ebpf_cgroup_root: Option<PathBuf>,
    /// Mode ebpf: the folder on a bpffs where maps and programs outlive the daemon.
    #[arg(long, value_name = "FOLDER", default_value = ebpf::DEFAULT_PINS, global = true)]
    pub ebpf_pin_dir: PathBuf,
    /// Mode ebpf: how packets are seen at interfaces: by TCX (Linux 6.6), as a filter of the clsact
    /// qdisc, or by TCX where the kernel has it and by clsact elsewhere.
    #[arg(long, value_name = "HOOK", default_value = "auto")]
    pub ebpf_packets_hook: ebpf::PacketsHook,
    /// Mode ebpf: ClusterIPs are for everybody: packets of other hosts, virtual machines and processes
    /// outside of the cgroup, too. Otherwise they are for sockets of this node only, and interfaces have
    /// no program, which costs every packet, unless something can be reached from outside.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ebpf_external_cluster_ips: bool,
    /// Mode ebpf: how many addresses of Services there is room for: of a node port, each of the node's,
    /// and twice each with externalTrafficPolicy Local. A Service beyond that is left to nftables.
    #[arg(long, value_name = "NUMBER", default_value_t = ebpf::DEFAULT_FRONTENDS,
          value_parser = clap::value_parser!(u32).range(1024..))]
    pub ebpf_frontends: u32,
    /// Mode ebpf: how many endpoints there is room for, each once for every address that leads there.
    #[arg(long, value_name = "NUMBER", default_value_t = ebpf::DEFAULT_BACKENDS,
          value_parser = clap::value_parser!(u32).range(1024..))]
    pub ebpf_backends: u32,
    /// Mode ebpf: how many directions of connections are remembered whose packets are translated;
    /// each connection has two.
    #[arg(long, value_name = "NUMBER", default_value_t = ebpf::DEFAULT_TRACKS,
          value_parser = clap::value_parser!(u32).range(1024..))]
    pub ebpf_tracks: u32,
    /// Mode ebpf: the ports that masqueraded connections get, outside of
    /// net.ipv4.ip_local_port_range.
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = ports)]
    pub ebpf_snat_ports: RangeInclusive<u16>,
    /// Mode ebpf: how packets of a new client from outside get their endpoint: any one, or by Maglev
    /// hashing, so that every node of the cluster gives the same one.
    #[arg(long, value_name = "CHOICE", default_value = "random")]
    pub ebpf_backend_choice: BackendChoice,
    /// Mode ebpf: places in each frontend's Maglev table, a prime; a hundred for each endpoint keep
    /// the shares even.
    #[arg(long, value_name = "PLACES", default_value_t = Maglev::SIZE, value_parser = places)]
    pub ebpf_maglev_table_size: u32,
    /// Mode ebpf: the seed of Maglev hashing, the same on every node of the cluster.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub ebpf_maglev_seed: u64,
    /// Mode ebpf: how many frontends have a Maglev table at most; clients of the others get any
    /// endpoint.
    #[arg(long, value_name = "NUMBER", default_value_t = Maglev::LIMIT)]
    pub ebpf_maglev_tables: usize,
    /// Mode ebpf: UDP sockets that connect to a Service are connected to an endpoint, and get an error
    /// when it leaves; otherwise their packets are translated one by one.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ebpf_connect_udp: bool,
    /// Mode ebpf: TCP connections of this node's sockets end with an error when their endpoint is
    /// removed; otherwise they are left alone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub ebpf_end_tcp: bool,
    /// Mode ebpf: no process on the node itself may bind a node port of a Service (EADDRINUSE).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ebpf_guard_node_ports: bool,
    /// Mode ebpf: the metrics page says what went to each Service port: six series for each to which
    /// something went.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ebpf_service_metrics: bool,
    /// Mode ebpf: packets of Services are given to pods behind a bridge at once, past the bridge and the
    /// link to the pod, unless a filter, a queue or a program is there.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ebpf_redirect_peer: bool,
    /// Mode ebpf: so are packets from other nodes that no Service is concerned with, past the node's stack,
    /// while netfilter has no rules for what the node sends on, and nobody else anything in its way.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ebpf_host_routing: bool,
    /// Mode ebpf: packets of known connections that leave by where they came turn in the driver
    /// (XDP), or behind it (generic), at the node's ways out.
    #[arg(long, value_name = "WHERE", default_value = "off")]
    pub ebpf_xdp: ebpf::Frames,
    /// Mode ebpf: direct server return. What comes from outside to an external or load balancer's
    /// address and to an endpoint of another node is sent to that node as it came, which answers the
    /// client itself; with --ebpf-backend-choice=maglev, the same on all nodes.
    #[arg(long, value_name = "WHETHER", default_value = "off")]
    pub ebpf_dsr: DirectReturn,
    /// URL of the API server, instead of the one in the kubeconfig.
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// What to do instead of running as the proxy.
    #[command(subcommand)]
    pub command: Option<Task>,
    /// The flags that set fields, in the order of [`FLAGS`].
    #[arg(skip)]
    pub fields: Vec<Given>,
    /// Every flag by name, with its value, given or not.
    #[arg(skip)]
    pub shown: BTreeMap<String, String>,
}

/// How packets of a new client from outside get their endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// Any endpoint.
    Random,
    /// The same one on every node.
    Maglev,
}

/// Whether answers go from the endpoint's node to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DirectReturn {
    /// They go back by the node that the client aimed at.
    Off,
    /// They go directly, where the way leads by the endpoint's node.
    On,
}

/// Something else than running as the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Task {
    /// Looks at what mode ebpf has in the kernel.
    #[command(subcommand)]
    Ebpf(EbpfTask),
    /// Mode ebpf: writes a line for each connection that is translated, refused or closed, and for
    /// what is dropped, as it happens, until it is interrupted; also when no daemon runs. One at a
    /// time.
    Monitor {
        /// A JSON object on each line.
        #[arg(long)]
        json: bool,
        /// Only what is refused or dropped.
        #[arg(long)]
        drops: bool,
    },
}

/// See [`Task::Ebpf`].
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum EbpfTask {
    /// Writes the frontends and their backends out of the pinned maps, whether a daemon runs or not.
    Dump {
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Writes the sockets that were connected to an endpoint, and to which, out of the pinned maps.
    Sockets {
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Writes the connections whose packets are translated, with their packets and bytes (of the
    /// client/of the answers), out of the pinned maps.
    Tracks {
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Writes what went to each Service port (`-`) and to each of its endpoints, out of the pinned
    /// maps: connections and refusals.
    Traffic {
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Writes the clients that stay with their endpoint (session affinity), out of the pinned maps.
    Affinity {
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

impl EbpfTask {
    /// As it is called.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Dump { .. } => "dump",
            Self::Sockets { .. } => "sockets",
            Self::Tracks { .. } => "tracks",
            Self::Traffic { .. } => "traffic",
            Self::Affinity { .. } => "affinity",
        }
    }
}

impl Flags {
    /// Where the eBPF programs go.
    pub fn ebpf(&self) -> ebpf::Options {
        ebpf::Options {
            cgroup_root: self.ebpf_cgroup_root.clone(),
            pins: self.ebpf_pin_dir.clone(),
            packets_hook: self.ebpf_packets_hook,
            external_cluster_ips: self.ebpf_external_cluster_ips,
            connect_udp: self.ebpf_connect_udp,
            end_tcp: self.ebpf_end_tcp,
            guard_node_ports: self.ebpf_guard_node_ports,
            frontends: self.ebpf_frontends,
            backends: self.ebpf_backends,
            tracks: self.ebpf_tracks,
            snat_ports: self.ebpf_snat_ports.clone(),
            maglev: match self.ebpf_backend_choice {
                BackendChoice::Random => None,
                BackendChoice::Maglev => Some(Maglev {
                    size: self.ebpf_maglev_table_size,
                    seed: self.ebpf_maglev_seed,
                    limit: self.ebpf_maglev_tables,
                }),
            },
            direct: self.ebpf_dsr == DirectReturn::On,
            service_metrics: self.ebpf_service_metrics,
            peers: self.ebpf_redirect_peer,
            host_routing: self.ebpf_host_routing,
            frames: self.ebpf_xdp,
            ..ebpf::Options::default()
        }
    }

    /// Reads the command line; prints help, the version or an error and ends the process where
    /// clap says so.
    pub fn from_command_line() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads `arguments`, the program's name first.
    ///
    /// # Errors
    /// An unknown flag, a value that does not parse, `--help` and `--version`.
    pub fn read<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let mut command = Self::command().args(FLAGS.iter().map(argument));
        let matches = command.try_get_matches_from_mut(arguments)?;
        let mut flags = Self::from_arg_matches(&matches)?;
        flags.fields = FLAGS
            .iter()
            .filter_map(|flag| Some((flag, given(flag, &matches)?)))
            .collect();
        flags.shown = shown::shown(&command, &matches, &flags.fields);
        if flags.ebpf_dsr == DirectReturn::On && flags.ebpf_backend_choice == BackendChoice::Random
        {
            let said = "--ebpf-dsr=on needs --ebpf-backend-choice=maglev: \
                        the endpoint's node must choose the same endpoint";
            return Err(command.error(ErrorKind::MissingRequiredArgument, said));
        }
        Ok(flags)
    }
}

/// A size that a Maglev table may have.
fn places(said: &str) -> Result<u32, String> {
    let place = said.parse().ok().filter(|size| MAGLEV_SIZES.contains(size));
    place.ok_or_else(|| {
        let sizes: Vec<String> = MAGLEV_SIZES.iter().map(u32::to_string).collect();
        format!("one of {} is accepted", sizes.join(", "))
    })
}

/// A range of ports.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parse = |port: &str| port.parse::<u16>().ok().filter(|port| *port != 0);
    text.split_once('-')
        .and_then(|(first, last)| Some(parse(first)?..=parse(last)?))
        .filter(|ports| !ports.is_empty())
        .ok_or_else(|| "two ports as 61000-65535, the lower one first".to_owned())
}

fn argument(flag: &'static Flag) -> Arg {
    let takes = flag.takes;
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .help(flag.help)
        .value_name(match takes {
            Takes::Text => "TEXT",
            Takes::Bool => "BOOL",
            Takes::Number | Takes::Fraction => "NUMBER",
            Takes::List => "LIST",
            Takes::Gates => "NAME=BOOL",
        })
        .hide(flag.help.is_empty())
        .action(ArgAction::Append)
        .value_parser(move |text: &str| takes.read(text));
    let arg = match takes {
        Takes::Bool => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Takes::Number | Takes::Fraction => arg.num_args(1).allow_negative_numbers(true),
        Takes::Text | Takes::List | Takes::Gates => arg.num_args(1),
    };
    if flag.name.len() == 1 {
        arg.short(flag.name.chars().next())
    } else {
        arg
    }
}

/// What was given: the last one, or, of lists, all of them.
fn given(flag: &Flag, matches: &ArgMatches) -> Option<Value> {
    if matches.value_source(flag.name) != Some(ValueSource::CommandLine) {
        return None;
    }
    let values = matches.get_many::<Value>(flag.name)?.cloned();
    values.reduce(|before, last| match (before, last) {
        (Value::Array(before), Value::Array(more)) => before.into_iter().chain(more).collect(),
        (Value::Object(before), Value::Object(more)) => {
            Value::Object(before.into_iter().chain(more).collect())
        }
        (_, last) => last,
    })
}

#[cfg(test)]
mod tests;
