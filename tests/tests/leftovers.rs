//! What a kube-proxy in mode ipvs left in iptables. Not among the tests that `cargo test` runs: they
//! need a kernel with ipset, and `scripts/vm` runs them under one.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, sure_answer, wait_for, wait_until};
use netns_lab::apiserver::Resource;
use nodekit::ipset::IpSets;
use nodekit::netlink::{AttrWriter, NLM_F_CREATE, NLM_F_EXCL, Protocol, Socket};
use nodekit::xtables::{Family, Variant, Xtables};

/// An emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// What kube-proxy writes for IPv4 (`pkg/proxy/ipvs/proxier.go` of Kubernetes 1.36), as iptables
/// lists it.
const RULES: &str = include_str!("../../crates/lb-plan/tests/inputs/ipvs.iptables");

/// The sets that they ask, by type.
const SETS: [(&str, &[&str]); 5] = [
    (
        "hash:ip,port",
        &[
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "EXTERNAL-IP-LOCAL",
            "LOAD-BALANCER",
            "LOAD-BALANCER-FW",
            "LOAD-BALANCER-LOCAL",
            "NODE-PORT-SCTP-HASH",
            "NODE-PORT-LOCAL-SCTP-HASH",
        ],
    ),
    ("hash:ip,port,ip", &["LOOP-BACK", "LOAD-BALANCER-SOURCE-IP"]),
    ("hash:ip,port,net", &["LOAD-BALANCER-SOURCE-CIDR"]),
    (
        "bitmap:port",
        &[
            "NODE-PORT-TCP",
            "NODE-PORT-LOCAL-TCP",
            "NODE-PORT-UDP",
            "NODE-PORT-LOCAL-UDP",
            "HEALTH-CHECK-NODE-PORT",
        ],
    ),
    ("hash:ip", &["IPVS-IPS"]),
];

/// Somebody else's set, of a name as kube-router gives them.
const OTHERS: &str = "KUBE-DST-3YNVZWWGX3UQQ4VQ";

/// The name of a set. kube-proxy cuts what is too long for the kernel.
fn set_name(family: Family, rest: &str) -> String {
    let prefix = match family {
        Family::Ip => "KUBE-",
        Family::Ip6 => "KUBE-6-",
    };
    let mut name = format!("{prefix}{rest}");
    name.truncate(31);
    name
}

/// As `ipset create NAME KIND`.
fn create(socket: &mut Socket, family: Family, name: &str, kind: &str) {
    let ports = kind == "bitmap:port";
    let number = match family {
        _ if ports => 0,
        Family::Ip => 2,
        Family::Ip6 => 10,
    };
    // `IPSET_ATTR_PROTOCOL`, `_SETNAME`, `_TYPENAME`, `_REVISION`, `_FAMILY`, `_DATA`.
    let mut request = AttrWriter::onto(vec![0; 4]);
    request
        .u8(1, 6)
        .string(2, name)
        .string(3, kind)
        .u8(4, 1)
        .u8(5, number)
        .nested(7, |data| {
            if ports {
                // `IPSET_ATTR_PORT`, `_PORT_TO`, in network order (`NLA_F_NET_BYTEORDER`).
                data.u16_be(4 | 1 << 14, 0).u16_be(5 | 1 << 14, u16::MAX);
            }
        });
    let request = request.finish().unwrap();
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    socket.request(&name, 6 << 8 | 2, flags, &request).unwrap();
}

/// The rules in a family's words.
fn rules(family: Family) -> String {
    let mut text = RULES.to_owned();
    if family == Family::Ip6 {
        text = text.replace("-s 127.0.0.0/8", "-s ::1/128");
        for rest in SETS.iter().flat_map(|(_, rests)| *rests) {
            let named = |name: &str| format!("--match-set {name} ");
            let [ipv4, ipv6] = [Family::Ip, Family::Ip6].map(|family| set_name(family, rest));
            text = text.replace(&named(&ipv4), &named(&ipv6));
        }
    }
    text
}

/// Has kube-proxy run on the node, and leaves.
fn kube_proxy_was_here(bed: &Bed, variant: Variant) {
    let work = || {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        for family in [Family::Ip, Family::Ip6] {
            for (kind, rests) in SETS {
                for rest in rests {
                    create(&mut socket, family, &set_name(family, rest), kind);
                }
            }
            let xtables = Xtables::of(family, variant).unwrap();
            xtables.restore(&rules(family)).unwrap();
        }
        create(&mut socket, Family::Ip, OTHERS, "hash:ip");
    };
    bed.netns.run(work).unwrap();
    assert_eq!(sets(bed).len(), 2 * 17 + 1);
}

fn sets(bed: &Bed) -> Vec<String> {
    let list = || IpSets::open().unwrap().list().unwrap();
    let all = bed.netns.run(list).unwrap();
    all.into_iter().map(|set| set.name).collect()
}

/// Lines of both families that name chains of kube-proxy's.
fn lines(bed: &Bed, variant: Variant) -> Vec<String> {
    let mut found = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        let xtables = Xtables::of(family, variant).unwrap();
        let mut keep = |line: &str| {
            if line.contains("KUBE-") {
                found.push(line.to_owned());
            }
        };
        bed.netns
            .run(|| xtables.save(None, &mut keep))
            .unwrap()
            .unwrap();
    }
    found
}

fn serve(bed: &Bed) -> SocketAddr {
    let store = &bed.store;
    let web = service("web", cluster_ip(0));
    store.seed(Resource::Service, [web]).unwrap();
    let endpoints = slice("web", [endpoint_ip(0, 0, 10)], PORTS[0]);
    store.seed(Resource::EndpointSlice, [endpoints]).unwrap();
    (cluster_ip(0), 80).into()
}

/// A proxy that starts in `mode` has nothing of it left; gives what there is in iptables then.
fn removed_by(mode: &str, variant: Variant) -> Vec<String> {
    let bed = Bed::new().unwrap();
    let web = serve(&bed);
    kube_proxy_was_here(&bed, variant);
    let proxy = bed.proxy(&["--proxy-mode", mode]).unwrap();
    let done = wait_for(&bed.netns, web, PORTS[0], PATIENCE)
        .and_then(|_| wait_until("only the others' set", PATIENCE, || sets(&bed) == [OTHERS]));
    assert!(done.is_ok(), "{done:?}: {}", proxy.log().unwrap());
    let said = "removed the ipsets that kube-proxy left";
    wait_until(said, PATIENCE, || proxy.log().unwrap().contains(said)).unwrap();
    assert_eq!(bed.netns.run(|| sure_answer(web)).unwrap(), Some(PORTS[0]));
    assert!(proxy.terminate().unwrap().success());
    lines(&bed, variant)
}

#[test]
fn in_mode_nftables_nothing_is_left_of_it() {
    for variant in Variant::ALL {
        assert_eq!(removed_by("nftables", variant), [""; 0], "{variant}");
    }
}

#[test]
fn in_mode_iptables_only_the_chains_are_left_that_it_has_too() {
    for variant in Variant::ALL {
        let left = removed_by("iptables", variant);
        assert!(left.iter().any(|line| line.contains("KUBE-SERVICES")));
        for gone in [
            "KUBE-IPVS",
            "KUBE-NODE-PORT",
            "KUBE-LOAD-BALANCER",
            "KUBE-SOURCE-RANGES",
            "match-set",
        ] {
            let found: Vec<_> = left.iter().filter(|line| line.contains(gone)).collect();
            assert!(found.is_empty(), "{variant}: {found:?}");
        }
    }
}

#[test]
fn cleanup_removes_it() {
    for variant in Variant::ALL {
        let bed = Bed::new().unwrap();
        kube_proxy_was_here(&bed, variant);
        for _ in 0..2 {
            let mut cleanup = bed.proxy(&["--cleanup"]).unwrap();
            let status = cleanup.wait(PATIENCE).unwrap();
            assert!(status.success(), "{}", cleanup.log().unwrap());
        }
        assert_eq!(sets(&bed), [OTHERS]);
        assert_eq!(lines(&bed, variant), [""; 0]);
    }
}

#[test]
fn a_set_that_others_rules_ask_stays_and_is_named() {
    let bed = Bed::new().unwrap();
    let variant = Variant::Nft;
    kube_proxy_was_here(&bed, variant);
    let name = set_name(Family::Ip, "CLUSTER-IP");
    let rule = format!("*raw\n-A OUTPUT -m set --match-set {name} dst,dst -j ACCEPT\nCOMMIT\n");
    let xtables = Xtables::of(Family::Ip, variant).unwrap();
    bed.netns.run(|| xtables.restore(&rule)).unwrap().unwrap();
    let mut cleanup = bed.proxy(&["--cleanup"]).unwrap();
    assert_eq!(cleanup.wait(PATIENCE).unwrap().code(), Some(1));
    let log = cleanup.log().unwrap();
    let told = format!("the ipset {name} is used by 1 rules or sets that are not kube-proxy's");
    assert!(log.contains(&told), "{log}");
    assert_eq!(sets(&bed), [name, OTHERS.to_owned()]);
}
