//! A node whose sockets are translated, as these tests start it.

use std::collections::BTreeSet;
use std::io::Result;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use causeway_proxy::backend::ebpf::{EbpfBackend, OBJECT, Options};
use causeway_proxy::backend::{NftablesBackend, PlaneSettings};
use causeway_tests::cell::Cell;
use causeway_tests::packet_bed::{self, Bed, Host, Seen};
use causeway_tests::proxy_bed::wait_until;
use causeway_tests::tcx;
use lb_model::Family;
use nodekit::route::{Handle, Route, RouteKind};

use crate::world::{Proxy, World};

/// For an answer that must come: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where ClusterIPs are.
const VIPS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/32"];

/// The bed, and the cgroup of the processes on the node.
pub(crate) struct Node<'a> {
    pub(crate) bed: &'a Bed,
    pub(crate) cell: &'a Cell,
}

/// Runs `test` with a node of its own.
pub(crate) fn on_a_node(test: impl FnOnce(&Node<'_>) + Send) {
    let bed = Bed::new();
    // The mounts of a cell are its thread's, and of those that this one starts.
    let with_a_cell = || {
        let cell = Cell::new();
        test(&Node {
            bed: &bed,
            cell: &cell,
        });
    };
    bed.node.netns.run(with_a_cell).unwrap();
}

impl<'a> Node<'a> {
    /// A daemon that has not done anything yet.
    pub(crate) fn start(&self, world: &World) -> Proxy<'a, EbpfBackend> {
        self.start_with(world, &self.cell.options())
    }

    /// The same with `options`.
    pub(crate) fn start_with(&self, world: &World, options: &Options) -> Proxy<'a, EbpfBackend> {
        self.open(OBJECT, world, options)
    }

    /// The same with the programs of another object.
    pub(crate) fn open(
        &self,
        object: &[u8],
        world: &World,
        options: &Options,
    ) -> Proxy<'a, EbpfBackend> {
        let settings = Family::ALL.map(|family| PlaneSettings {
            family,
            masquerade_bit: 14,
            detector: world.model.local_detector(family),
            node_port_addresses: BTreeSet::from([self.bed.node.ip(family)]),
            service_cidrs: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            localhost_node_ports: true,
            tcp_be_liberal: false,
        });
        let open = || EbpfBackend::open_object(object, options, settings.to_vec()).unwrap();
        Proxy::over(self.bed, self.bed.node.netns.run(open).unwrap())
    }

    /// A daemon that has brought the kernel to `world`; then the program on packets and the tables
    /// go, so that what is translated from now on is translated at the socket.
    pub(crate) fn start_for_sockets_only(&self, world: &mut World) -> Proxy<'a, EbpfBackend> {
        let mut proxy = self.start(world);
        proxy.sync(world);
        self.clear_packets();
        proxy
    }

    pub(crate) fn clear_packets(&self) {
        let netns = &self.bed.node.netns;
        netns.run(NftablesBackend::cleanup).unwrap().unwrap();
        let links = self.cell.options().pins.join("links");
        for pin in std::fs::read_dir(links).unwrap() {
            let pin = pin.unwrap();
            if pin.file_name().to_str().unwrap().starts_with("packets-") {
                std::fs::remove_file(pin.path()).unwrap();
            }
        }
        // The kernel detaches in the background.
        wait_until("interfaces free", PATIENCE, || {
            self.programs_at_packets() == 0
        })
        .unwrap();
    }

    /// How many programs there are on packets that come to the node.
    pub(crate) fn programs_at_packets(&self) -> usize {
        let count = || {
            let links = Handle::open().unwrap().links().unwrap();
            let programs = |name: &str| tcx::programs_at(name).unwrap();
            links.iter().map(|link| programs(&link.name)).sum()
        };
        self.bed.node.netns.run(count).unwrap()
    }

    /// How many there are on those that come by one interface.
    pub(crate) fn programs_at(&self, interface: &str) -> usize {
        let count = || tcx::programs_at(interface).unwrap();
        self.bed.node.netns.run(count).unwrap()
    }

    /// What a process on this node does in the network namespace of `host`.
    pub(crate) fn inside<T: Send>(&self, host: &Host, act: impl FnOnce() -> T + Send) -> T {
        self.cell.inside(|| host.netns.run(act).unwrap())
    }

    /// A connection by such a process.
    pub(crate) fn tcp(&self, host: &Host, to: SocketAddr) -> Result<Seen> {
        self.inside(host, || packet_bed::tcp(to, PATIENCE))
    }
}

/// `host` has no way to a ClusterIP any more, whatever the node would do with its packets.
pub(crate) fn bar_the_way(host: &Host) {
    let mut routes = Handle::open_in(&host.netns).unwrap();
    for network in VIPS {
        let nowhere = Route {
            kind: RouteKind::Unreachable,
            ..Route::to(network.parse().unwrap())
        };
        routes.add_route(&nowhere).unwrap();
    }
}

/// Tells clients to stop, also when their test fails.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
