//! Route netlink against this kernel, each test in namespaces of its own, compared with what
//! ip(8) says. Needs root.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;

use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{
    Address, BridgePort, Handle, LinkChange, Mac, Neighbour, NeighbourState, NewBridge, NewVxlan,
    Route, RouteFilter, RouteKind, Scope, TABLE_LOCAL, VethEnd, VethPair,
};
use serde_json::Value;

const NEAR: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
const FAR: Mac = Mac([0x02, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// What `ip -j …` says inside a namespace.
fn ip_json(netns: &NetNs, arguments: &str) -> Vec<Value> {
    let output = netns
        .run(|| {
            Command::new("ip")
                .arg("-d")
                .arg("-j")
                .args(arguments.split(' '))
                .output()
                .unwrap()
        })
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    // For an empty table it prints nothing, or one empty object.
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    found
        .into_iter()
        .filter(|value| value.as_object().is_some_and(|o| !o.is_empty()))
        .collect()
}

/// A namespace with one end of a veth pair that is up, the other end in a second namespace.
struct Pair {
    here: NetNs,
    there: NetNs,
    handle: Handle,
    link: u32,
}

fn pair() -> Pair {
    let (here, there) = (NetNs::anonymous().unwrap(), NetNs::anonymous().unwrap());
    let mut handle = Handle::open_in(&here).unwrap();
    let near = VethEnd {
        mac: Some(NEAR),
        mtu: Some(1400),
        ..VethEnd::named("near")
    };
    let far = VethEnd {
        netns: Some(there.as_fd()),
        mac: Some(FAR),
        mtu: Some(1400),
        ..VethEnd::named("eth0")
    };
    handle
        .create_veth(&VethPair {
            near,
            far,
            near_up: true,
            near_master: None,
        })
        .unwrap();
    let mut inside = Handle::open_in(&there).unwrap();
    let far = inside.link_by_name("eth0").unwrap();
    assert!(!far.up);
    inside.set_up(far.index).unwrap();
    let link = handle.link_by_name("near").unwrap().index;
    Pair {
        here,
        there,
        handle,
        link,
    }
}

#[test]
fn a_veth_pair_is_made_whole_in_two_namespaces() {
    let Pair {
        here,
        there,
        mut handle,
        link,
    } = pair();
    let near = handle.link_by_index(link).unwrap();
    let far = Handle::open_in(&there)
        .unwrap()
        .link_by_name("eth0")
        .unwrap();
    assert_eq!(
        (near.name.as_str(), near.kind.as_deref()),
        ("near", Some("veth"))
    );
    assert_eq!((near.mac, far.mac), (Some(NEAR), Some(FAR)));
    assert_eq!((near.mtu, far.mtu), (1400, 1400));
    assert!(near.up && far.up && near.carrier && far.carrier);
    assert_eq!((near.peer, far.peer), (Some(far.index), Some(near.index)));
    assert!(near.peer_netnsid.is_some());

    let said = &ip_json(&there, "link show eth0")[0];
    assert_eq!(said["address"], FAR.to_string());
    assert_eq!(said["mtu"], 1400);
    assert_eq!(
        ip_json(&here, "link").len(),
        2,
        "lo and near, nothing else was ever here"
    );
    let listed: Vec<String> = handle
        .links()
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert_eq!(listed, ["lo", "near"]);
}

#[test]
fn a_name_in_use_makes_neither_end() {
    let Pair {
        there, mut handle, ..
    } = pair();
    let far = VethEnd {
        netns: Some(there.as_fd()),
        ..VethEnd::named("eth0")
    };
    let near = VethEnd::named("other");
    let pair = VethPair {
        near,
        far,
        near_up: true,
        near_master: None,
    };
    let error = handle.create_veth(&pair).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EEXIST), "{error}");
    assert!(
        error.to_string().contains("other") && error.to_string().contains("eth0"),
        "{error}"
    );
    assert_eq!(
        handle.link_by_name("other").unwrap_err().errno(),
        Some(Errno::ENODEV)
    );
}

#[test]
fn links_are_changed_and_deleted() {
    let Pair {
        here,
        there,
        mut handle,
        link,
    } = pair();
    let change = LinkChange {
        up: Some(false),
        name: Some("renamed"),
        mtu: Some(1280),
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        promiscuous: Some(true),
        ..LinkChange::default()
    };
    handle.change_link(link, &change).unwrap();
    let said = &ip_json(&here, "link show renamed")[0];
    assert_eq!(
        (&said["mtu"], &said["address"]),
        (&1280.into(), &"02:00:00:00:00:09".into())
    );
    assert_eq!(said["promiscuity"], 1);
    let read = handle.link_by_index(link).unwrap();
    assert!(!read.up && read.promiscuous);
    assert_eq!((read.name.as_str(), read.mtu), ("renamed", 1280));
    handle.set_up(link).unwrap();
    assert!(handle.link_by_index(link).unwrap().up);

    let away = LinkChange {
        netns: Some(there.as_fd()),
        name: Some("moved"),
        ..Default::default()
    };
    handle.change_link(link, &away).unwrap();
    let mut inside = Handle::open_in(&there).unwrap();
    inside.link_by_name("moved").unwrap();
    inside.delete_link_by_name("moved").unwrap();
    assert_eq!(ip_json(&there, "link").len(), 1, "both ends are gone");
    let gone = [
        inside.delete_link_by_name("moved"),
        inside.delete_link(link),
        inside.set_up(link),
    ];
    for error in gone.map(Result::unwrap_err) {
        assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
    }
}

#[test]
fn a_bridge_keeps_its_address_and_its_ports_their_settings() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    let pinned = Mac([0x0a, 0x58, 0x0a, 0xf4, 1, 1]);
    let new = NewBridge {
        name: "br0",
        mac: Some(pinned),
        mtu: Some(1400),
        vlan_filtering: None,
        up: true,
    };
    handle.create_bridge(&new).unwrap();
    assert_eq!(
        handle.create_bridge(&new).unwrap_err().errno(),
        Some(Errno::EEXIST)
    );
    let bridge = handle.link_by_name("br0").unwrap();
    assert_eq!(handle.link_by_index(link).unwrap().port, None);
    let no_port = handle
        .set_bridge_port(link, BridgePort::default())
        .unwrap_err();
    assert_eq!(no_port.errno(), Some(Errno::EOPNOTSUPP), "{no_port}");

    let master = LinkChange {
        master: Some(Some(bridge.index)),
        ..LinkChange::default()
    };
    handle.change_link(link, &master).unwrap();
    let wanted = BridgePort {
        hairpin: true,
        isolated: true,
    };
    handle.set_bridge_port(link, wanted).unwrap();
    let port = handle.link_by_index(link).unwrap();
    assert_eq!((port.master, port.port), (Some(bridge.index), Some(wanted)));
    let said = &ip_json(&here, "link show near")[0];
    assert_eq!(said["master"], "br0");
    assert_eq!(said["linkinfo"]["info_slave_data"]["hairpin"], true);
    assert_eq!(said["linkinfo"]["info_slave_data"]["isolated"], true);
    let bridge = handle.link_by_name("br0").unwrap();
    assert_eq!(
        (bridge.mac, bridge.mtu),
        (Some(pinned), 1400),
        "a port changed neither"
    );

    let leave = LinkChange {
        master: Some(None),
        ..LinkChange::default()
    };
    handle.change_link(link, &leave).unwrap();
    assert_eq!(handle.link_by_index(link).unwrap().master, None);
}

#[test]
fn a_veth_end_is_born_as_a_bridge_port() {
    let netns = NetNs::anonymous().unwrap();
    let pod = NetNs::anonymous().unwrap();
    let mut handle = Handle::open_in(&netns).unwrap();
    let new = NewBridge {
        name: "br0",
        mac: None,
        mtu: None,
        vlan_filtering: None,
        up: true,
    };
    handle.create_bridge(&new).unwrap();
    let bridge = handle.link_by_name("br0").unwrap().index;
    let near = VethEnd {
        ..VethEnd::named("port")
    };
    let far = VethEnd {
        netns: Some(pod.as_fd()),
        ..VethEnd::named("eth0")
    };
    handle
        .create_veth(&VethPair {
            near,
            far,
            near_up: true,
            near_master: Some(bridge),
        })
        .unwrap();
    assert_eq!(handle.link_by_name("port").unwrap().master, Some(bridge));
}

#[test]
fn a_vxlan_device_as_asked_for() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    let new = NewVxlan {
        name: "overlay",
        vni: 7,
        local: Some(ip("192.0.2.1")),
        port: 8472,
        underlay: Some(link),
        learning: false,
        mac: Some(Mac([2, 0, 0, 0, 0, 7])),
        mtu: Some(1350),
        up: true,
    };
    handle.create_vxlan(&new).unwrap();
    let said = &ip_json(&here, "link show overlay")[0];
    let data = &said["linkinfo"]["info_data"];
    assert_eq!((&data["id"], &data["port"]), (&7.into(), &8472.into()));
    assert_eq!(
        (&data["local"], &data["link"]),
        (&"192.0.2.1".into(), &"near".into())
    );
    assert_eq!(
        (&data["learning"], &said["mtu"]),
        (&false.into(), &1350.into())
    );
}

#[test]
fn addresses_are_usable_at_once_and_bring_their_route_unless_asked_not_to() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    let v4 = Address {
        noprefixroute: true,
        ..Address::new(link, net("10.1.2.3/24"))
    };
    let v6 = Address::new(link, net("fd00:1::3/64"));
    handle.add_address(&v4).unwrap();
    handle.add_address(&v6).unwrap();
    assert_eq!(
        handle.add_address(&v4).unwrap_err().errno(),
        Some(Errno::EEXIST)
    );
    assert_eq!(
        handle.add_address(&v6).unwrap_err().errno(),
        Some(Errno::EEXIST)
    );
    handle.replace_address(&v6).unwrap();

    let found = handle.addresses(Some(link)).unwrap();
    let read = found.iter().find(|a| a.address == v4.address).unwrap();
    assert_eq!(
        (read.scope, read.noprefixroute, read.nodad),
        (Scope::Universe, true, false)
    );
    let read = found.iter().find(|a| a.address == v6.address).unwrap();
    assert!(
        read.nodad && !read.tentative && !read.dad_failed,
        "{read:?}"
    );
    let all = handle.addresses(None).unwrap();
    assert!(found.iter().all(|address| all.contains(address)));

    let routes = handle
        .routes(RouteFilter {
            link: Some(link),
            table: Some(254),
        })
        .unwrap();
    let to: Vec<_> = routes.iter().map(|route| route.destination).collect();
    assert!(
        to.contains(&net("fd00:1::/64")) && !to.contains(&net("10.1.2.0/24")),
        "{to:?}"
    );
    let said = ip_json(&here, "address show dev near");
    let listed = said[0]["addr_info"].as_array().unwrap();
    assert!(
        listed
            .iter()
            .any(|a| a["local"] == "10.1.2.3" && a["noprefixroute"] == true)
    );

    handle.delete_address(link, v4.address).unwrap();
    let twice = handle.delete_address(link, v4.address).unwrap_err();
    assert_eq!(twice.errno(), Some(Errno::EADDRNOTAVAIL), "{twice}");
    let error = handle
        .add_address(&Address::new(999, net("10.9.9.9/24")))
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
    assert_eq!(
        handle.addresses(Some(999)).unwrap_err().errno(),
        Some(Errno::ENODEV)
    );
}

#[test]
fn routes_of_both_families_are_added_replaced_listed_and_deleted() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    handle
        .add_address(&Address::new(link, net("10.1.2.3/24")))
        .unwrap();
    handle
        .add_address(&Address::new(link, net("fd00:1::3/64")))
        .unwrap();
    for (to, gateway, elsewhere) in [
        ("10.244.2.0/24", "10.1.2.1", "10.1.2.77"),
        ("fd00:2::/64", "fd00:1::1", "fd00:1::77"),
    ] {
        let route = Route {
            gateway: Some(ip(gateway)),
            mtu: Some(1300),
            advmss: Some(1200),
            priority: Some(50),
            ..Route::to(net(to))
        };
        handle.add_route(&route).unwrap();
        assert_eq!(
            handle.add_route(&route).unwrap_err().errno(),
            Some(Errno::EEXIST)
        );
        handle
            .replace_route(&Route {
                mtu: Some(1290),
                ..route.clone()
            })
            .unwrap();
        let found = handle
            .routes(RouteFilter {
                link: Some(link),
                table: None,
            })
            .unwrap();
        let found: Vec<_> = found
            .iter()
            .filter(|found| found.destination == net(to))
            .collect();
        assert_eq!(found.len(), 1, "replaced, not added: {found:?}");
        assert_eq!(
            (found[0].gateway, found[0].link),
            (Some(ip(gateway)), Some(link))
        );
        assert_eq!((found[0].mtu, found[0].advmss), (Some(1290), Some(1200)));
        assert_eq!(
            (found[0].priority, found[0].kind),
            (Some(50), RouteKind::Unicast)
        );
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        let said = &ip_json(&here, &format!("{family} route show {to}"))[0];
        assert_eq!(
            (&said["gateway"], &said["metric"]),
            (&gateway.into(), &50.into())
        );
        assert_eq!(said["metrics"][0]["mtu"], 1290);
        let other_gateway = Route {
            gateway: Some(ip(elsewhere)),
            ..Route::to(net(to))
        };
        let other = handle.delete_route(&other_gateway).unwrap_err();
        assert_eq!(other.errno(), Some(Errno::ESRCH), "{other}");
        handle.delete_route(&Route::to(net(to))).unwrap();
        let twice = handle.delete_route(&Route::to(net(to))).unwrap_err();
        assert_eq!(twice.errno(), Some(Errno::ESRCH), "{twice}");
    }
}

#[test]
fn default_onlink_table_and_refusing_routes() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    handle
        .add_address(&Address::new(link, net("10.1.2.3/24")))
        .unwrap();
    let far_away = Route {
        link: Some(link),
        ..Route::default_by(ip("192.0.2.1"))
    };
    let error = handle.add_route(&far_away).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENETUNREACH), "{error}");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    handle
        .add_route(&Route {
            onlink: true,
            ..far_away
        })
        .unwrap();
    assert_eq!(
        ip_json(&here, "route show default")[0]["gateway"],
        "192.0.2.1"
    );
    assert_eq!(
        ip_json(&here, "route show default")[0]["flags"][0],
        "onlink"
    );

    let refusing = Route {
        kind: RouteKind::Blackhole,
        table: 1000,
        ..Route::to(net("10.96.0.0/16"))
    };
    handle.add_route(&refusing).unwrap();
    let listed = handle
        .routes(RouteFilter {
            link: None,
            table: Some(1000),
        })
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].kind, listed[0].destination),
        (RouteKind::Blackhole, net("10.96.0.0/16"))
    );
    assert_eq!(
        ip_json(&here, "route show table 1000")[0]["type"],
        "blackhole"
    );
    assert_eq!(
        handle
            .routes(RouteFilter {
                link: None,
                table: Some(4321)
            })
            .unwrap(),
        []
    );
    let local = handle
        .routes(RouteFilter {
            link: None,
            table: Some(TABLE_LOCAL),
        })
        .unwrap();
    assert!(
        local.iter().all(|route| route.table == TABLE_LOCAL),
        "{local:?}"
    );
}

#[test]
fn an_ipv4_route_by_an_ipv6_gateway() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    let route = Route {
        gateway: Some(ip("fe80::1")),
        link: Some(link),
        ..Route::to(net("10.244.3.0/24"))
    };
    handle.add_route(&route).unwrap();
    let found = handle
        .routes(RouteFilter {
            link: Some(link),
            table: None,
        })
        .unwrap();
    assert!(
        found
            .iter()
            .any(|r| r.gateway == route.gateway && r.destination == route.destination)
    );
    assert_eq!(
        ip_json(&here, "route show 10.244.3.0/24")[0]["via"]["host"],
        "fe80::1"
    );
}

#[test]
fn neighbours_are_added_listed_deleted_and_flushed() {
    let Pair {
        here,
        mut handle,
        link,
        ..
    } = pair();
    let permanent = Neighbour::permanent(link, ip("10.1.2.9"), FAR);
    let stale = Neighbour {
        address: ip("fd00:1::9"),
        state: NeighbourState::Stale,
        ..permanent
    };
    handle.add_neighbour(&permanent).unwrap();
    handle.add_neighbour(&stale).unwrap();
    assert_eq!(
        handle.add_neighbour(&stale).unwrap_err().errno(),
        Some(Errno::EEXIST)
    );
    let found = handle.neighbours(Some(link)).unwrap();
    assert!(
        found.contains(&permanent) && found.contains(&stale),
        "{found:?}"
    );
    let said = ip_json(&here, "neighbour show 10.1.2.9 dev near");
    assert_eq!(
        (&said[0]["lladdr"], &said[0]["state"][0]),
        (&FAR.to_string().into(), &"PERMANENT".into())
    );

    let moved = Neighbour {
        mac: Some(NEAR),
        ..permanent
    };
    handle.replace_neighbour(&moved).unwrap();
    assert!(handle.flush_neighbours(link).unwrap() >= 1);
    let left = handle.neighbours(Some(link)).unwrap();
    assert!(
        left.contains(&moved) && !left.iter().any(|n| n.address == stale.address),
        "{left:?}"
    );
    handle.delete_neighbour(link, moved.address).unwrap();
    let twice = handle.delete_neighbour(link, moved.address).unwrap_err();
    assert_eq!(twice.errno(), Some(Errno::ENOENT), "{twice}");
}
