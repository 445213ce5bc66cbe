//! `causeway-proxy monitor`, which tells what happens as it happens.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use aya::maps::{Array, Map, MapData};
use causeway_ebpf_abi::maps;
use causeway_proxy::backend::ebpf::map_pin;
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::looks::shown;
use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, at, node_port, node_port_service, service};

/// It, running.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

fn command(node: &Node<'_>, flags: &[&str]) -> Command {
    let mut command = Command::new(causeway_tests::binary("causeway-proxy"));
    command.arg("monitor").arg("--ebpf-pin-dir");
    command.arg(node.cell.options().pins).args(flags);
    command
}

/// Their connects and closes are more than there is room for.
const SOCKETS: u64 = 10_000;

/// The map that says until when the programs tell, in nanoseconds.
fn watch(node: &Node<'_>) -> Array<MapData, u64> {
    let pin = map_pin(&node.cell.options().pins, maps::WATCH);
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    Array::try_from(map).unwrap()
}

fn until(node: &Node<'_>) -> u64 {
    watch(node).get(&0, 0).unwrap()
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap()
}

impl Monitor {
    /// It watches when this returns.
    fn start(node: &Node<'_>, flags: &[&str]) -> Self {
        let mut command = command(node, flags);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (written, lines) = channel();
        // It ends with the monitor.
        thread::spawn(move || out.lines().try_for_each(|line| written.send(line.unwrap())));
        wait_until("a lease", PATIENCE, || until(node) > now()).unwrap();
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    fn event(&self) -> Value {
        let mut event: Value = serde_json::from_str(&self.line()).unwrap();
        let event = event.as_object_mut().unwrap();
        // Its time and namespace are nobody's to know beforehand.
        assert!(event.remove("timeUnixNano").unwrap().as_u64().unwrap() > 0);
        if event["hook"] == "socket" {
            assert!(event.remove("netnsCookie").unwrap().is_u64());
        }
        Value::Object(event.clone())
    }

    /// All lines that are left when it was told to stop.
    fn stop(mut self) -> Vec<String> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        let rest = self.lines.iter().collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Of a socket that talks to Service 1.
fn socket(event: &str, protocol: &str, frontend: SocketAddr, backend: &str) -> Value {
    json!({
        "hook": "socket", "event": event, "dropped": false, "protocol": protocol,
        "service": format!("default/s1:{protocol}"),
        "frontend": frontend.to_string(), "backend": backend,
    })
}

#[test]
fn sockets_are_told_of_as_they_connect_and_close_without_a_daemon() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        world.serve(node.bed, &service(2), &[]);
        world.serve(node.bed, &node_port_service(3), &[2]);
        drop(node.start_for_sockets_only(&mut world));
        let pod = node.bed.pod(1);
        node.tcp(pod, at(Family::V4, 1)).unwrap();
        assert_eq!(until(node), 0, "nobody watches");

        let monitor = Monitor::start(node, &["--json"]);
        for (family, backend) in [
            (Family::V4, "10.244.2.2:8080"),
            (Family::V6, "[fd00:244:2::2]:8080"),
        ] {
            let to = at(family, 1);
            node.tcp(pod, to).unwrap();
            assert_eq!(monitor.event(), socket("connected_tcp", "tcp", to, backend));
            assert_eq!(monitor.event(), socket("closed", "tcp", to, backend));
            let sends = || {
                let socket = UdpSocket::bind((pod.ip(family), 0)).unwrap();
                for _ in 0..3 {
                    socket.send_to(b"?", to).unwrap();
                }
            };
            node.inside(pod, sends);
            assert_eq!(monitor.event(), socket("sent", "udp", to, backend));

            let nobody = at(family, 2);
            node.tcp(pod, nobody).unwrap_err();
            let refused = |event: &str, to: SocketAddr, service: &str| {
                json!({
                    "hook": "socket", "event": event, "dropped": true, "protocol": "tcp",
                    "frontend": to.to_string(), "service": service,
                })
            };
            let event = refused("no_endpoint", nobody, "default/s2:tcp");
            assert_eq!(monitor.event(), event);
            let taken = node_port(node.bed, family, 3);
            let bind = || TcpListener::bind(taken).unwrap_err();
            node.inside(&node.bed.node, bind);
            let event = refused("bind_to_node_port", taken, "default/s3:tcp");
            assert_eq!(monitor.event(), event);
        }
        assert_eq!(monitor.stop(), [""; 0]);
        assert_eq!(until(node), 0);
    });
}

#[test]
fn lines_are_for_people_and_one_can_ask_for_drops_only() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        world.serve(node.bed, &service(2), &[]);
        let _proxy = node.start_for_sockets_only(&mut world);
        let pod = node.bed.pod(1);
        for (flags, words) in [
            (
                &[][..],
                "connected_tcp tcp netns * > 10.96.0.1:80 > 10.244.2.2:8080 default/s1:tcp",
            ),
            (
                &["--drops"],
                "no_endpoint tcp netns * > 10.96.0.2:80 default/s2:tcp",
            ),
        ] {
            let monitor = Monitor::start(node, flags);
            node.tcp(pod, at(Family::V4, 1)).unwrap();
            node.tcp(pod, at(Family::V4, 2)).unwrap_err();
            let line = monitor.line();
            let found: Vec<&str> = line.split_whitespace().skip(2).collect();
            let wanted: Vec<&str> = words.split(' ').collect();
            assert_eq!(found.len(), wanted.len(), "{line}");
            let same = |(found, wanted): (&&str, &&str)| *wanted == "*" || found == wanted;
            assert!(found.iter().zip(&wanted).all(same), "{line}");
            // What comes next doesn't find this one's lease.
            monitor.stop();
        }
    });
}

#[test]
fn there_is_one_at_a_time_and_a_killed_one_is_forgotten() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let _proxy = node.start_for_sockets_only(&mut world);
        let mut monitor = Monitor::start(node, &["--json"]);
        let second = command(node, &[]).output().unwrap();
        assert!(!second.status.success());
        let error = String::from_utf8_lossy(&second.stderr);
        assert!(error.contains("somebody watches already"), "{error}");

        monitor.child.kill().unwrap();
        monitor.child.wait().unwrap();
        wait_until("the lease is over", PATIENCE * 4, || until(node) < now()).unwrap();
        // Nobody hears of this.
        let pod = node.bed.pod(1);
        node.tcp(pod, at(Family::V4, 1)).unwrap();
        let monitor = Monitor::start(node, &["--json"]);
        let to = at(Family::V6, 1);
        node.tcp(pod, to).unwrap();
        let backend = "[fd00:244:2::2]:8080";
        assert_eq!(monitor.event(), socket("connected_tcp", "tcp", to, backend));
    });
}

#[test]
fn what_there_was_no_room_for_is_said() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &service(1), &[2]);
        let _proxy = node.start_for_sockets_only(&mut world);
        let monitor = Monitor::start(node, &["--json"]);
        let pid = Pid::from_raw(monitor.child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        let pod = node.bed.pod(1);
        let many = || {
            for _ in 0..SOCKETS {
                let socket = UdpSocket::bind((pod.ip(Family::V4), 0)).unwrap();
                socket.connect(at(Family::V4, 1)).unwrap();
            }
        };
        watch(node).set(0, u64::MAX, 0).unwrap();
        node.inside(pod, many);
        kill(pid, Signal::SIGCONT).unwrap();
        let (mut told, mut lost) = (0, 0);
        for line in monitor.stop() {
            let line: Value = serde_json::from_str(&line).unwrap();
            match line["lost"].as_u64() {
                Some(more) => lost += more,
                None => told += 1,
            }
        }
        assert_eq!(told + lost, 2 * SOCKETS);
        assert!(lost > 0);
    });
}

#[test]
fn packets_of_clients_outside_are_told_of() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2]);
        world.serve(node.bed, &node_port_service(2), &[]);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        let monitor = Monitor::start(node, &["--json"]);
        for (family, backend) in [
            (Family::V4, "10.244.2.2:8080"),
            (Family::V6, "[fd00:244:2::2]:8080"),
        ] {
            let client = &node.bed.client;
            let of_client = |mut event: Value| {
                let from = event.as_object_mut().unwrap().remove("client").unwrap();
                let from: SocketAddr = from.as_str().unwrap().parse().unwrap();
                assert_eq!(from.ip(), client.ip(family));
                event
            };
            let (to, nobody) = (
                node_port(node.bed, family, 1),
                node_port(node.bed, family, 2),
            );
            client.tcp(to).unwrap();
            let connection = json!({
                "hook": "packet", "event": "connection", "dropped": false, "protocol": "tcp",
                "service": "default/s1:tcp", "frontend": to.to_string(), "backend": backend,
            });
            assert_eq!(of_client(monitor.event()), connection);
            client.tcp(nobody).unwrap_err();
            let refused = json!({
                "hook": "packet", "event": "no_endpoint", "dropped": true, "protocol": "tcp",
                "service": "default/s2:tcp", "frontend": nobody.to_string(),
            });
            assert_eq!(of_client(monitor.event()), refused);
        }
        monitor.stop();
        let rows = shown(node, "traffic");
        let row = |service: &str| rows.iter().find(|row| row["service"] == service).unwrap();
        assert_eq!(row("s1")["connections"], 2);
        assert_eq!(row("s2")["refused"], 2);
    });
}
