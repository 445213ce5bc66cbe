//! IPVS, and the device that its addresses are on, each test in a namespace of its own. Not among
//! the tests that `cargo test` runs: they need a kernel with both, and `scripts/vm` runs them under
//! one.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::ipvs::{
    Command, Destination, DestinationState, IpvsSocket, Service, ServiceKey, Timeouts,
};
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Route, VethEnd, VethPair};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// An emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

fn key(protocol: u8, address: &str) -> ServiceKey {
    let address: SocketAddr = address.parse().unwrap();
    ServiceKey {
        ip: address.ip(),
        protocol,
        port: address.port(),
    }
}

fn service(protocol: u8, address: &str, scheduler: &str) -> Service {
    Service {
        key: key(protocol, address),
        scheduler: scheduler.to_owned(),
        persistence: None,
        hash_port: false,
    }
}

fn destination(address: &str, weight: u32) -> Destination {
    let address: SocketAddr = address.parse().unwrap();
    Destination {
        ip: address.ip(),
        port: address.port(),
        weight,
    }
}

/// IPVS of a new namespace, which lives as long as the first. It has an address, without which the
/// kernel takes no destination's for one.
fn fresh() -> (NetNs, IpvsSocket) {
    let netns = NetNs::anonymous().unwrap();
    Handle::open_in(&netns).unwrap().set_up(1).unwrap();
    let socket = netns.run(IpvsSocket::open).unwrap().unwrap();
    (netns, socket)
}

fn apply(ipvs: &mut IpvsSocket, commands: &[Command]) {
    let refused = ipvs.apply(commands).unwrap();
    assert_eq!(refused.first(), None, "{} refused", refused.len());
}

fn listed(ipvs: &mut IpvsSocket) -> Vec<Service> {
    let mut services = ipvs.services().unwrap();
    services.sort_by_key(|service| service.key);
    services
}

fn idle(ipvs: &mut IpvsSocket, key: &ServiceKey) -> Vec<Destination> {
    let states = ipvs.destinations(key).unwrap();
    assert!(
        states
            .iter()
            .all(|state| state.active + state.inactive == 0)
    );
    let mut found: Vec<_> = states.into_iter().map(|state| state.destination).collect();
    found.sort_by_key(|one| (one.ip, one.port));
    found
}

#[test]
fn services_of_both_families_are_read_back_as_they_were_made() {
    let (_netns, mut ipvs) = fresh();
    let mut all: Vec<_> = [
        "rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "sed", "nq", "lblc",
    ]
    .into_iter()
    .zip(1..)
    .flat_map(|(scheduler, port)| {
        [
            service(TCP, &format!("10.96.0.1:{port}"), scheduler),
            service(UDP, &format!("[fd00::1]:{port}"), scheduler),
        ]
    })
    .collect();
    all.push(service(SCTP, "10.96.0.2:132", "rr"));
    all[2].persistence = NonZeroU32::new(10_800);
    all[3].persistence = NonZeroU32::new(86_400);
    for service in &mut all {
        service.hash_port = service.scheduler == "mh";
    }
    let commands: Vec<_> = all.iter().cloned().map(Command::AddService).collect();
    apply(&mut ipvs, &commands);
    all.sort_by_key(|service| service.key);
    assert_eq!(listed(&mut ipvs), all);
    // Another namespace's are its own.
    assert_eq!(listed(&mut fresh().1), []);

    // The other scheduler, and without what was persistent; then none.
    let changed: Vec<_> = all
        .iter()
        .map(|service| Service {
            scheduler: "rr".to_owned(),
            persistence: service.persistence.xor(NonZeroU32::new(7)),
            hash_port: false,
            ..service.clone()
        })
        .collect();
    let commands: Vec<_> = changed.iter().cloned().map(Command::SetService).collect();
    apply(&mut ipvs, &commands);
    assert_eq!(listed(&mut ipvs), changed);
    let commands: Vec<_> = all
        .iter()
        .map(|one| Command::DeleteService(one.key))
        .collect();
    apply(&mut ipvs, &commands);
    assert_eq!(listed(&mut ipvs), []);
    apply(&mut ipvs, &commands);
}

#[test]
fn destinations_come_go_and_change_their_weight() {
    let (_netns, mut ipvs) = fresh();
    for (service, endpoints) in [
        (
            service(TCP, "10.96.0.1:80", "wrr"),
            ["10.244.0.5:8080", "10.244.0.6:8080"],
        ),
        (
            service(UDP, "[fd00:96::1]:53", "rr"),
            ["[fd00:244::5]:5353", "[fd00:244::6]:5353"],
        ),
    ] {
        let key = service.key;
        let mut both = endpoints.map(|address| destination(address, 1));
        let add = both.map(|one| Command::AddDestination(key, one));
        apply(&mut ipvs, &[Command::AddService(service)]);
        apply(&mut ipvs, &add);
        assert_eq!(idle(&mut ipvs, &key), both);
        both[1].weight = 0;
        apply(&mut ipvs, &[Command::SetDestination(key, both[1])]);
        assert_eq!(idle(&mut ipvs, &key), both);
        let delete = Command::DeleteDestination(key, both[0].ip, both[0].port);
        for _ in 0..2 {
            apply(&mut ipvs, std::slice::from_ref(&delete));
            assert_eq!(idle(&mut ipvs, &key), both[1..]);
        }
        // With the service they are gone.
        apply(&mut ipvs, &[Command::DeleteService(key), delete]);
        assert_eq!(ipvs.destinations(&key), Ok(vec![]));
    }
}

#[test]
fn what_is_refused_is_told_alone_and_by_name() {
    let (_netns, mut ipvs) = fresh();
    let web = service(TCP, "10.96.0.1:80", "rr");
    let odd = service(TCP, "10.96.0.1:81", "no-such");
    let one = destination("10.244.0.5:8080", 1);
    let commands = [
        Command::AddService(odd.clone()),
        Command::AddDestination(odd.key, one),
        Command::AddService(web.clone()),
        Command::AddService(web.clone()),
        Command::SetDestination(web.key, one),
        Command::AddDestination(web.key, one),
        Command::SetService(odd),
        Command::AddDestination(web.key, one),
    ];
    let refused = ipvs.apply(&commands).unwrap();
    let told: Vec<_> = refused
        .iter()
        .map(|(place, error)| (*place, error.errno().unwrap()))
        .collect();
    let expected = [
        (0, Errno::ENOENT),
        (1, Errno::ESRCH),
        (3, Errno::EEXIST),
        (4, Errno::ENOENT),
        (6, Errno::ESRCH),
        (7, Errno::EEXIST),
    ];
    assert_eq!(told, expected);
    assert_eq!(
        refused[0].1.to_string(),
        "add IPVS service tcp 10.96.0.1:81 (no-such): ENOENT: No such file or directory"
    );
    assert_eq!(
        refused[5].1.to_string(),
        "add destination 10.244.0.5:8080 (weight 1) to IPVS service tcp 10.96.0.1:80: \
         EEXIST: File exists"
    );
    assert_eq!(listed(&mut ipvs), std::slice::from_ref(&web));
    assert_eq!(idle(&mut ipvs, &web.key), [one]);
}

#[test]
fn timeouts_are_the_namespaces_and_zero_leaves_one() {
    let (_netns, mut ipvs) = fresh();
    let before = ipvs.timeouts().unwrap();
    assert_eq!((before.tcp, before.tcp_fin, before.udp), (900, 120, 300));
    ipvs.set_timeouts(Timeouts {
        tcp: 1000,
        tcp_fin: 0,
        udp: 17,
    })
    .unwrap();
    let after = Timeouts {
        tcp: 1000,
        udp: 17,
        ..before
    };
    assert_eq!(ipvs.timeouts(), Ok(after));
    assert_eq!(fresh().1.timeouts(), Ok(before));
    let refused = ipvs.set_timeouts(Timeouts {
        tcp: u32::MAX,
        ..Timeouts::default()
    });
    assert_eq!(refused.unwrap_err().errno(), Some(Errno::EINVAL));
}

#[test]
fn services_found_by_a_firewall_mark_are_not_seen() {
    let (netns, mut ipvs) = fresh();
    let web = service(TCP, "10.96.0.1:80", "rr");
    apply(&mut ipvs, &[Command::AddService(web.clone())]);
    netns.run(|| marked::add(7)).unwrap();
    assert_eq!(listed(&mut ipvs), [web]);
}

/// A service that this crate doesn't make, by the older interface.
mod marked {
    use nodekit::netlink::{Protocol, Socket, generic_request};

    pub(super) fn add(mark: u32) {
        let mut socket = Socket::open(Protocol::Generic).unwrap();
        let family = socket.generic_family("IPVS").unwrap();
        let mut request = generic_request(1, 1);
        request.nested(1, |service| {
            let flags = [0, u32::MAX].map(u32::to_ne_bytes).concat();
            service
                .u16_ne(1, 2)
                .u32_ne(5, mark)
                .string(6, "rr")
                .bytes(7, &flags)
                .u32_ne(8, 0)
                .u32_ne(9, u32::MAX);
        });
        let request = request.finish().unwrap();
        socket
            .request(&"a marked service", family, 0, &request)
            .unwrap();
    }
}

/// A node, and a pod behind it whose way out is the node.
struct Bed {
    node: NetNs,
    pod: NetNs,
}

const NODE: [&str; 2] = ["10.244.0.1/24", "fd00:244::1/64"];
const POD: [&str; 2] = ["10.244.0.5/24", "fd00:244::5/64"];
const SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];

impl Bed {
    fn new() -> Self {
        let [node, pod] = [(); 2].map(|()| NetNs::anonymous().unwrap());
        let mut here = Handle::open_in(&node).unwrap();
        let far = VethEnd {
            netns: Some(pod.as_fd()),
            ..VethEnd::named("eth0")
        };
        here.create_veth(&VethPair {
            near: VethEnd::named("pod"),
            far,
            near_up: true,
            near_master: None,
        })
        .unwrap();
        let near = here.link_by_name("pod").unwrap().index;
        let mut there = Handle::open_in(&pod).unwrap();
        let eth0 = there.link_by_name("eth0").unwrap().index;
        there.set_up(eth0).unwrap();
        for (node, pod) in NODE.into_iter().zip(POD) {
            let [node, pod]: [IpNetwork; 2] = [node, pod].map(|one| one.parse().unwrap());
            here.add_address(&Address::new(near, node)).unwrap();
            there.add_address(&Address::new(eth0, pod)).unwrap();
            there.add_route(&Route::default_by(node.ip())).unwrap();
        }
        here.set_up(1).unwrap();
        Self { node, pod }
    }
}

fn wait_for(
    ipvs: &mut IpvsSocket,
    key: &ServiceKey,
    what: &str,
    wanted: impl Fn(&DestinationState) -> bool,
) {
    let begin = Instant::now();
    loop {
        let found = ipvs.destinations(key).unwrap();
        if found.len() == 1 && wanted(&found[0]) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "not {what}: {found:?}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_connection_to_an_address_of_a_dummy_device_reaches_a_destination_and_is_counted() {
    let bed = Bed::new();
    let mut route = Handle::open_in(&bed.node).unwrap();
    route.create_dummy("vips").unwrap();
    let vips = route.link_by_name("vips").unwrap().index;
    let mut ipvs = bed.node.run(IpvsSocket::open).unwrap().unwrap();
    for (service_ip, pod) in SERVICE.into_iter().zip(POD) {
        let ip: IpAddr = service_ip.parse().unwrap();
        let pod = pod.split('/').next().unwrap().parse().unwrap();
        route.add_address(&Address::new(vips, ip.into())).unwrap();
        let key = ServiceKey {
            ip,
            protocol: TCP,
            port: 80,
        };
        let service = Service {
            key,
            scheduler: "rr".to_owned(),
            persistence: None,
            hash_port: false,
        };
        let endpoint = Destination {
            ip: pod,
            port: 8080,
            weight: 1,
        };
        let commands = [
            Command::AddService(service),
            Command::AddDestination(key, endpoint),
        ];
        apply(&mut ipvs, &commands);
        let listener = bed.pod.run(|| TcpListener::bind((pod, 8080)).unwrap());
        let listener = listener.unwrap();
        let client = bed
            .node
            .run(|| TcpStream::connect_timeout(&(ip, 80).into(), PATIENCE).unwrap());
        let mut client = client.unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"hello");
        wait_for(&mut ipvs, &key, "one active", |state| {
            (state.active, state.inactive) == (1, 0) && state.destination == endpoint
        });
        drop((client, server));
        wait_for(&mut ipvs, &key, "none active", |state| {
            (state.active, state.inactive) == (0, 1)
        });
    }
}

#[test]
fn a_dummy_device_holds_addresses_of_both_families_and_makes_none_of_its_own() {
    let netns = NetNs::anonymous().unwrap();
    let mut route = Handle::open_in(&netns).unwrap();
    route.create_dummy("vips").unwrap();
    let again = route.create_dummy("vips").unwrap_err();
    assert_eq!(again.errno(), Some(Errno::EEXIST));
    assert_eq!(
        again.to_string(),
        "make dummy device vips: EEXIST: File exists"
    );
    let link = route.link_by_name("vips").unwrap();
    assert_eq!((link.kind.as_deref(), link.up), (Some("dummy"), false));
    let all: Vec<_> = ["10.96.0.1/32", "10.96.0.2/32", "fd00:96::1/128"]
        .map(|address| Address::new(link.index, address.parse().unwrap()))
        .into();
    for address in &all {
        route.add_address(address).unwrap();
    }
    let addresses = |route: &mut Handle| {
        let mut found: Vec<_> = route.addresses(Some(link.index)).unwrap();
        found.sort_by_key(|one| one.address);
        found
            .into_iter()
            .map(|one| (one.address, one.tentative))
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = all.iter().map(|one| (one.address, false)).collect();
    assert_eq!(addresses(&mut route), expected);
    for address in &all[..2] {
        route.delete_address(link.index, address.address).unwrap();
    }
    assert_eq!(addresses(&mut route), expected[2..]);
    route.delete_link(link.index).unwrap();
    assert_eq!(
        route.link_by_name("vips").unwrap_err().errno(),
        Some(Errno::ENODEV)
    );
}

#[test]
fn ten_thousand_services_are_made_in_bulk() {
    const SERVICES: u32 = 10_000;
    let (_netns, mut ipvs) = fresh();
    let commands: Vec<_> = (0..SERVICES)
        .flat_map(|number| {
            let [.., a, b] = number.to_be_bytes();
            let service = service(TCP, &format!("10.96.{a}.{b}:80"), "rr");
            let key = service.key;
            let endpoint =
                |last: u8| destination(&format!("10.{last}.{a}.{b}:8080"), u32::from(last));
            [
                Command::AddService(service),
                Command::AddDestination(key, endpoint(1)),
                Command::AddDestination(key, endpoint(2)),
            ]
        })
        .collect();
    let begin = Instant::now();
    apply(&mut ipvs, &commands);
    println!("{} commands: {:?}", commands.len(), begin.elapsed());
    let begin = Instant::now();
    let services = listed(&mut ipvs);
    println!("{} services listed: {:?}", services.len(), begin.elapsed());
    let made = commands.iter().filter_map(|command| match command {
        Command::AddService(service) => Some(service),
        _ => None,
    });
    assert!(services.iter().eq(made), "{} services", services.len());
    let begin = Instant::now();
    for service in &services {
        let weights: Vec<_> = idle(&mut ipvs, &service.key)
            .iter()
            .map(|one| one.weight)
            .collect();
        assert_eq!(weights, [1, 2]);
    }
    println!("their destinations listed: {:?}", begin.elapsed());
}
