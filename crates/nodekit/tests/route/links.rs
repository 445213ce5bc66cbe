//! Links: made, changed, deleted.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{
    Address, BridgePort, Change, Changes, Forwarding, Handle, LinkChange, Mac, Neighbour,
    NewBridge, NewVxlan, VethEnd, VethPair,
};

use nodekit::sysctl::{self, Key};

use super::{FAR, NEAR, Pair, ip, ip_json, pair};

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
        there,
        mut handle,
        here: _here,
        ..
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
        there: _there,
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
        .set_bridge_port("near", BridgePort::default(), None)
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
    let alias = Some("near the bridge");
    handle.set_bridge_port("near", wanted, alias).unwrap();
    let port = handle.link_by_index(link).unwrap();
    assert_eq!(port.alias.as_deref(), alias);
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

const OTHER: Mac = Mac([2, 0, 0, 0, 0, 3]);

/// A bridge, its port, and the namespace of the port's other end; the two links' numbers.
fn bridged() -> (NetNs, NetNs, [u32; 2]) {
    let (netns, pod) = (NetNs::anonymous().unwrap(), NetNs::anonymous().unwrap());
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
    let far = VethEnd {
        netns: Some(pod.as_fd()),
        mac: Some(FAR),
        ..VethEnd::named("eth0")
    };
    let pair = VethPair {
        near: VethEnd::named("port"),
        far,
        near_up: true,
        near_master: Some(bridge),
    };
    handle.create_veth(&pair).unwrap();
    let port = handle.link_by_name("port").unwrap().index;
    (netns, pod, [bridge, port])
}

#[test]
fn a_veth_end_is_born_as_a_bridge_port() {
    let (netns, _pod, [bridge, _]) = bridged();
    let port = Handle::open_in(&netns)
        .unwrap()
        .link_by_name("port")
        .unwrap();
    assert_eq!(port.master, Some(bridge));
    assert_eq!(port.qdisc.as_deref(), Some("noqueue"));
}

#[test]
fn who_is_behind_a_bridge_port_is_known_and_told() {
    let (netns, pod, [bridge, port]) = bridged();
    let mut handle = Handle::open_in(&netns).unwrap();
    assert_eq!(handle.forwarding().unwrap(), []);
    let changes = netns.run(Changes::open).unwrap().unwrap();
    // The bridge gets no addresses of its own, which would be news at any time.
    let key = Key::ipv6_conf("br0", "disable_ipv6").unwrap();
    netns.run(|| sysctl::write(&key, "1")).unwrap().unwrap();
    let mut far = Handle::open_in(&pod).unwrap();
    let link = far.link_by_name("eth0").unwrap().index;
    far.set_up(link).unwrap();
    // What it says as it gets an address teaches the bridge.
    let mut speak = |last: u8| {
        let address = format!("2001:db8::{last}/64").parse().unwrap();
        far.add_address(&Address::new(link, address)).unwrap();
    };
    let mut learns = |mac| {
        let expected = Forwarding { bridge, mac, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !handle.forwarding().unwrap().contains(&expected) {
            assert!(Instant::now() < deadline, "{:?}", handle.forwarding());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    speak(1);
    learns(FAR);
    while changes.wait(Duration::from_millis(300)).unwrap() != Change::Nothing {}
    // Hosts that are met are no news.
    let neighbour = Neighbour::permanent(bridge, ip("192.0.2.9"), NEAR);
    let mut routes = Handle::open_in(&netns).unwrap();
    routes.add_neighbour(&neighbour).unwrap();
    let nothing = changes.wait(Duration::from_secs(1)).unwrap();
    assert_eq!(nothing, Change::Nothing);
    let other = LinkChange {
        mac: Some(OTHER),
        ..LinkChange::default()
    };
    Handle::open_in(&pod)
        .unwrap()
        .change_link(link, &other)
        .unwrap();
    speak(2);
    learns(OTHER);
    let met = changes.wait(Duration::from_secs(1)).unwrap();
    assert_eq!(met, Change::Links);
}

#[test]
fn a_vxlan_device_as_asked_for() {
    let Pair {
        here,
        mut handle,
        link,
        there: _there,
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
