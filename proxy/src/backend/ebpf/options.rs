//! How mode ebpf is set up.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lb_plan::bpf::{Lifetimes, Maglev};

use super::pins::DEFAULT_PINS;

/// How the program on packets is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PacketsHook {
    /// By TCX where the kernel has it, else by clsact.
    #[default]
    Auto,
    /// By a link of TCX (Linux 6.6).
    Tcx,
    /// As a filter of the clsact qdisc.
    Clsact,
}

/// Where the programs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The cgroup whose sockets are translated, those of its descendants included; `None`: the
    /// root of the first cgroup2 that is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// The folder of the pins, on a bpffs.
    pub pins: PathBuf,
    /// How packets are seen.
    pub packets_hook: PacketsHook,
    /// ClusterIPs are for packets, too: of other hosts and virtual machines. Else they are for sockets
    /// of this node only, and interfaces have no program while there is nothing else to serve.
    pub external_cluster_ips: bool,
    /// `connect` of UDP is translated, where the kernel can end such sockets when their endpoint
    /// leaves; else their packets are.
    pub connect_udp: bool,
    /// TCP sockets are ended, too, when their endpoint is removed.
    pub end_tcp: bool,
    /// No socket of the node itself may be bound to a node port.
    pub guard_node_ports: bool,
    /// How many addresses of Services there is room for.
    pub frontends: u32,
    /// How many endpoints, once for each address that leads there.
    pub backends: u32,
    /// How many directions of connections are remembered whose packets are translated.
    pub tracks: u32,
    /// The ports that masqueraded connections get.
    pub snat_ports: RangeInclusive<u16>,
    /// Clients from outside get their backend by a table that all nodes have; `None`: any.
    pub maglev: Option<Maglev>,
    /// Answers to clients from outside go from the endpoint's node to the client, where that may
    /// be; only with `maglev`.
    pub direct: bool,
    /// How long connections are remembered.
    pub lifetimes: Lifetimes,
    /// How often those that are over are looked for.
    pub sweep: Duration,
    /// The metrics page says what went to each Service port.
    pub service_metrics: bool,
    /// Packets are given to pods behind a bridge at once, where nothing on the way may want to see them.
    pub peers: bool,
    /// So are packets that no Service is concerned with, where nobody has anything in the way of what the node
    /// sends on.
    pub host_routing: bool,
    /// Packets that leave by where they came turn in the driver.
    pub frames: Frames,
}

/// Where packets that leave by where they came turn, at the node's ways out (XDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Frames {
    /// Nowhere.
    Off,
    /// Where the driver can; not at virtual pairs, whose other end may drop what comes back.
    Auto,
    /// Where the driver can; a warning where it can't.
    Native,
    /// Behind the driver, by the kernel, whatever driver that is.
    Generic,
}

/// Entries of the map of frontends, unless the command line says otherwise.
pub const DEFAULT_FRONTENDS: u32 = 65_536;
/// Entries of the map of backends, unless the command line says otherwise.
pub const DEFAULT_BACKENDS: u32 = 1_048_576;
/// Entries of the map of connections, unless the command line says otherwise.
pub const DEFAULT_TRACKS: u32 = 262_144;
/// The ports of masqueraded connections, unless the command line says otherwise: above the
/// kernel's own (`net.ipv4.ip_local_port_range`).
pub const DEFAULT_SNAT_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// How often connections that are over are looked for, unless a test says otherwise.
const DEFAULT_SWEEP: Duration = Duration::from_secs(10);

impl Options {
    /// Whether sockets are ended within the network namespaces that they are in.
    pub const fn enters_namespaces(&self) -> bool {
        self.connect_udp || self.end_tcp
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            pins: DEFAULT_PINS.into(),
            packets_hook: PacketsHook::Auto,
            external_cluster_ips: true,
            connect_udp: true,
            end_tcp: false,
            guard_node_ports: true,
            frontends: DEFAULT_FRONTENDS,
            backends: DEFAULT_BACKENDS,
            tracks: DEFAULT_TRACKS,
            snat_ports: DEFAULT_SNAT_PORTS,
            maglev: None,
            direct: false,
            lifetimes: Lifetimes::default(),
            sweep: DEFAULT_SWEEP,
            service_metrics: true,
            peers: true,
            host_routing: true,
            frames: Frames::Off,
        }
    }
}
