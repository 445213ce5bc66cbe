//! What users of other plugins report, one test each; those shown elsewhere say where.
//!
//! 1. Addresses leak over a reboot: [`crate::reservations`].
//! 3. Masquerading outlives a pod whose namespace is gone:
//!    [`crate::attach`], `del_needs_no_namespace_and_can_be_repeated`; for the spoof check
//!    [`crate::spoof`], for host ports [`crate::ports`].
//! 8. No GC and no STATUS: [`crate::garbage`], [`crate::protocol`].
//! 9. A pair is left when addresses run out: [`crate::refusals`],
//!    `a_full_range_is_said_and_nothing_is_left`; after a crash, [`crate::crash`].

mod frames;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;

use nix::fcntl::{Flock, FlockArg};
use nodekit::netns::{Entry, MountNs};
use nodekit::route::{Handle, Mac, NeighbourState};
use nodekit::sysctl;
use serde_json::{Value, json};

use crate::many::at_once;
use crate::node::{Node, PATIENCE, Pod, SILENCE, address, link};
use frames::{Announcement, Frames};

const BOTH: [&str; 2] = ["10.1.0.0/24", "fd01::/64"];

/// A busy machine may take longer than the three seconds for which the kernel keeps a datagram to a
/// neighbour that does not answer.
fn ask_neighbours_often() {
    for family in ["ipv4", "ipv6"] {
        let key = format!("net/{family}/neigh/eth0/mcast_solicit");
        sysctl::write(&key.parse().unwrap(), "60").unwrap();
    }
}

/// One datagram, sent once: whether it arrives.
fn arrives(from: &Pod, to: &Pod, address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => "0.0.0.0".parse().unwrap(),
        IpAddr::V6(_) => "::".parse().unwrap(),
    };
    let bind = || UdpSocket::bind((any, 0)).unwrap();
    let receiver = to.netns.run(bind).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    from.netns.run(ask_neighbours_often).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sender = from.netns.run(bind).unwrap();
    sender
        .send_to(b"x", SocketAddr::new(address, port))
        .unwrap();
    receiver.recv(&mut [0; 8]).is_ok()
}

/// The Ethernet address that somebody has for an address.
fn known(netns: &nodekit::netns::NetNs, address: IpAddr) -> Option<(Mac, NeighbourState)> {
    let list = || Handle::open().unwrap().neighbours(None).unwrap();
    let found = netns.run(list).unwrap();
    let found = found.into_iter().find(|entry| entry.address == address)?;
    Some((found.mac?, found.state))
}

/// 2: the lock of iptables, and programs that wait for it.
#[test]
fn no_program_is_run_and_no_lock_is_waited_for() {
    let node = Node::new();
    let more = json!({
        "ipMasq": true, "macspoofchk": true,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    });
    let config = node.config(&BOTH, &more);
    let (empty, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lock = std::fs::File::create(run.path().join("xtables.lock")).unwrap();
    let _held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let hidden = |over: &str| (empty.path().to_owned(), PathBuf::from(over));
    let pod = Pod::new("a");
    for command in ["ADD", "DEL"] {
        let binds = vec![
            hidden("/usr/bin"),
            hidden("/usr/sbin"),
            hidden("/usr/lib/cni"),
            (run.path().to_owned(), "/run".into()),
        ];
        let mut process = node.process(command, &pod.id, &pod.path(), &[]);
        let entry = Entry {
            mount: MountNs::Own {
                binds,
                fresh_sys: false,
            },
            ..Entry::default()
        };
        entry.prepare(&mut process, &node.netns).unwrap();
        let mut child = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, config.to_string().as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    node.assert_empty();
}

/// 4: everything that pods share is made by whoever comes first.
#[test]
fn fifty_pods_at_once_on_an_empty_node_with_every_option() {
    for (kind, more) in [
        ("causeway-cni", json!({"forceAddress": true})),
        (
            "bridge",
            json!({"hairpinMode": true, "portIsolation": true}),
        ),
        ("bridge", json!({"promiscMode": true, "mtu": 1400})),
    ] {
        let node = Node::new();
        let mut config = node.config(&BOTH, &more);
        for (key, value) in [
            ("type", json!(kind)),
            ("ipMasq", json!(true)),
            ("macspoofchk", json!(true)),
        ] {
            config[key] = value;
        }
        let pods: Vec<_> = (0..50).map(|n| Pod::new(&format!("pod-{n}"))).collect();
        at_once(&pods, 50, |pod| {
            let mut config = config.clone();
            let port = 1000 + pod.id[4..].parse::<u16>().unwrap();
            config["runtimeConfig"] = json!({"portMappings": [
                {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
            ]});
            let result = node.call("ADD", pod, &config).result();
            config["prevResult"] = result;
            node.call("CHECK", pod, &config).result();
        });
        assert_eq!(
            (node.ports().len(), node.reserved().len()),
            (50, 100),
            "{kind}"
        );
        assert_eq!(node.masqueraded().len(), 100);
        at_once(&pods, 16, |pod| {
            node.call("DEL", pod, &config).result();
        });
        node.assert_empty();
    }
}

/// 5: the first two seconds of IPv6. Also [`crate::attach`], `ipv6_is_usable_at_once`.
#[test]
fn the_first_packet_of_ipv6_arrives() {
    let node = Node::new();
    let config = node.config(&["fd01::/64"], &json!({}));
    let mut before: Option<Pod> = None;
    for number in 0..5 {
        let pod = Pod::new(&format!("pod-{number}"));
        let result = node.call("ADD", &pod, &config).result();
        let own = address(&result, 0);
        let held = || Handle::open().unwrap().addresses(None).unwrap();
        let held = pod.netns.run(held).unwrap();
        let own_one = held.iter().find(|held| held.address.ip() == own).unwrap();
        assert!(!own_one.tentative, "{held:?}");
        if let Some(before) = &before {
            assert!(arrives(before, &pod, own), "pod {number}");
        }
        before = Some(pod);
    }
}

/// 6: neighbours hear of a pod, each time, in both families.
#[test]
fn a_pods_addresses_are_announced_beyond_its_port() {
    let node = Node::new();
    let config = node.config(&BOTH, &json!({}));
    let listener = Pod::new("listener");
    node.call("ADD", &listener, &config).result();
    for number in 0..10 {
        let frames = Frames::of(&listener.netns);
        let pod = Pod::new(&format!("pod-{number}"));
        let result = node.call("ADD", &pod, &config).result();
        let mac = pod.link("eth0").unwrap().mac.unwrap();
        for family in [0, 1] {
            let address = address(&result, family);
            assert!(
                frames.has(Announcement { address, mac }),
                "pod {number}: {address}"
            );
        }
    }
}

/// 6: an address with another Ethernet address than before is found at once, by the node and by
/// pods that knew it.
#[test]
fn an_address_that_went_to_another_pod_is_found_there_at_once() {
    let node = Node::new();
    let base = node.config(&BOTH, &json!({}));
    let neighbour = Pod::new("neighbour");
    node.call("ADD", &neighbour, &base).result();
    for mac in ["02:00:00:00:00:01", "02:00:00:00:00:02"] {
        let mut config = base.clone();
        config["runtimeConfig"] = json!({"mac": mac, "ips": ["10.1.0.99", "fd01::99"]});
        let pod = Pod::new(mac.get(15..).unwrap());
        let result = node.call("ADD", &pod, &config).result();
        let wanted: Mac = mac.parse().unwrap();
        for family in [0, 1] {
            let address = address(&result, family);
            let by_node = known(&node.netns, address);
            assert_eq!(by_node.map(|(mac, _)| mac), Some(wanted), "{address}");
            assert!(arrives(&neighbour, &pod, address), "{address}");
            let by_neighbour = known(&neighbour.netns, address);
            assert_eq!(by_neighbour.map(|(mac, _)| mac), Some(wanted), "{address}");
        }
        node.call("DEL", &pod, &config).result();
    }
}

/// 7: Ethernet addresses that change with the ports. Also [`crate::attach`],
/// `the_bridges_address_is_pinned` and
/// `an_address_keeps_its_hardware_address_when_it_goes_to_another_pod`.
#[test]
fn the_address_of_a_bridge_that_somebody_else_made_is_pinned_too() {
    let node = Node::new();
    let make = || {
        let bridge = nodekit::route::NewBridge {
            name: "br0",
            mac: None,
            mtu: None,
            vlan_filtering: None,
            up: false,
        };
        Handle::open().unwrap().create_bridge(&bridge).unwrap();
    };
    node.netns.run(make).unwrap();
    let config = node.config(&BOTH, &json!({}));
    let first = Pod::new("a");
    node.call("ADD", &first, &config).result();
    let mac = link(&node.netns, "br0").unwrap().mac;
    let mut lower = config.clone();
    lower["runtimeConfig"] = json!({"mac": "02:00:00:00:00:01"});
    let second = Pod::new("b");
    node.call("ADD", &second, &lower).result();
    node.call("DEL", &first, &config).result();
    assert_eq!(link(&node.netns, "br0").unwrap().mac, mac);
}

/// 9: the bridge stays when its last pod goes: to delete it would be a race with every ADD, and
/// take the node's routes away; it costs nothing. It serves the next pod as it did the first.
#[test]
fn the_bridge_stays_as_it_was_for_the_next_pod() {
    let node = Node::new();
    let config = node.config(&BOTH, &json!({}));
    let bridge = || link(&node.netns, "br0").unwrap();
    let held = || {
        let addresses = Handle::open().unwrap().addresses(None).unwrap();
        let given = addresses.iter().filter(|held| u8::from(held.scope) == 0);
        given.count()
    };
    let mut seen: Option<(u32, Option<Mac>, usize)> = None;
    for id in ["a", "b", "c"] {
        let pod = Pod::new(id);
        node.call("ADD", &pod, &config).result();
        node.call("DEL", &pod, &config).result();
        let now = (bridge().index, bridge().mac, node.netns.run(held).unwrap());
        assert_eq!(*seen.get_or_insert(now), now);
    }
}

/// 10: a pod reaches itself by a port of its node, and hears everything once. Hairpin is on for the
/// type `causeway-cni` unless told otherwise, and as the reference has it for the type `bridge`.
#[test]
fn a_pod_reaches_itself_and_hears_nothing_twice() {
    let node = Node::new();
    let hairpin = |kind: &str, more: &Value| {
        let mut config = node.config(&["10.1.0.0/24"], more);
        config["type"] = kind.into();
        let pod = Pod::new("a");
        let result = node.call("ADD", &pod, &config).result();
        let end = result["interfaces"][1]["name"].as_str().unwrap();
        let on = link(&node.netns, end).unwrap().port.unwrap().hairpin;
        node.call("DEL", &pod, &config).result();
        on
    };
    assert!(hairpin("causeway-cni", &json!({})));
    assert!(!hairpin("causeway-cni", &json!({"hairpinMode": false})));
    assert!(!hairpin("causeway-cni", &json!({"promiscMode": true})));
    assert!(!hairpin("bridge", &json!({})));
    assert!(hairpin("bridge", &json!({"hairpinMode": true})));

    let mut config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": true}));
    config["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
    ]});
    let pod = Pod::new("a");
    let result = node.call("ADD", &pod, &config).result();
    let gateway = result["ips"][0]["gateway"].as_str().unwrap();
    let [server, client] = ["0.0.0.0:53", "0.0.0.0:0"]
        .map(|own| pod.netns.run(|| UdpSocket::bind(own).unwrap()).unwrap());
    for number in 0..10_u8 {
        client
            .send_to(&[number], format!("{gateway}:5353"))
            .unwrap();
    }
    let mut byte = [0; 1];
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    for number in 0..10 {
        server.recv(&mut byte).unwrap();
        assert_eq!(byte, [number]);
    }
    server.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(server.recv(&mut byte).is_err(), "once each");
}
