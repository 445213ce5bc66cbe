//! What the daemon may do in mode ebpf after its start, and that this is enough: for what it does
//! at the sockets of other namespaces, too.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::privileges::{
    BPF, NET_ADMIN, NET_BIND_SERVICE, NET_RAW, PERFMON, Privileges, SYS_ADMIN, SYS_PTRACE,
};
use causeway_tests::proxy_bed::{Bed, ECHO_PORT, PORTS, Proxy, get, wait_until};
use netns_lab::apiserver::Resource;
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Route, RouteKind, TABLE_LOCAL};

use crate::daemon::{Node, PATIENCE, ask, configuration, echo, in_a_cell};

/// Every thread has these, in each set, and no others.
#[track_caller]
fn keeps(proxy: &Proxy, capabilities: &[u32]) {
    let threads = proxy.privileges().unwrap();
    assert!(threads.len() > 2, "no thread that follows interfaces");
    for thread in threads {
        assert_eq!(thread, Privileges::only(capabilities));
    }
}

/// A pod that can send to endpoints, without more.
fn pod() -> NetNs {
    let netns = NetNs::anonymous().unwrap();
    let mut handle = Handle::open_in(&netns).unwrap();
    let lo = handle.link_by_name("lo").unwrap().index;
    handle.set_up(lo).unwrap();
    let local = Route {
        kind: RouteKind::Local,
        table: TABLE_LOCAL,
        link: Some(lo),
        ..Route::to("10.240.0.0/12".parse().unwrap())
    };
    handle.add_route(&local).unwrap();
    netns
}

/// A Service of UDP.
fn put_udp(node: &Node, endpoint: Ipv4Addr) -> SocketAddr {
    let ip = cluster_ip(7);
    let mut dns = service("dns", ip);
    dns["spec"]["ports"][0]["protocol"] = "UDP".into();
    let mut slice = slice("dns", [endpoint], 53);
    slice["ports"][0]["protocol"] = "UDP".into();
    let store = &node.bed.store;
    store.seed(Resource::Service, [dns]).unwrap();
    store.seed(Resource::EndpointSlice, [slice]).unwrap();
    (ip, 80).into()
}

/// A socket in another namespace is ended when its endpoint leaves. Its thread stays there: that is
/// how the namespace is found.
fn ends_sockets(node: &Node, proxy: &Proxy, round: usize) {
    let pod = pod();
    let dns = put_udp(node, endpoint_ip(7, round, 10));
    let (connected, when_connected) = channel();
    let wait_for_the_end = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // Without translation there is no way.
        wait_until("connect", PATIENCE, || socket.connect(dns).is_ok()).unwrap();
        connected.send(()).unwrap();
        socket.recv(&mut [0; 8]).unwrap_err()
    };
    let in_the_pod = move || node.cell.inside(|| pod.run(wait_for_the_end).unwrap());
    let error = thread::scope(|scope| {
        let waits = scope.spawn(in_the_pod);
        when_connected.recv().unwrap();
        put_udp(node, endpoint_ip(7, round + 1, 10));
        waits.join().unwrap()
    });
    let log = proxy.log().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{log}");
}

/// Endpoints change, pins are removed, an interface comes.
fn works(node: &Node, proxy: &Proxy, round: usize) {
    for port in [PORTS[1], PORTS[0]] {
        let web = node.put("web", 0, port);
        node.wait_for(web, port);
    }
    ends_sockets(node, proxy, round);
    let links = node.cell.options().pins.join("links");
    let connect4 = links.join("connect4");
    std::fs::remove_file(&connect4).unwrap();
    wait_until("programs again", PATIENCE, || connect4.exists()).unwrap();

    let (index, pin) = node.add_link("new");
    let mut handle = Handle::open_in(&node.bed.netns).unwrap();
    handle.delete_link(index).unwrap();
    wait_until("the pin gone", PATIENCE, || !pin.exists()).unwrap();
}

/// Starts a daemon as `command` begins it, and has it execute itself anew.
fn starts_and_works(command: Command, capabilities: &[u32]) {
    let node = &Node::new();
    let web = node.put("web", 0, PORTS[0]);
    let config = configuration(node, "ebpf", 10249);
    let [cgroup, pins] = &node.cell.flags();
    let proxy = node.bed.command(command, &[&config, cgroup, pins]).unwrap();
    node.wait_for(web, PORTS[0]);
    keeps(&proxy, capabilities);
    works(node, &proxy, 0);
    configuration(node, "ebpf", 10250);
    let metrics = ([127, 0, 0, 1], 10250).into();
    let there = || get(&node.bed.netns, metrics, "/proxyMode").is_ok();
    wait_until("the other address", PATIENCE, there).unwrap();
    works(node, &proxy, 1);
    keeps(&proxy, capabilities);
    assert!(proxy.terminate().unwrap().success());
    node.inside(|| ask(web)).unwrap();
}

const ALL: [u32; 6] = [BPF, NET_ADMIN, NET_RAW, PERFMON, SYS_ADMIN, SYS_PTRACE];

#[test]
fn the_daemon_keeps_what_it_needs_and_that_is_enough() {
    let program = causeway_tests::binary("causeway-proxy");
    let all = [&ALL[..], &[NET_BIND_SERVICE]].concat();
    in_a_cell(move || starts_and_works(Command::new(program), &all));
}

#[test]
fn to_start_it_takes_no_more_either() {
    let mut command = Command::new("setpriv");
    let bounded = "--bounding-set=-all,+bpf,+net_admin,+net_raw,+perfmon,+sys_admin,+sys_ptrace";
    command
        .arg(bounded)
        .arg(causeway_tests::binary("causeway-proxy"));
    in_a_cell(|| starts_and_works(command, &ALL));
}

/// To go where it takes what was given up, the daemon ends and asks to be started again, as the kubelet
/// does: connections go on all the while.
fn goes_on_in_ebpf(mode: &'static str) {
    in_a_cell(move || {
        // In mode nftables packets must have a way on which they are translated.
        let node = &Node {
            bed: Bed::new().unwrap(),
            cell: Cell::new(),
        };
        let web = node.put("web", 0, PORTS[0]);
        let talk = node.put("talk", 1, ECHO_PORT);
        let config = configuration(node, "nftables", 10249);
        let [cgroup, pins] = &node.cell.flags();
        let flags = [&config[..], cgroup, pins];
        let mut proxy = node.bed.proxy(&flags).unwrap();
        node.wait_for(web, PORTS[0]);
        let mut stream = node.connect(talk);
        echo(&mut stream);
        configuration(node, mode, 10249);
        assert_eq!(proxy.wait(PATIENCE).unwrap().code(), Some(1));
        let log = proxy.log().unwrap();
        let asks = "needs CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, which were given up at \
                    the start: whoever started this process is asked";
        assert!(log.contains(asks), "{log}");
        echo(&mut stream);
        assert_eq!(node.inside(|| ask(web).unwrap()), PORTS[0]);

        let proxy = node.bed.proxy(&flags).unwrap();
        let metrics = ([127, 0, 0, 1], 10249).into();
        wait_until("mode ebpf", PATIENCE, || {
            get(&node.bed.netns, metrics, "/proxyMode").is_ok_and(|answer| answer.2 == "ebpf")
        })
        .unwrap();
        node.put("web", 0, PORTS[1]);
        node.wait_for(web, PORTS[1]);
        echo(&mut stream);
        assert!(proxy.terminate().unwrap().success());
    });
}

#[test]
fn a_mode_that_needs_more_is_there_after_a_new_start_and_connections_stay() {
    goes_on_in_ebpf("ebpf");
}

/// Whether the kernel has what it takes, the new start finds out: this one may not ask any more.
#[test]
fn auto_asks_for_a_new_start_as_well_where_mode_ebpf_may_be_had() {
    goes_on_in_ebpf("auto");
}

/// Without sockets to be ended nothing lets it into other namespaces; and it cleans up with as
/// little.
#[test]
fn what_enters_namespaces_goes_with_what_needs_it() {
    in_a_cell(|| {
        let node = &Node::new();
        let web = node.put("web", 0, PORTS[0]);
        let [cgroup, pins] = &node.cell.flags();
        let bounded = || {
            let mut command = Command::new("setpriv");
            command.arg("--bounding-set=-all,+bpf,+net_admin,+net_raw,+perfmon");
            command.arg(causeway_tests::binary("causeway-proxy"));
            command
        };
        let flags = ["--proxy-mode=ebpf", "--ebpf-connect-udp=false"];
        let flags = [&flags[..], &[cgroup, pins]].concat();
        let proxy = node.bed.command(bounded(), &flags).unwrap();
        node.wait_for(web, PORTS[0]);
        keeps(&proxy, &[BPF, NET_ADMIN, NET_RAW, PERFMON]);
        assert!(proxy.terminate().unwrap().success());
        let cleanup = ["--cleanup", cgroup, pins];
        let mut cleanup = node.bed.command(bounded(), &cleanup).unwrap();
        assert!(cleanup.wait(PATIENCE).unwrap().success());
        assert!(!node.cell.options().pins.exists());
    });
}
