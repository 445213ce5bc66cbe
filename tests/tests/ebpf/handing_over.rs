//! Connections are handed over when mode ebpf is left, also where that is not easy: thousands of
//! them, those that one side has ended, and a daemon that is killed on its way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use causeway_ebpf_abi::{Frontend, FrontendKey, maps};
use causeway_proxy::backend::ebpf::map_pin;
use causeway_tests::proxy_bed::{Proxy, wait_until};
use lb_model::Family;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cluster::Cluster;
use crate::leaving::{LOCAL, OVER, PATIENCE, has_left, is_gone, places, put, tracked};
use crate::node::{Node, on_a_node};

/// A port of the pod where nobody of the bed listens.
const PORT: u16 = 9_000;

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn talk(&mut self) {
        let Self { client, server } = self;
        says(client, server);
        says(server, client);
    }
}

/// What one end says arrives at the other.
fn says(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"still there?").unwrap();
    let mut heard = [0; 12];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still there?");
}

/// One end has nothing more to say, and the other one hears it.
fn ends(from: &TcpStream, mut to: &TcpStream) {
    from.shutdown(Shutdown::Write).unwrap();
    assert_eq!(to.read(&mut [0]).unwrap(), 0);
}

/// A node whose daemon is to leave mode ebpf, with a Service that a pod of it serves.
struct Leaving<'a> {
    node: &'a Node<'a>,
    cluster: Cluster,
    listeners: [TcpListener; 2],
}

impl<'a> Leaving<'a> {
    /// With a daemon in mode ebpf, which serves everybody.
    fn new(node: &'a Node<'a>) -> (Self, Proxy) {
        let cluster = Cluster::new(node.bed);
        put(&cluster, node.bed, 2, "Local", PORT);
        let pod = node.bed.pod(1);
        let listeners = Family::ALL.map(|family| {
            let at = SocketAddr::new(pod.ip(family), PORT);
            pod.netns.run(|| TcpListener::bind(at).unwrap()).unwrap()
        });
        let leaving = Self {
            node,
            cluster,
            listeners,
        };
        let proxy = leaving.start("ebpf");
        for family in Family::ALL {
            wait_until("a node port", PATIENCE, || leaving.connect(family).is_ok()).unwrap();
        }
        (leaving, proxy)
    }

    fn start(&self, mode: &str) -> Proxy {
        let config = self.cluster.configure(mode);
        self.cluster.start(self.node, &[&config])
    }

    /// A connection from outside by the node port.
    fn connect(&self, family: Family) -> std::io::Result<Pair> {
        let place = usize::from(family == Family::V6);
        let to = places(self.node.bed, LOCAL)[place];
        let client = self.node.bed.client.connect(to)?;
        let (server, _) = self.listeners[place].accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Pair { client, server })
    }

    /// So many in turns of both families.
    fn connect_all(&self, count: usize) -> Vec<Pair> {
        let families = Family::ALL.into_iter().cycle();
        let all = families.take(count);
        all.map(|family| self.connect(family).unwrap()).collect()
    }

    /// By the changed file, with all connections.
    fn leave(&self, proxy: &Proxy) {
        self.cluster.configure("nftables");
        let left = || has_left(self.node, proxy, "nftables");
        wait_until("the end of mode ebpf", PATIENCE, left)
            .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    }
}

/// Two sockets for each connection, and what all other tests need.
fn allow_many_files() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let enough = 20_000;
    if soft < enough {
        setrlimit(Resource::RLIMIT_NOFILE, enough, hard.max(enough)).unwrap();
    }
}

#[test]
fn thousands_of_connections_go_over() {
    const CONNECTIONS: usize = 5_000;
    allow_many_files();
    on_a_node(|node| {
        let (leaving, proxy) = Leaving::new(node);
        let mut pairs = leaving.connect_all(CONNECTIONS);
        assert_eq!(tracked(node).len(), 0, "by programs, not by the kernel");
        leaving.leave(&proxy);
        assert!(tracked(node).len() >= CONNECTIONS);
        pairs.iter_mut().for_each(Pair::talk);
        assert!(proxy.terminate().unwrap().success());
    });
}

#[test]
fn the_open_half_of_a_connection_goes_over() {
    on_a_node(|node| {
        let (leaving, proxy) = Leaving::new(node);
        let mut pairs = leaving.connect_all(4);
        let [one, two, three, four] = &mut pairs[..] else {
            unreachable!("four of them");
        };
        // Of both families, one that the client has ended, and one that the pod has.
        for pair in [&*one, &*two] {
            ends(&pair.client, &pair.server);
        }
        for pair in [&*three, &*four] {
            ends(&pair.server, &pair.client);
        }
        leaving.leave(&proxy);
        for pair in [one, two] {
            says(&mut pair.server, &mut pair.client);
            ends(&pair.server, &pair.client);
        }
        for pair in [three, four] {
            says(&mut pair.client, &mut pair.server);
            ends(&pair.client, &pair.server);
        }
        wait_until("the end of connections", PATIENCE, || {
            let mut entries = tracked(node).into_iter();
            entries.all(|entry| entry.timeout.as_secs() <= OVER)
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", tracked(node)));
        assert!(proxy.terminate().unwrap().success());
    });
}

/// How many frontends the programs know; none once the map is gone.
fn frontends(node: &Node<'_>) -> usize {
    type Raw = HashMap<MapData, [u8; size_of::<FrontendKey>()], [u8; size_of::<Frontend>()]>;
    let pin = map_pin(&node.cell.options().pins, maps::FRONTENDS);
    let data = MapData::from_pin(pin).and_then(Map::from_map_data);
    let map = data.and_then(Raw::try_from);
    map.map_or(0, |map| map.keys().count())
}

/// A daemon that is killed as soon as it has come so far, and another one after it. Whether it was
/// still on its way: a busy machine may be late.
fn killed_when(has_come_so_far: impl Fn(&Node<'_>) -> bool + Sync) -> bool {
    let mut on_its_way = false;
    on_a_node(|node| {
        let (leaving, proxy) = Leaving::new(node);
        let mut pairs = leaving.connect_all(50);
        leaving.cluster.configure("nftables");
        let begun = Instant::now();
        while !has_come_so_far(node) {
            assert!(begun.elapsed() < PATIENCE, "{}", proxy.log().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
        proxy.kill().unwrap();
        on_its_way = node.cell.options().pins.exists();
        let mut all_talk = || {
            pairs.iter_mut().for_each(Pair::talk);
            for family in Family::ALL {
                leaving.connect(family).unwrap().talk();
            }
        };
        all_talk();
        let proxy = leaving.start("nftables");
        wait_until("the end of mode ebpf", PATIENCE, || {
            all_talk();
            is_gone(node, "nftables")
        })
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
        all_talk();
        assert!(proxy.terminate().unwrap().success());
    });
    on_its_way
}

#[test]
fn a_daemon_killed_after_the_first_entries_ends_no_connection() {
    let killed = || killed_when(|node| !tracked(node).is_empty());
    assert!((0..10).any(|_| killed()));
}

#[test]
fn a_daemon_killed_after_the_frontends_went_ends_no_connection() {
    let killed = || killed_when(|node| frontends(node) == 0);
    assert!((0..10).any(|_| killed()));
}
