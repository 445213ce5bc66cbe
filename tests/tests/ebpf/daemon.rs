//! The real daemon in mode ebpf, killed again and again.

use std::io::{Error, Read, Result, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, ECHO_PORT, PORTS, Proxy, answer, get, wait_until};
use netns_lab::apiserver::Resource;
use nodekit::route::{Handle, Route, RouteKind, VethEnd, VethPair};
use nodekit::sysctl;

use crate::node::StopAtEnd;

/// For what takes milliseconds: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a cgroup and a bpffs, which has no way to a ClusterIP but by translation at the
/// socket.
pub(crate) struct Node {
    pub(crate) bed: Bed,
    pub(crate) cell: Cell,
}

impl Node {
    pub(crate) fn new() -> Self {
        let bed = Bed::new().unwrap();
        let nowhere = Route {
            kind: RouteKind::Unreachable,
            ..Route::to("10.96.0.0/16".parse().unwrap())
        };
        let mut routes = Handle::open_in(&bed.netns).unwrap();
        routes.add_route(&nowhere).unwrap();
        Self {
            bed,
            cell: Cell::new(),
        }
    }

    pub(crate) fn put(&self, name: &str, index: usize, port: u16) -> SocketAddr {
        let ip = cluster_ip(index);
        let ips = (0..3).map(|number| endpoint_ip(index, number, 10));
        let store = &self.bed.store;
        store.seed(Resource::Service, [service(name, ip)]).unwrap();
        let slice = slice(name, ips, port);
        store.seed(Resource::EndpointSlice, [slice]).unwrap();
        (IpAddr::from(ip), 80).into()
    }

    /// An interface comes, and gets the program; gives its number, and the program's pin.
    pub(crate) fn add_link(&self, name: &str) -> (u32, PathBuf) {
        let (near, far) = (format!("{name}0"), format!("{name}1"));
        let pair = VethPair {
            near: VethEnd::named(&near),
            far: VethEnd::named(&far),
            near_up: false,
            near_master: None,
        };
        let mut handle = Handle::open_in(&self.bed.netns).unwrap();
        handle.create_veth(&pair).unwrap();
        let index = handle.link_by_name(&near).unwrap().index;
        let links = self.cell.options().pins.join("links");
        let pin = links.join(format!("packets-{index}"));
        wait_until("a program at it", PATIENCE, || pin.exists()).unwrap();
        (index, pin)
    }

    /// The daemon, born with the mounts of this thread.
    pub(crate) fn start(&self) -> Proxy {
        let [cgroup, pins] = &self.cell.flags();
        let flags = ["--proxy-mode=ebpf", cgroup, pins];
        self.bed.proxy(&flags).unwrap()
    }

    /// What a process on this node does.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.cell.inside(|| self.bed.netns.run(act).unwrap())
    }

    pub(crate) fn wait_for(&self, to: SocketAddr, port: u16) {
        let answers = || self.inside(|| answer(to) == Some(port));
        wait_until("answer", PATIENCE, answers).unwrap();
    }

    /// A connection that such a process makes, sooner or later: an attempt before there is a rule
    /// comes to nothing whatever follows.
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        let mut made = None;
        wait_until("a connection", PATIENCE, || {
            let attempt = || TcpStream::connect_timeout(&to, Duration::from_millis(500));
            made = self.inside(attempt).ok();
            made.is_some()
        })
        .unwrap();
        made.unwrap()
    }

    /// `causeway_ebpf_events_total` of connections.
    fn connected(&self) -> usize {
        let metrics = ([127, 0, 0, 1], 10249).into();
        let (_, _, page) = get(&self.bed.netns, metrics, "/metrics").unwrap();
        let name = "causeway_ebpf_events_total{hook=\"socket\",event=\"connected_tcp\"} ";
        let count = page.lines().find_map(|line| line.strip_prefix(name));
        count.unwrap().parse().unwrap()
    }
}

/// Writes the configuration's file, in one go; gives the flag that names it.
pub(crate) fn configuration(node: &Node, mode: &str, metrics: u16) -> String {
    let file = node.bed.folder().join("config.conf");
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: {mode}\nmetricsBindAddress: 127.0.0.1:{metrics}\nnftables: {{syncPeriod: 1s}}\n"
    );
    let fresh = node.bed.folder().join("config.new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, &file).unwrap();
    format!("--config={}", file.display())
}

/// The port that answers behind `to`.
pub(crate) fn ask(to: SocketAddr) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(Error::other)
}

/// A connection that stays open.
pub(crate) fn echo(stream: &mut TcpStream) {
    stream.write_all(b"still there?").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still there?");
}

/// A client that connects all the time.
struct Client {
    stop: AtomicBool,
    made: AtomicUsize,
    failed: Mutex<Option<Error>>,
}

impl Client {
    fn run(&self, to: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            match ask(to) {
                Ok(_) => self.made.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    *self.failed.lock().unwrap() = Some(error);
                    return;
                }
            };
        }
    }

    /// Some more connections are made, and none failed.
    fn goes_on(&self) {
        let before = self.made.load(Ordering::Relaxed);
        wait_until("more connections", PATIENCE, || {
            let failed = self.failed.lock().unwrap();
            assert!(failed.is_none(), "{failed:?}");
            self.made.load(Ordering::Relaxed) > before + 10
        })
        .unwrap();
    }
}

/// Kills the daemon and starts it again, twice; endpoints move while it is dead.
fn kill_and_restart(node: &Node, client: &Client, web: SocketAddr, first: Proxy) -> Proxy {
    let mut proxy = first;
    for port in [PORTS[1], PORTS[0]] {
        proxy.kill().unwrap();
        client.goes_on();
        node.put("web", 0, port);
        proxy = node.start();
        node.wait_for(web, port);
        client.goes_on();
    }
    proxy
}

fn a_killed_daemon_is_not_missed() {
    let node = &Node::new();
    let web = node.put("web", 0, PORTS[0]);
    let talk = node.put("talk", 1, ECHO_PORT);
    let proxy = node.start();
    node.wait_for(web, PORTS[0]);
    let mut stream = node.connect(talk);
    let client = &Client {
        stop: AtomicBool::new(false),
        made: AtomicUsize::new(0),
        failed: Mutex::new(None),
    };
    let proxy = thread::scope(|scope| {
        let _running = StopAtEnd(&client.stop);
        scope.spawn(|| node.inside(|| client.run(web)));
        client.goes_on();
        kill_and_restart(node, client, web, proxy)
    });
    echo(&mut stream);
    assert_eq!(node.inside(|| stream.peer_addr().unwrap()), talk);
    assert!(node.connected() >= client.made.load(Ordering::Relaxed));
    assert!(proxy.terminate().unwrap().success());
    assert_eq!(node.inside(|| ask(web).unwrap()), PORTS[0]);

    let mut cleanup = Command::new(causeway_tests::binary("causeway-proxy"));
    cleanup.arg("--cleanup").args(node.cell.flags());
    let output = node.bed.netns.run(|| cleanup.output()).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!node.cell.options().pins.exists());
    // The kernel detaches in the background.
    let free = || node.inside(|| ask(web).is_err());
    wait_until("programs gone", PATIENCE, free).unwrap();
}

fn ports_of_both_kinds_are_told() {
    let node = Node::new();
    let key: sysctl::Key = "net/ipv4/ip_local_port_range".parse().unwrap();
    let give = |ports: &str| node.bed.netns.run(|| sysctl::write(&key, ports).unwrap());
    for (given, told) in [("1024 65535", true), ("32768 60999", false)] {
        give(given).unwrap();
        let proxy = node.start();
        wait_until("first pass", PATIENCE, || {
            proxy.log().unwrap().contains("first pass")
        })
        .unwrap();
        let log = proxy.log().unwrap();
        assert_eq!(log.contains("--ebpf-snat-ports are given"), told, "{log}");
    }
}

#[test]
fn ports_that_the_nodes_own_connections_get_as_well_are_told() {
    in_a_cell(ports_of_both_kinds_are_told);
}

/// The mounts of a cell are its thread's, and of what this one starts.
pub(crate) fn in_a_cell(test: impl FnOnce() + Send + 'static) {
    thread::spawn(test).join().unwrap();
}

#[test]
fn connections_are_made_and_kept_while_the_daemon_is_killed_and_comes_back() {
    in_a_cell(a_killed_daemon_is_not_missed);
}
