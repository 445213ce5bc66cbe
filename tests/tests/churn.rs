//! A day of rolling updates, compressed: who connects meanwhile notices nothing, and nothing is
//! left behind. `CAUSEWAY_CHURN_SECONDS=300` makes it last as long as the promise says.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use causeway_tests::attempt;
use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, Proxy, get, wait_until};
use netns_lab::apiserver::{Deletion, Resource};
use nodekit::conntrack::{self, ConntrackSocket};
use serde_json::json;

const ENDPOINTS: usize = 3;
/// What the pods serve.
const PORT: u16 = 7000;
/// A pod serves on for so long after it was told to end, as pods do; the proxy needs milliseconds.
const GRACE: Duration = Duration::from_secs(10);
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An attempt before there is a rule comes to nothing whatever follows.
const ATTEMPT: Duration = Duration::from_millis(500);
/// So many connections at least.
const ENOUGH: usize = 1_000;

/// One Service's pods: their numbers, which are never used again.
#[derive(Clone, Debug)]
struct Pods {
    service: usize,
    next: usize,
    ready: Vec<usize>,
    /// Told to end, and still serving.
    ending: Option<usize>,
}

impl Pods {
    fn new(service: usize) -> Self {
        Self {
            service,
            next: ENDPOINTS,
            ready: (0..ENDPOINTS).collect(),
            ending: None,
        }
    }

    fn ip(&self, number: usize) -> Ipv4Addr {
        endpoint_ip(self.service, number, 1000)
    }

    /// The next step of a rolling update: a new pod is ready and an old one ends, or is gone.
    fn step(&mut self) -> Option<usize> {
        if let Some(gone) = self.ending.take() {
            return Some(gone);
        }
        let old = self.ready.remove(0);
        self.ready.push(self.next % 1000);
        self.next += 1;
        self.ending = Some(old);
        None
    }

    fn put(&self, bed: &Bed) {
        let numbers = self.ready.iter().chain(&self.ending);
        let ips = numbers.map(|number| self.ip(*number));
        let mut slice = slice(&name(self.service), ips, PORT);
        slice["ports"] = ports(PORT);
        if self.ending.is_some() {
            slice["endpoints"][ENDPOINTS]["conditions"] =
                json!({"ready": false, "serving": true, "terminating": true});
        }
        bed.store.seed(Resource::EndpointSlice, [slice]).unwrap();
    }
}

fn name(service: usize) -> String {
    format!("rolling-{service}")
}

fn ports(port: u16) -> serde_json::Value {
    json!([
        {"name": "tcp", "protocol": "TCP", "port": port},
        {"name": "udp", "protocol": "UDP", "port": port},
    ])
}

/// A generator with a fixed seed (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// What clients and pods saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    connections: AtomicUsize,
    /// When each pod was gone.
    gone: Mutex<BTreeMap<IpAddr, Instant>>,
    failures: Mutex<Vec<String>>,
}

impl Seen {
    /// Connects to Service after Service until told to stop.
    fn connect(&self, services: usize, seed: u64) {
        let mut dice = Dice(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let to = SocketAddr::from((cluster_ip(dice.below(services)), 80));
            let begun = Instant::now();
            self.connections.fetch_add(1, Ordering::Relaxed);
            let failure = match ask(to) {
                Err(error) => Some(format!("{to}: {error}")),
                Ok(pod) => {
                    let gone = self.gone.lock().unwrap().get(&pod).copied();
                    let late = gone.filter(|gone| begun > *gone + GRACE);
                    late.map(|gone| format!("{to}: {pod}, gone for {:?}", begun - gone))
                }
            };
            self.failures.lock().unwrap().extend(failure);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Which pod answers.
fn ask(to: SocketAddr) -> std::io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(std::io::Error::other)
}

/// Every address of the bed's pod network says which it is; UDP is taken in silence.
fn serve(bed: &Bed) -> UdpSocket {
    let bind = || {
        let any = Ipv6Addr::UNSPECIFIED;
        let listener = TcpListener::bind((any, PORT)).unwrap();
        (listener, UdpSocket::bind((any, PORT)).unwrap())
    };
    let (listener, socket) = bed.netns.run(bind).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let ip = stream.local_addr().unwrap().ip().to_canonical();
            // A client that left does not want its answer.
            drop(stream.write_all(ip.to_string().as_bytes()));
        }
    });
    socket
}

/// How many entries of the maps there are of Services and sockets, in mode ebpf.
fn entries(bed: &Bed) -> BTreeMap<String, usize> {
    const MAPS: [&str; 6] = [
        "frontends",
        "backends",
        "members",
        "services",
        "connected_tcp",
        "connected_udp",
    ];
    let metrics = ([127, 0, 0, 1], 10249).into();
    let (_, _, page) = get(&bed.netns, metrics, "/metrics").unwrap();
    let of = |map: &&str| {
        let name = format!("causeway_ebpf_map_entries{{map=\"{map}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&name))?;
        Some(((*map).to_owned(), count.parse().unwrap()))
    };
    MAPS.iter().filter_map(of).collect()
}

/// Everything in the node's rule set, whatever its order, and how much there is in maps.
fn state(bed: &Bed) -> BTreeMap<String, usize> {
    let list = || Command::new("nft").args(["-s", "list", "ruleset"]).output();
    let output = bed.netns.run(list).unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = entries(bed);
    for word in text.split([' ', ',', '\n', '\t']) {
        *words.entry(word.to_owned()).or_default() += 1;
    }
    words
}

/// Where translated UDP flows go.
fn udp_targets(bed: &Bed) -> BTreeSet<IpAddr> {
    let list = || {
        let mut socket = ConntrackSocket::open().unwrap();
        let translated = |entry: &conntrack::Entry| entry.is_destination_translated();
        socket.list(conntrack::Family::Ip, Some(17), translated)
    };
    let entries = bed.netns.run(list).unwrap().unwrap();
    entries.iter().map(|entry| entry.reply.source).collect()
}

fn seconds(default: u64) -> Duration {
    let said = std::env::var("CAUSEWAY_CHURN_SECONDS").ok();
    Duration::from_secs(said.map_or(default, |said| said.parse().unwrap()))
}

/// Rolls updates over all Services for `time`; gives resident memory at a quarter of it.
fn roll(
    bed: &Bed,
    proxy: &Proxy,
    all: &mut [Pods],
    senders: &[UdpSocket],
    seen: &Seen,
    time: Duration,
) -> u64 {
    let mut dice = Dice(20_260_101);
    let (start, mut warm) = (Instant::now(), None);
    let made = || seen.connections.load(Ordering::Relaxed);
    // A busy machine needs longer for enough of them to say something.
    while start.elapsed() < time || (made() <= ENOUGH && start.elapsed() < time + PATIENCE) {
        let pods = &mut all[dice.below(senders.len())];
        if let Some(gone) = pods.step() {
            let ip = IpAddr::from(pods.ip(gone));
            seen.gone.lock().unwrap().insert(ip, Instant::now());
        } else {
            // It may have been gone before, under the same number.
            let ip = IpAddr::from(pods.ip(*pods.ready.last().unwrap()));
            seen.gone.lock().unwrap().remove(&ip);
        }
        pods.put(bed);
        // Somebody who never stops sending, and connects anew when told that nobody is there.
        let sender = &senders[pods.service];
        if sender.send(b"?").is_err() {
            drop(sender.connect((cluster_ip(pods.service), 80)));
        }
        thread::sleep(Duration::from_millis(3));
        if start.elapsed() > time / 4 {
            warm.get_or_insert_with(|| proxy.usage().unwrap().resident);
        }
    }
    warm.unwrap()
}

fn churn(mode: &str, cell: Option<&Cell>, services: usize, time: Duration) {
    let bed = Bed::new().unwrap();
    let _pods_udp = serve(&bed);
    let mut all: Vec<Pods> = (0..services).map(Pods::new).collect();
    for pods in &all {
        let mut service = service(&name(pods.service), cluster_ip(pods.service));
        service["spec"]["ports"] = ports(80);
        bed.store.seed(Resource::Service, [service]).unwrap();
        pods.put(&bed);
    }
    let flags = cell.map(Cell::flags);
    let flags = flags.iter().flatten().map(String::as_str);
    let proxy = bed.proxy(&Vec::from_iter([mode].into_iter().chain(flags)));
    let proxy = proxy.unwrap();
    let reached = |service| {
        let to = (cluster_ip(service), 80).into();
        bed.netns.run(|| attempt(to, ATTEMPT).is_ok())
    };
    for service in [0, services - 1] {
        let answers = || inside(cell, || reached(service)).unwrap();
        wait_until("answer", PATIENCE, answers).unwrap();
    }
    let before = state(&bed);
    let warm = inside(cell, || connected(&bed, &proxy, &mut all, time));
    let resident = proxy.usage().unwrap().resident;
    println!("{mode}: resident {warm} bytes after a quarter of the time, {resident} at its end");
    let grown = resident.saturating_sub(warm);
    assert!(grown < 4 << 20, "{grown} bytes more resident");
    nothing_is_left(&bed, &mut all, &before);
    let log = proxy.log().unwrap();
    let quiet = !log.contains("ERROR") && !log.contains("trying again");
    assert!(quiet, "{log}");
}

/// Does as processes of the node do, which are in the cell where there is one.
fn inside<T: Send>(cell: Option<&Cell>, act: impl FnOnce() -> T + Send) -> T {
    match cell {
        Some(cell) => cell.inside(act),
        None => act(),
    }
}

/// Rolls, while clients connect who may not fail; gives resident memory at a quarter of the time.
fn connected(bed: &Bed, proxy: &Proxy, all: &mut [Pods], time: Duration) -> u64 {
    let sender = |pods: &Pods| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((cluster_ip(pods.service), 80)).unwrap();
        socket
    };
    let senders = bed.netns.run(|| all.iter().map(sender).collect::<Vec<_>>());
    let (senders, services) = (senders.unwrap(), all.len());
    let seen = Seen::default();
    let warm = thread::scope(|scope| {
        for seed in [1, 2] {
            let (netns, seen) = (&bed.netns, &seen);
            scope.spawn(move || netns.run(|| seen.connect(services, seed)).unwrap());
        }
        let warm = roll(bed, proxy, all, &senders, &seen, time);
        seen.stop.store(true, Ordering::Relaxed);
        warm
    });
    assert_eq!(*seen.failures.lock().unwrap(), [""; 0]);
    let connections = seen.connections.load(Ordering::Relaxed);
    let replaced: usize = all.iter().map(|pods| pods.next - ENDPOINTS).sum();
    println!("{services} Services, {replaced} pods replaced, {connections} connections");
    assert!(
        connections > ENOUGH,
        "{connections} are too few to say anything"
    );
    warm
}

/// With the pods of the beginning everything is as in the beginning, and without Services nothing
/// is left of their flows.
fn nothing_is_left(bed: &Bed, all: &mut [Pods], before: &BTreeMap<String, usize>) {
    for pods in &mut *all {
        *pods = Pods::new(pods.service);
        pods.put(bed);
    }
    wait_until("what was there before", PATIENCE, || state(bed) == *before).unwrap();
    let first: BTreeSet<IpAddr> = all
        .iter()
        .flat_map(|pods| {
            pods.ready
                .iter()
                .map(|number| IpAddr::from(pods.ip(*number)))
        })
        .collect();
    wait_until("only flows to pods that are there", PATIENCE, || {
        udp_targets(bed).is_subset(&first)
    })
    .unwrap();
    for pods in all {
        let service = name(pods.service);
        let slice = format!("{service}-x7k2p");
        for (kind, name) in [
            (Resource::Service, service),
            (Resource::EndpointSlice, slice),
        ] {
            let deleted = bed.store.delete(kind, "default", &name, &Deletion::now());
            deleted.unwrap();
        }
    }
    wait_until("no flow left", PATIENCE, || udp_targets(bed).is_empty()).unwrap();
    wait_until("no map entry left", PATIENCE, || {
        entries(bed).values().all(|count| *count == 0)
    })
    .unwrap();
}

#[test]
fn rolling_updates_of_200_services_cost_nobody_a_connection() {
    churn("--proxy-mode=nftables", None, 200, seconds(12));
}

#[test]
fn rolling_updates_over_iptables_cost_nobody_a_connection() {
    churn("--proxy-mode=iptables", None, 200, seconds(8));
}

#[test]
fn rolling_updates_over_ebpf_cost_nobody_a_connection() {
    let with_a_cell = || {
        let cell = Cell::new();
        churn("--proxy-mode=ebpf", Some(&cell), 200, seconds(8));
    };
    // The mounts of a cell are its thread's.
    thread::spawn(with_a_cell).join().unwrap();
}
