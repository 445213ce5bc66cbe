//! Limits: what the kernel holds, what packets make of them, and that nothing stays behind.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nodekit::netns::NetNs;
use nodekit::route::{Handle, Side, Ticks, TokenBucket};
use serde_json::{Value, json};

use crate::node::{Node, Pod, address, link};

/// A pod on a bridge, with the result that a chained plugin gets.
struct Attached {
    pod: Pod,
    result: Value,
}

impl Attached {
    fn new(node: &Node, id: &str) -> Self {
        let pod = Pod::new(id);
        let bridge = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"type": "bridge"}));
        let result = Node {
            netns: node.netns.try_clone().unwrap(),
            ..Node::new()
        }
        .call("ADD", &pod, &bridge)
        .result();
        Self { pod, result }
    }

    fn host_end(&self) -> &str {
        self.result["interfaces"][1]["name"].as_str().unwrap()
    }

    fn config(&self, limits: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "prevResult": self.result,
        });
        for (key, value) in limits.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }
}

/// 1 Mbit/s and 10 kB at once, both ways.
fn both() -> Value {
    json!({
        "ingressRate": 1_000_000, "ingressBurst": 80_000, "egressRate": 2_000_000,
        "egressBurst": 160_000,
    })
}

fn ifbs(netns: &NetNs) -> Vec<String> {
    let links = netns
        .run(|| Handle::open().unwrap().links().unwrap())
        .unwrap();
    let ifbs = links
        .into_iter()
        .filter(|l| l.kind.as_deref() == Some("ifb"));
    ifbs.map(|link| link.name).collect()
}

/// What tc(8) says of a link's disciplines and of the first thing that its filter does. (The
/// reference has a second one there, which no packet reaches.)
fn said(netns: &NetNs, link: &str) -> Value {
    let say = |what: &str, more: &[&str]| {
        let mut tc = Command::new("tc");
        tc.args(["-j", what, "show", "dev", link]).args(more);
        let output = netns.run(|| tc.output().unwrap()).unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let filters = say("filter", &["ingress"]);
    json!([
        say("qdisc", &[]),
        filters[2]["protocol"],
        filters[2]["options"]["actions"][0]
    ])
}

#[test]
fn limits_are_the_references() {
    let mut reference = Node::new();
    reference.program = Path::new("/usr/lib/cni/bandwidth").into();
    let seen = [Node::new(), reference].map(|node| {
        let attached = Attached::new(&node, "pod");
        let config = attached.config(&both());
        let mut result = node.call("ADD", &attached.pod, &config).result();
        let ifb = result["interfaces"][3]["name"].as_str().unwrap().to_owned();
        assert_eq!(ifbs(&node.netns), std::slice::from_ref(&ifb));
        let made = link(&node.netns, &ifb).unwrap();
        assert_eq!(
            result["interfaces"][3]["mac"],
            made.mac.unwrap().to_string()
        );
        result["interfaces"][3]["mac"] = "its own".into();
        let more = result["interfaces"].as_array().unwrap()[3..].to_vec();
        let disciplines = [
            said(&node.netns, attached.host_end()),
            said(&node.netns, &ifb),
        ];
        node.call("CHECK", &attached.pod, &config).result();
        node.call("DEL", &attached.pod, &config).result();
        assert_eq!(ifbs(&node.netns), [""; 0]);
        (ifb, made.mtu, made.up, more, disciplines)
    });
    let [ours, theirs] = seen;
    assert_eq!(ours, theirs);
}

#[test]
fn either_ends_what_the_other_began() {
    let node = Node::new();
    let reference = Node {
        netns: node.netns.try_clone().unwrap(),
        program: Path::new("/usr/lib/cni/bandwidth").into(),
        ..Node::new()
    };
    for (begins, ends) in [(&node, &reference), (&reference, &node)] {
        let attached = Attached::new(
            &node,
            if begins.program == node.program {
                "a"
            } else {
                "b"
            },
        );
        let config = attached.config(&both());
        begins.call("ADD", &attached.pod, &config).result();
        ends.call("CHECK", &attached.pod, &config).result();
        ends.call("DEL", &attached.pod, &config).result();
        assert_eq!(ifbs(&node.netns), [""; 0]);
    }
}

/// How many of 200 datagrams of 1,000 bytes arrive, sent 20 at a time; each time the rest of them
/// is waited for.
fn arrivals(from: &NetNs, to: &NetNs, destination: IpAddr, patience: Duration) -> usize {
    let any: IpAddr = if destination.is_ipv4() {
        "0.0.0.0"
    } else {
        "::"
    }
    .parse()
    .unwrap();
    let bound = |netns: &NetNs| netns.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
    let (sender, receiver) = (bound(from), bound(to));
    receiver.set_read_timeout(Some(patience)).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let mut arrived = 0;
    for round in 1..=10 {
        for _ in 0..20 {
            // A full queue may be told to the sender.
            match sender.send_to(&[0; 1000], (destination, port)) {
                Err(error) if error.kind() != ErrorKind::Other => panic!("{error}"),
                _ => {}
            }
        }
        while arrived < 20 * round && receiver.recv_from(&mut [0; 1000]).is_ok() {
            arrived += 1;
        }
    }
    arrived
}

#[test]
fn packets_beyond_the_limit_do_not_arrive() {
    let node = Node::new();
    // 20 kB at once and 1 kB/s after that; the other direction is free.
    let limited = |direction: &str| {
        json!({"runtimeConfig": {"bandwidth": {
            format!("{direction}Rate"): 8000, format!("{direction}Burst"): 160_000,
        }}})
    };
    for (id, index) in [("in-4", 0), ("in-6", 1), ("out-4", 0), ("out-6", 1)] {
        let incoming = id.starts_with("in");
        let attached = Attached::new(&node, id);
        let config = attached.config(&limited(if incoming { "Ingress" } else { "Egress" }));
        node.call("ADD", &attached.pod, &config).result();
        node.call("CHECK", &attached.pod, &config).result();
        let gateway = attached.result["ips"][index]["gateway"].as_str().unwrap();
        let inside = address(&attached.result, index);
        let into = |patience| arrivals(&node.netns, &attached.pod.netns, inside, patience);
        let out = |patience| {
            let gateway = gateway.parse().unwrap();
            arrivals(&attached.pod.netns, &node.netns, gateway, patience)
        };
        let (long, short) = (Duration::from_secs(5), Duration::from_millis(30));
        // The free direction first: its neighbours are looked up through the limited one.
        let (free, slow) = if incoming {
            (out(long), into(short))
        } else {
            (into(long), out(short))
        };
        assert!(free > 150, "{id}: {free} of 200");
        assert!((1..100).contains(&slow), "{id}: {slow} of 200");
    }
}

#[test]
fn nothing_is_left_without_the_namespace() {
    let node = Node::new();
    let (one, two) = (Attached::new(&node, "one"), Attached::new(&node, "two"));
    let none = json!({"ingressRate": 0});
    for attached in [&one, &two] {
        let config = attached.config(&both());
        node.call("ADD", &attached.pod, &config).result();
    }
    let kept = ifbs(&node.netns);
    assert_eq!(kept.len(), 2);
    // The limits, the result and the namespace may be gone.
    for config in [one.config(&none), one.config(&both())] {
        let input = config.to_string();
        node.call_with("DEL", "one", "", &input, &[]).result();
        assert_eq!(ifbs(&node.netns).len(), 1);
    }
    let bare = json!({"cniVersion": "1.0.0", "name": "net", "type": "bandwidth"});
    node.call_with("DEL", "two", "", &bare.to_string(), &[])
        .result();
    assert_eq!(ifbs(&node.netns), [""; 0]);
}

#[test]
fn gc_keeps_what_is_known_and_other_networks() {
    let node = Node::new();
    let attached: Vec<_> = ["a", "b", "c"].map(|id| Attached::new(&node, id)).into();
    for (index, attached) in attached.iter().enumerate() {
        let mut config = attached.config(&both());
        if index == 2 {
            config["name"] = "another".into();
        }
        node.call("ADD", &attached.pod, &config).result();
    }
    assert_eq!(ifbs(&node.netns).len(), 3);
    let gc = |name: &str, kept: Value| {
        let config = json!({
            "cniVersion": "1.1.0", "name": name, "type": "bandwidth",
            "cni.dev/valid-attachments": kept,
        });
        node.call("GC", &attached[0].pod, &config).result();
        ifbs(&node.netns).len()
    };
    assert_eq!(
        gc("net", json!([{"containerID": "b", "ifname": "eth0"}])),
        2
    );
    node.call("CHECK", &attached[1].pod, &attached[1].config(&both()))
        .result();
    assert_eq!(gc("net", json!([])), 1);
    assert_eq!(gc("another", json!([])), 0);
}

#[test]
fn check_notices_what_changed() {
    let node = Node::new();
    let attached = Attached::new(&node, "pod");
    let config = attached.config(&both());
    let added = node.call("ADD", &attached.pod, &config).result();
    let index = |name: &str| link(&node.netns, name).unwrap().index;
    let (port, ifb) = (
        index(attached.host_end()),
        index(added["interfaces"][3]["name"].as_str().unwrap()),
    );
    let complaint = |change: &(dyn Fn(&mut Handle) + Sync)| {
        node.netns
            .run(|| change(&mut Handle::open().unwrap()))
            .unwrap();
        let (code, text) = node.call("CHECK", &attached.pod, &config).error();
        assert_eq!(code, 102, "{text}");
        text
    };
    let ticks = Ticks::of_kernel().unwrap();
    let other = TokenBucket::new(ticks, 99, 5000, Duration::from_millis(25));
    let text = complaint(&|route| {
        route.delete_qdisc(port, Side::Outgoing).unwrap();
        route.add_token_bucket(port, &other).unwrap();
    });
    assert!(text.contains("99 bytes/s"), "{text}");
    let text = complaint(&|route| route.delete_qdisc(port, Side::Outgoing).unwrap());
    assert!(text.contains("no limit any more"), "{text}");
    let bucket = TokenBucket::new(ticks, 125_000, 10_000, Duration::from_millis(25));
    let text = complaint(&|route| {
        route.add_token_bucket(port, &bucket).unwrap();
        route.delete_qdisc(port, Side::Incoming).unwrap();
    });
    assert!(text.contains("not redirected"), "{text}");
    let text = complaint(&|route| route.delete_link(ifb).unwrap());
    assert!(text.contains("bwp"), "{text}");
}

#[test]
fn a_failing_step_undoes_those_before() {
    let node = Node::new();
    let attached = Attached::new(&node, "pod");
    let port = link(&node.netns, attached.host_end()).unwrap().index;
    let hook = || Handle::open().unwrap().add_ingress(port).unwrap();
    node.netns.run(hook).unwrap();
    let config = attached.config(&both());
    let (code, text) = node.call("ADD", &attached.pod, &config).error();
    assert!(
        code == 101 && text.contains("hook what the pod sends"),
        "{code} {text}"
    );
    assert_eq!(ifbs(&node.netns), [""; 0]);
    let left = |side| {
        node.netns
            .run(|| Handle::open().unwrap().qdisc(port, side).unwrap())
            .unwrap()
            .unwrap()
            .kind
    };
    assert_eq!(left(Side::Outgoing), "noqueue");
    assert_eq!(left(Side::Incoming), "ingress", "it was there before");
}

#[test]
fn what_a_broken_add_left_is_replaced_and_anothers_is_not() {
    let node = Node::new();
    let attached = Attached::new(&node, "pod");
    let config = attached.config(&both());
    let first = node.call("ADD", &attached.pod, &config).result();
    let port = link(&node.netns, attached.host_end()).unwrap().index;
    let forget = |side| {
        node.netns
            .run(|| Handle::open().unwrap().delete_qdisc(port, side).unwrap())
            .unwrap();
    };
    forget(Side::Incoming);
    forget(Side::Outgoing);
    // Only the device is there, as after a crash.
    let second = node.call("ADD", &attached.pod, &config).result();
    assert_eq!(first["interfaces"], second["interfaces"]);
    node.call("CHECK", &attached.pod, &config).result();
    forget(Side::Incoming);
    forget(Side::Outgoing);
    // Another interface of the same container on the same network has the device's name.
    let eth1 = [("CNI_IFNAME", "eth1")];
    let input = config.to_string();
    node.call_with("DEL", "pod", "", &input, &eth1).result();
    assert_eq!(ifbs(&node.netns).len(), 1);
}

#[test]
fn without_limits_the_result_is_passed_on() {
    let node = Node::new();
    let attached = Attached::new(&node, "pod");
    for limits in [json!({}), json!({"egressRate": 0, "egressBurst": 0})] {
        let config = attached.config(&limits);
        let result = node.call("ADD", &attached.pod, &config).result();
        assert_eq!(result, attached.result);
        node.call("CHECK", &attached.pod, &config).result();
    }
    let mut alone = attached.config(&both());
    alone["prevResult"] = Value::Null;
    let (code, text) = node.call("ADD", &attached.pod, &alone).error();
    assert!(code == 7 && text.contains("prevResult"), "{code} {text}");
    let half = attached.config(&json!({"ingressRate": 1000}));
    let (code, text) = node.call("ADD", &attached.pod, &half).error();
    assert!(code == 7 && text.contains("ingressBurst"), "{code} {text}");
    let mut elsewhere = attached.config(&both());
    elsewhere["prevResult"]["interfaces"][1]["name"] = "other".into();
    let (code, text) = node.call("ADD", &attached.pod, &elsewhere).error();
    assert!(code == 7 && text.contains(attached.host_end()), "{text}");
    assert_eq!(ifbs(&node.netns), [""; 0]);
}

#[test]
fn the_combined_type_limits_in_its_one_call() {
    let node = Node::new();
    let containerds = json!({"runtimeConfig": {"bandwidth": {
        "IngressRate": 8000, "IngressBurst": u32::MAX, "EgressRate": 8000, "EgressBurst": u32::MAX,
    }}});
    let config = node.config(&["10.1.0.0/24"], &containerds);
    let pod = Pod::new("pod");
    let result = node.call("ADD", &pod, &config).result();
    let made = ifbs(&node.netns);
    assert_eq!(result["interfaces"][3]["name"], made[0]);
    assert_eq!(result["ips"][0]["interface"], 2);
    let mut told = config.clone();
    told["prevResult"] = result;
    node.call("CHECK", &pod, &told).result();
    let index = link(&node.netns, &made[0]).unwrap().index;
    let delete = || Handle::open().unwrap().delete_link(index).unwrap();
    node.netns.run(delete).unwrap();
    let (code, text) = node.call("CHECK", &pod, &told).error();
    assert!(code == 102 && text.contains(&made[0]), "{code} {text}");
    node.call("DEL", &pod, &config).result();

    // The last DEL may know of neither limits nor namespace.
    let bare = node.config(&["10.1.0.0/24"], &json!({}));
    node.call("ADD", &pod, &config).result();
    node.call_with("DEL", "pod", "", &bare.to_string(), &[])
        .result();
    assert_eq!(ifbs(&node.netns), [""; 0]);
    node.call("ADD", &pod, &config).result();
    let mut gc = bare.clone();
    gc["cniVersion"] = "1.1.0".into();
    gc["cni.dev/attachments"] = json!([]);
    node.call("GC", &pod, &gc).result();
    assert_eq!(ifbs(&node.netns), [""; 0]);
    node.assert_empty();

    // Under the reference's name limits are another plugin's.
    let mut bridge = config;
    bridge["type"] = "bridge".into();
    let pod = Pod::new("another");
    node.call("ADD", &pod, &bridge).result();
    assert_eq!(ifbs(&node.netns), [""; 0]);
}

#[test]
fn the_whole_chain_is_checked_and_deleted() {
    let node = Node::new();
    let attached = Attached::new(&node, "pod");
    let limits = attached.config(&both());
    let last = node.call("ADD", &attached.pod, &limits).result();
    let with = |mut config: Value| {
        config["prevResult"] = last.clone();
        config
    };
    let bridge = with(node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"type": "bridge"})));
    let limits = with(limits);
    for config in [&bridge, &limits] {
        node.call("CHECK", &attached.pod, config).result();
    }
    for config in [&limits, &bridge] {
        node.call("DEL", &attached.pod, config).result();
    }
    assert_eq!(ifbs(&node.netns), [""; 0]);
    assert_eq!(node.ports(), [""; 0]);
}
