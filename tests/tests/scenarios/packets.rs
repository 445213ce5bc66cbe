//! A scenario over real packets.

mod flow;
mod remains;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use causeway_proxy::backend::{self, DataPlane, IptablesBackend, PassReport, PlaneSettings};
use causeway_proxy::config::Mode;
use causeway_proxy::node_ports::{self, NodePorts};
use causeway_tests::cell::Cell;
use causeway_tests::packet_bed::{self, Bed, Host, Seen};
use lb_model::{Family, ServiceName};
use nodekit::Errno;
use nodekit::xtables::Variant;

use flow::Flow;

use crate::file::{self, Answered, Case, Endpoint, Expected, Source, Transport, Who};
use crate::world::World;

/// For an answer that must come: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// For an answer that must not come: a late one goes unnoticed, which no busy machine can turn
/// into a failure.
const SILENCE: Duration = Duration::from_millis(300);
/// Connections at least, where several endpoints could answer.
const TRIES: usize = 12;
/// Connections at most, for each endpoint that must answer sooner or later.
const TRIES_EACH: usize = 60;

/// Beds that no test uses at the moment, each of one data plane: the empty chains of iptables stay.
static BEDS: Mutex<Vec<(Plane, Bed)>> = Mutex::new(Vec::new());

/// A data plane that is put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    Nftables,
    Iptables(Variant),
    Ebpf,
    Ipvs,
}

fn options(cell: Option<&Cell>) -> backend::Options {
    cell.map(Cell::planes).unwrap_or_default()
}

impl Plane {
    const fn mode(self) -> Mode {
        match self {
            Self::Nftables => Mode::Nftables,
            Self::Iptables(_) => Mode::Iptables,
            Self::Ebpf => Mode::Ebpf,
            Self::Ipvs => Mode::Ipvs,
        }
    }

    fn open(self, settings: Vec<PlaneSettings>, cell: Option<&Cell>) -> Box<dyn DataPlane> {
        match self {
            Self::Nftables | Self::Ebpf | Self::Ipvs => {
                let told = options(cell);
                let opened = backend::open(&[self.mode()], |_| settings.clone(), &told).unwrap();
                assert_eq!(opened.families, Family::ALL);
                opened.plane
            }
            // Both are installed here; a node has one.
            Self::Iptables(variant) => Box::new(IptablesBackend::of(variant, settings).unwrap()),
        }
    }
}

/// Runs scenario `name` on `plane`.
pub(crate) fn send(name: &str, plane: Plane) {
    let beds = || BEDS.lock().unwrap_or_else(PoisonError::into_inner);
    let free = {
        let mut beds = beds();
        let found = beds.iter().position(|(of, _)| *of == plane);
        found.map(|found| beds.swap_remove(found).1)
    };
    let bed = free.unwrap_or_else(Bed::new);
    // A data plane belongs to one thread, which is the node's here.
    let done = bed.node.netns.run(|| {
        let cell = matches!(plane, Plane::Ebpf).then(Cell::new);
        Run::new(name, plane, &bed, cell.as_ref()).all();
    });
    done.unwrap_or_else(|error| panic!("{name}, {plane:?}: {error}"));
    beds().push((plane, bed));
}

/// A scenario under way.
struct Run<'a> {
    mode: Mode,
    bed: &'a Bed,
    cell: Option<&'a Cell>,
    scenario: file::Scenario,
    world: World,
    plane: Box<dyn DataPlane>,
    told: Vec<PlaneSettings>,
    flows: BTreeMap<String, Vec<Flow<'a>>>,
}

impl<'a> Run<'a> {
    fn new(name: &str, plane: Plane, bed: &'a Bed, cell: Option<&'a Cell>) -> Self {
        let scenario = file::read(name);
        let world = World::new(&scenario.configuration);
        let told = settings(&world, plane.mode());
        Self {
            mode: plane.mode(),
            bed,
            cell,
            scenario,
            world,
            plane: plane.open(told.clone(), cell),
            told,
            flows: BTreeMap::new(),
        }
    }

    fn all(mut self) {
        self.sync();
        let empty = remains::ruleset(self.mode);
        let entries = remains::entries(self.plane.as_ref());
        let steps = std::mem::take(&mut self.scenario.steps);
        for (number, step) in steps.iter().enumerate() {
            self.world.step(step);
            self.sync();
            for case in &step.cases {
                self.case(case, &format!("step {number}, {case:?}"));
            }
        }
        self.flows.clear();
        self.world.clear();
        if self.mode == Mode::Ebpf {
            // The tables beside stay as long as a connection may need them.
            remains::forget_connections();
        }
        self.sync();
        assert_eq!(remains::ruleset(self.mode), empty, "left behind");
        assert_eq!(remains::translated_flows(), 0, "UDP flows left behind");
        let left = remains::entries(self.plane.as_ref());
        assert_eq!(left, entries, "left behind in the maps");
        if let Some(cell) = self.cell {
            assert_eq!(remains::tracked_flows(cell), 0, "UDP flows left behind");
        }
        // Before anything else: nothing may hang on what is gone.
        drop(self.plane);
        for mode in Mode::ALL.into_iter().filter(|mode| self.mode.uses(*mode)) {
            backend::cleanup(mode, &options(self.cell)).unwrap();
        }
        let left = remains::ruleset(self.mode);
        assert_eq!(left, "", "left behind by cleanup");
        if let Some(cell) = self.cell {
            remains::nothing_attached(cell);
        }
    }

    /// As the daemon does it.
    fn sync(&mut self) {
        let settings = settings(&self.world, self.mode);
        for settings in &settings {
            if !self.told.contains(settings) {
                self.plane.set_settings(settings.clone());
            }
        }
        self.told = settings;
        let services: BTreeSet<ServiceName> = self.world.model.take_changes().services;
        let report: PassReport = self.plane.sync(&self.world.model, &services);
        assert!(report.complete(), "{report:?}");
    }

    fn case(&mut self, case: &Case, context: &str) {
        let mode = self.mode.to_string();
        let expected = case.expected(Some(&mode));
        let Some(flow) = &case.flow else {
            for sender in senders(self, case) {
                sender.expects(expected, &format!("{sender}, {context}"));
            }
            return;
        };
        if !case.from.is_empty() {
            let opened = senders(self, case).into_iter().map(Flow::open);
            let before = self.flows.insert(flow.clone(), opened.collect());
            assert!(before.is_none(), "{flow} is open already");
        }
        for flow in self.flows.get_mut(flow).unwrap() {
            flow.expects(expected, context);
        }
    }
}

/// Who sends what where. There are no SCTP sockets everywhere: those packets only the walkers send.
fn senders<'a>(run: &Run<'a>, case: &Case) -> Vec<Sender<'a>> {
    let (mode, bed, cell) = (run.mode, run.bed, run.cell);
    let mut senders = Vec::new();
    for who in &case.from {
        let host = match who {
            Who::Node => &bed.node,
            Who::Pod(n) => bed.pod(*n),
            Who::Client => &bed.client,
            Who::Stranger => &bed.stranger,
        };
        for to in &case.to {
            for transport in case.protocols.iter().filter(|t| **t != Transport::Sctp) {
                senders.push(Sender {
                    mode,
                    host,
                    cell,
                    who: *who,
                    to: *to,
                    transport: *transport,
                    bytes: case.bytes,
                });
            }
        }
    }
    senders
}

/// One sender and where it sends to.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    mode: Mode,
    host: &'a Host,
    cell: Option<&'a Cell>,
    who: Who,
    to: SocketAddr,
    transport: Transport,
    bytes: usize,
}

impl fmt::Display for Sender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {} by {:?}", self.who, self.to, self.transport)
    }
}

impl Sender<'_> {
    /// A UDP socket in place of one that was ended.
    fn anew(&self, expected: &Expected) -> io::Result<UdpSocket> {
        let (from, patience) = (self.host.towards(self.to), patience(expected));
        let open = || packet_bed::udp_socket(from, self.to, patience);
        self.there(|| self.host.netns.run(open).unwrap())
    }

    /// Runs `act` where the sender's processes are: those of the node and its pods are inside the
    /// node's cgroup.
    fn there<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        match (self.who, self.cell) {
            (Who::Node | Who::Pod(_), Some(cell)) => cell.inside(act),
            _ => act(),
        }
    }

    /// Runs `act` there, in the sender's network namespace.
    fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.there(|| self.host.netns.run(act).unwrap())
    }

    /// One new connection or flow from the calling thread's namespace.
    fn ask(&self, patience: Duration) -> io::Result<Seen> {
        match self.transport {
            Transport::Udp => {
                let from = self.host.towards(self.to);
                packet_bed::udp(from, self.to, patience, self.bytes)
            }
            Transport::Ping => packet_bed::ping(self.to, patience),
            _ => packet_bed::tcp(self.to, patience),
        }
    }

    #[track_caller]
    fn expects(&self, expected: &Expected, context: &str) {
        if let Expected::Answered(answered) = expected {
            return self.reaches(answered, context);
        }
        let outcome = self.run(|| self.ask(patience(expected)));
        self.fails(&outcome, expected, context);
    }

    #[track_caller]
    fn fails(&self, outcome: &io::Result<Seen>, expected: &Expected, context: &str) {
        let error = match outcome {
            Ok(seen) => panic!("{seen:?} answered, {context}"),
            Err(error) if *expected == Expected::TooLarge => {
                let errno = error.raw_os_error();
                return assert_eq!(errno, Some(Errno::EMSGSIZE as i32), "{context}");
            }
            Err(error) => error.kind(),
        };
        let accepted: &[ErrorKind] = match expected {
            Expected::Silence => &[ErrorKind::TimedOut, ErrorKind::WouldBlock],
            // The node itself may not even send it.
            Expected::Refused if self.who == Who::Node => {
                &[ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied]
            }
            Expected::Refused => &[ErrorKind::ConnectionRefused],
            // Nobody listens on the node itself; the uplink's other end prohibits the rest.
            _ => &[
                ErrorKind::ConnectionRefused,
                ErrorKind::PermissionDenied,
                ErrorKind::HostUnreachable,
            ],
        };
        assert!(accepted.contains(&error), "{error:?}, {context}");
    }

    #[track_caller]
    fn reaches(&self, answered: &Answered, context: &str) {
        if answered.learns_mtu {
            self.expects(&Expected::TooLarge, context);
        }
        let wanted: BTreeSet<Endpoint> = answered.reaches.iter().copied().collect();
        let found = if let Some(seconds) = answered.forgotten_after {
            self.after_pauses(answered, Duration::from_secs(seconds), context)
        } else {
            let all = |found: &BTreeSet<Endpoint>, tries| tries >= TRIES && *found == wanted;
            let stayed = |_: &BTreeSet<Endpoint>, tries| tries >= TRIES;
            let (most, stays) = (TRIES_EACH * wanted.len(), answered.stays);
            let seen = self.run(|| {
                if stays {
                    self.many(most, stayed)
                } else {
                    self.many(most, all)
                }
            });
            let seen = seen.unwrap_or_else(|error| panic!("{error}, {context}"));
            seen.iter()
                .map(|seen| self.check(seen, answered, context))
                .collect()
        };
        if answered.stays {
            assert!(
                found.len() == 1 && found.is_subset(&wanted),
                "{found:?}, {context}"
            );
        } else {
            assert_eq!(found, wanted, "{context}");
        }
    }

    /// Asks up to `most` times, until `enough`.
    fn many(
        &self,
        most: usize,
        enough: impl Fn(&BTreeSet<Endpoint>, usize) -> bool,
    ) -> io::Result<Vec<Seen>> {
        let (mut seen, mut found) = (Vec::new(), BTreeSet::new());
        while seen.len() < most && !enough(&found, seen.len()) {
            let one = self.ask(PATIENCE)?;
            found.insert(endpoint(&one));
            seen.push(one);
        }
        Ok(seen)
    }

    /// Asks with pauses that are a little longer than a client is remembered, until it reaches a
    /// second endpoint.
    fn after_pauses(
        &self,
        answered: &Answered,
        remembered: Duration,
        context: &str,
    ) -> BTreeSet<Endpoint> {
        let wanted: BTreeSet<Endpoint> = answered.reaches.iter().copied().collect();
        let mut found = BTreeSet::new();
        for _ in 0..40 {
            let seen = self.run(|| self.ask(PATIENCE));
            let seen = seen.unwrap_or_else(|error| panic!("{error}, {context}"));
            found.insert(self.check(&seen, answered, context));
            if found.len() > 1 {
                assert!(found.is_subset(&wanted), "{found:?}, {context}");
                return wanted;
            }
            std::thread::sleep(remembered + Duration::from_millis(150));
        }
        panic!("remembered for ever, {context}");
    }

    /// Whether the endpoint saw whom it should have seen.
    #[track_caller]
    fn check(&self, seen: &Seen, answered: &Answered, context: &str) -> Endpoint {
        let family = Family::of(self.to.ip());
        let itself = self.who == Who::Pod(seen.pod);
        let own = seen.client == self.host.ip(family);
        let right = match answered.source {
            None => true,
            Some(Source::Kept) if !itself => own,
            Some(Source::Direct) => own,
            Some(Source::Kept | Source::Node) => is_the_nodes(seen.client),
        };
        assert!(right, "{seen:?}, {context}");
        endpoint(seen)
    }
}

fn patience(expected: &Expected) -> Duration {
    match expected {
        Expected::Silence => SILENCE,
        _ => PATIENCE,
    }
}

fn endpoint(seen: &Seen) -> Endpoint {
    Endpoint {
        pod: seen.pod,
        port: seen.port,
    }
}

/// The node is .1 in every network of the bed, all others are .2.
fn is_the_nodes(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3] == 1,
        IpAddr::V6(ip) => ip.segments()[7] == 1,
    }
}

/// What the data plane of `mode` is told on this thread's host.
fn settings(world: &World, mode: Mode) -> Vec<PlaneSettings> {
    let mut settings = world.plane_settings(&addresses(world));
    if mode == Mode::Ipvs {
        let own = node_ports::own_addresses();
        for one in &mut settings {
            one.own_addresses.clone_from(&own);
        }
    }
    settings
}

/// Where node ports are served on this thread's host.
fn addresses(world: &World) -> BTreeSet<IpAddr> {
    let mut ports = NodePorts::new(
        world.settings.node_ports(Mode::Nftables),
        world.settings.node_ip,
    );
    ports.set_node(&["192.0.2.1".to_owned(), "2001:db8:2::1".to_owned()]);
    ports.addresses()
}
