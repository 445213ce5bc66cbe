use causeway_ebpf_abi::Frontend as Flags;
use lb_model::FrontendKind;

use super::*;

fn endpoint(ip: &str) -> Endpoint {
    Endpoint {
        ip: ip.parse().unwrap(),
        port: 8080,
        local: true,
        delegable: false,
    }
}

fn frontend(address: FrontendAddress, treatment: Treatment) -> Frontend {
    Frontend {
        address,
        kind: FrontendKind::ExternalIp,
        affinity: None,
        allowed_sources: None,
        treatment,
    }
}

const fn vip(protocol: Protocol) -> FrontendAddress {
    FrontendAddress::Vip {
        ip: IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)),
        protocol,
        port: 80,
    }
}

const NODE_PORT: FrontendAddress = FrontendAddress::NodePort {
    family: Family::V4,
    protocol: Protocol::Tcp,
    port: 30_000,
};

fn node() -> Node {
    let ips = |text: &[&str]| text.iter().map(|ip| ip.parse().unwrap()).collect();
    Node {
        own: ips(&["192.0.2.1", "2001:db8::1"]),
        loopback: ips(&["127.0.0.1", "::1"]),
        here: ips(&["192.0.2.1", "10.244.1.1", "2001:db8::1"]),
        detects: [Family::V4].into(),
        packets: true,
        connected_udp: true,
        external_cluster_ips: true,
        direct: false,
    }
}

fn forward(ips: &[&str], masquerade: Masquerade) -> Treatment {
    Treatment::Forward {
        endpoints: ips.iter().map(|ip| endpoint(ip)).collect(),
        masquerade,
    }
}

/// (last number of the address, view, flags, backends) of each entry.
fn entries(frontend: &Frontend, node: &Node) -> Vec<(u8, u8, u32, usize)> {
    let wanted = wanted(frontend, node, 1).into_iter();
    let entries = wanted.map(|w| (w.key.address[15], w.key.view, w.flags, w.backends.len()));
    entries.collect()
}

#[test]
fn packets_are_masqueraded_as_the_model_says() {
    for (masquerade, detects, flags) in [
        (Masquerade::Never, true, 0),
        (Masquerade::OffCluster, true, Flags::MASQUERADE_OTHERS),
        (Masquerade::OffCluster, false, 0),
        (
            Masquerade::Always,
            false,
            Flags::MASQUERADE_OTHERS | Flags::MASQUERADE_PODS,
        ),
    ] {
        let mut node = node();
        if !detects {
            node.detects.clear();
        }
        let frontend = frontend(vip(Protocol::Tcp), forward(&["10.244.1.2"], masquerade));
        let flags = Flags::SOCKETS | Flags::PACKETS | flags;
        assert_eq!(entries(&frontend, &node), [(1, 0, flags, 1)]);
        assert!(is_taken(&frontend, &node));
        node.packets = false;
        assert_eq!(entries(&frontend, &node), [(1, 0, Flags::SOCKETS, 1)]);
        assert!(!is_taken(&frontend, &node));
    }
}

#[test]
fn policy_local_shows_others_something_else_before_it_says_so() {
    let inside = Flags::SOCKETS | Flags::PACKETS | Flags::OUTSIDE_DIFFERS | Flags::NODE_PORT;
    for (local, flags) in [
        (&["10.244.1.2"][..], Flags::PACKETS),
        (&[], Flags::PACKETS | Flags::DROP),
    ] {
        let local: Vec<_> = local.iter().map(|ip| endpoint(ip)).collect();
        let treatment = Treatment::LocalOnly {
            cluster: vec![endpoint("10.244.1.2"), endpoint("10.244.3.2")],
            local: local.clone(),
        };
        let frontend = frontend(NODE_PORT, treatment);
        let loopback = Flags::SOCKETS | Flags::NODE_ONLY;
        assert_eq!(
            entries(&frontend, &node()),
            [
                (1, FrontendKey::OUTSIDE, flags, local.len()),
                (1, FrontendKey::INSIDE, inside, 2),
                (1, FrontendKey::INSIDE, loopback, 2),
            ]
        );
        assert!(is_taken(&frontend, &node()));
    }
}

#[test]
fn what_packets_do_not_show_is_left_to_another_data_plane() {
    let good = forward(&["10.244.1.2"], Masquerade::Never);
    let here = forward(&["10.244.1.2", "192.0.2.1"], Masquerade::Never);
    let sockets = Flags::SOCKETS;
    for (frontend, flags) in [
        (frontend(vip(Protocol::Sctp), good), None),
        (frontend(vip(Protocol::Tcp), here), Some(sockets)),
    ] {
        assert!(!is_taken(&frontend, &node()), "{frontend:?}");
        let found = entries(&frontend, &node());
        let found: Vec<u32> = found.iter().map(|entry| entry.2).collect();
        assert_eq!(found, Vec::from_iter(flags), "{frontend:?}");
    }
}

#[test]
fn udp_is_left_to_another_data_plane_where_a_socket_that_connects_is_not_translated() {
    let mut node = node();
    let good = || forward(&["10.244.1.2"], Masquerade::Never);
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|one| frontend(vip(one), good()));
    assert!(is_taken(&tcp, &node) && is_taken(&udp, &node));
    node.connected_udp = false;
    assert!(is_taken(&tcp, &node) && !is_taken(&udp, &node));
}

/// (whether it is taken, whether the interfaces need the program, flags) of `frontend` as a ClusterIP,
/// and as an address for clients from outside.
fn of_each_kind(mut frontend: Frontend, node: &Node) -> [(bool, bool, u32); 2] {
    [FrontendKind::ClusterIp, FrontendKind::ExternalIp].map(|kind| {
        frontend.kind = kind;
        let [(_, _, flags, _)] = entries(&frontend, node)[..] else {
            panic!("one entry");
        };
        (
            is_taken(&frontend, node),
            needs_hooks(&frontend, node),
            flags,
        )
    })
}

#[test]
fn cluster_ips_may_be_for_sockets_only_and_need_no_interface_then() {
    let mut node = node();
    let (sockets, both) = (Flags::SOCKETS, Flags::SOCKETS | Flags::PACKETS);
    let good = || {
        let good = forward(&["10.244.1.2"], Masquerade::Never);
        frontend(vip(Protocol::Tcp), good)
    };
    let here = || {
        let here = forward(&["192.0.2.1"], Masquerade::Never);
        frontend(vip(Protocol::Tcp), here)
    };
    let served = (true, true, both);
    assert_eq!(of_each_kind(good(), &node), [served, served]);
    let left = (false, false, sockets);
    assert_eq!(of_each_kind(here(), &node), [left, left]);

    node.external_cluster_ips = false;
    let by_sockets = (true, false, sockets);
    assert_eq!(of_each_kind(good(), &node), [by_sockets, served]);
    assert_eq!(of_each_kind(here(), &node), [by_sockets, left]);

    // Who needs the program is known also where it can't be had.
    node.packets = false;
    let refused = (false, true, sockets);
    assert_eq!(of_each_kind(good(), &node), [by_sockets, refused]);
}

#[test]
fn a_cluster_ip_for_sockets_only_is_left_for_what_no_socket_shows() {
    let mut node = node();
    node.external_cluster_ips = false;
    let mut silent = frontend(vip(Protocol::Tcp), Treatment::Drop);
    silent.kind = FrontendKind::ClusterIp;
    assert!(!is_taken(&silent, &node) && !needs_hooks(&silent, &node));
    let good = forward(&["10.244.1.2"], Masquerade::Never);
    let mut udp = frontend(vip(Protocol::Udp), good);
    udp.kind = FrontendKind::ClusterIp;
    node.connected_udp = false;
    assert!(!is_taken(&udp, &node) && !needs_hooks(&udp, &node));
}

#[test]
fn places_are_said_where_answers_may_go_directly() {
    let places = |kind, affinity: bool, direct| {
        let here = endpoint("10.244.1.2");
        let others = Endpoint {
            local: false,
            delegable: true,
            ..endpoint("10.244.2.2")
        };
        let nobodys = Endpoint {
            local: false,
            ..endpoint("198.51.100.9")
        };
        let forward = Treatment::Forward {
            endpoints: vec![here, others, nobodys],
            masquerade: Masquerade::Always,
        };
        let address = match kind {
            FrontendKind::NodePort => NODE_PORT,
            _ => vip(Protocol::Tcp),
        };
        let mut frontend = frontend(address, forward);
        frontend.kind = kind;
        frontend.affinity = affinity.then_some(30.try_into().unwrap());
        let node = Node { direct, ..node() };
        let first = wanted(&frontend, &node, 1).swap_remove(0);
        let places = first.backends.iter().map(|backend| backend.place);
        places.collect::<Vec<_>>()
    };
    let said = [Backend::HERE, Backend::DELEGABLE, 0];
    assert_eq!(places(FrontendKind::LoadBalancer, false, true), said);
    assert_eq!(places(FrontendKind::ExternalIp, false, true), said);
    for (kind, affinity, direct) in [
        (FrontendKind::LoadBalancer, false, false),
        (FrontendKind::LoadBalancer, true, true),
        (FrontendKind::ClusterIp, false, true),
        (FrontendKind::NodePort, false, true),
    ] {
        assert_eq!(places(kind, affinity, direct), [0; 3], "{kind:?}");
    }
}

/// (whether it is taken, flags, sources) of `frontend`.
fn restricted(frontend: &Frontend, node: &Node) -> (bool, u32, Option<usize>) {
    let [one] = &wanted(frontend, node, 1)[..] else {
        panic!("one entry");
    };
    let sources = one.sources.as_ref().map(BTreeSet::len);
    (is_taken(frontend, node), one.flags, sources)
}

#[test]
fn where_packets_come_from_is_asked_of_packets() {
    let mut node = node();
    let mut ranges = frontend(
        vip(Protocol::Tcp),
        forward(&["10.244.1.2"], Masquerade::Never),
    );
    for (allowed, flags) in [
        (&[][..], 0),
        (&["198.51.100.0/24", "192.0.2.0/24"], 0),
        // With the address itself, as the model says it where the node may come.
        (&["192.0.2.0/24", "203.0.113.1/32"], Flags::NODE_SOCKETS),
    ] {
        let parsed = allowed.iter().map(|range| range.parse().unwrap());
        ranges.allowed_sources = Some(parsed.collect());
        node.packets = true;
        assert!(needs_hooks(&ranges, &node));
        let entry = (true, Flags::PACKETS | flags, Some(allowed.len()));
        assert_eq!(restricted(&ranges, &node), entry);
        // What nobody sees is another data plane's.
        node.packets = false;
        assert_eq!(restricted(&ranges, &node), (false, 0, None));
    }
}

#[test]
fn silence_is_for_packets() {
    let mut node = node();
    let silent = frontend(vip(Protocol::Tcp), Treatment::Drop);
    let flags = Flags::PACKETS | Flags::DROP;
    assert_eq!(restricted(&silent, &node), (true, flags, None));
    node.packets = false;
    assert_eq!(restricted(&silent, &node), (false, 0, None));
}
