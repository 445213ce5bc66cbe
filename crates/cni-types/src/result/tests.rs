use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Version;

fn example() -> Success {
    let value = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "cni0", "mac": "0a:00:00:00:00:01", "mtu": 1500},
            {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/a",
             "socketPath": "/run/s", "pciID": "0000:00:1f.6"},
        ],
        "ips": [
            {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
            {"address": "fd00::5/64", "interface": 1},
            {"address": "10.2.0.5/16", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1300, "priority": 5,
             "table": 100, "scope": 0},
            {"dst": "::/0"},
        ],
        "dns": {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]},
    });
    Success::from_json(&value, Version::V0_1_0).unwrap()
}

#[test]
fn the_newest_shape_is_complete() {
    let success = example();
    let written = success.to_json(Version::V1_1_0).unwrap();
    assert_eq!(written["routes"][0]["advmss"], 1300);
    assert_eq!(written["routes"][0]["scope"], 0);
    assert_eq!(written["interfaces"][1]["pciID"], "0000:00:1f.6");
    assert_eq!(
        Success::from_json(&written, Version::V0_1_0).unwrap(),
        success
    );
}

#[test]
fn older_lists_name_the_family_and_drop_newer_keys() {
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
        assert_eq!(
            example().to_json(version).unwrap(),
            json!({
                "cniVersion": version.as_str(),
                "interfaces": [
                    {"name": "cni0", "mac": "0a:00:00:00:00:01"},
                    {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": "/run/netns/a"},
                ],
                "ips": [
                    {"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
                    {"version": "6", "address": "fd00::5/64", "interface": 1},
                    {"version": "4", "address": "10.2.0.5/16", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0"}],
                "dns": {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]},
            })
        );
    }
    assert!(
        example().to_json(Version::V1_0_0).unwrap()["ips"][0]
            .get("version")
            .is_none()
    );
    assert!(
        example().to_json(Version::V1_0_0).unwrap()["routes"][0]
            .get("mtu")
            .is_none()
    );
}

#[test]
fn the_oldest_shape_has_one_address_a_family() {
    for version in [Version::V0_1_0, Version::V0_2_0] {
        assert_eq!(
            example().to_json(version).unwrap(),
            json!({
                "cniVersion": version.as_str(),
                "ip4": {
                    "ip": "10.1.0.5/16", "gateway": "10.1.0.1",
                    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
                },
                "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "::/0"}]},
                "dns": {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]},
            })
        );
    }
    let empty = Success::default();
    assert!(empty.to_json(Version::V0_2_0).is_err());
    assert_eq!(
        empty.to_json(Version::V0_3_1).unwrap(),
        json!({"cniVersion": "0.3.1", "dns": {}})
    );
}

#[test]
fn the_results_own_version_decides_its_shape() {
    let value = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/8"}});
    let success = Success::from_json(&value, Version::V1_1_0).unwrap();
    assert_eq!(success.ips[0].address.to_string(), "10.0.0.2/8");
    let value = json!({"ip4": {"ip": "10.0.0.2/8"}});
    assert!(
        Success::from_json(&value, Version::V1_1_0)
            .unwrap()
            .ips
            .is_empty()
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (value, place) in [
        (json!({"cniVersion": "3.0.0"}), "result.cniVersion"),
        (
            json!({"ips": [{"address": "10.0.0.1"}]}),
            "result.ips[0].address",
        ),
        (
            json!({"ips": [{"address": "10.0.0.1/8", "interface": 0}]}),
            "result.ips[0].interface",
        ),
        (
            json!({"routes": [{"gw": "10.0.0.1"}]}),
            "result.routes[0].dst",
        ),
        (
            json!({"routes": [{"dst": "::/0", "gw": "10.0.0.1"}]}),
            "result.routes[0].gw",
        ),
        (json!({"interfaces": "eth0"}), "result.interfaces"),
        (json!([]), "result"),
        (
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "::1/64"}}),
            "result.ip4.ip",
        ),
    ] {
        let error = Success::from_json(&value, Version::V1_1_0).unwrap_err();
        assert!(error.message.starts_with(place), "{error}");
    }
    let none = json!({"ips": [{"address": "10.0.0.1/8", "interface": -1}]});
    assert_eq!(
        Success::from_json(&none, Version::V1_1_0).unwrap().ips[0].interface,
        None
    );
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (address(), 0..=128_u8).prop_map(|(address, prefix)| {
        Cidr::new(
            address,
            if address.is_ipv4() {
                prefix.min(32)
            } else {
                prefix
            },
        )
        .unwrap()
    })
}

fn route() -> impl Strategy<Value = Route> {
    let number = || proptest::option::of(1..u32::MAX);
    let gw = proptest::option::of(any::<u128>());
    let rest = (
        number(),
        number(),
        number(),
        number(),
        proptest::option::of(any::<u8>()),
    );
    (cidr(), gw, rest).prop_map(|(dst, gw, (mtu, advmss, priority, table, scope))| {
        let gw = gw.map(|bits| match dst.address() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from((bits & 0xffff_ffff) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
        });
        Route {
            dst,
            gw,
            mtu,
            advmss,
            priority,
            table,
            scope,
        }
    })
}

fn success() -> impl Strategy<Value = Success> {
    let interface = (
        "[a-z0-9]{1,15}",
        "[0-9a-f:]{0,17}",
        proptest::option::of(1..u32::MAX),
        ".{0,9}",
    );
    let interface = interface.prop_map(|(name, mac, mtu, sandbox)| Interface {
        name,
        mac,
        mtu,
        sandbox,
        ..Interface::default()
    });
    let ip = (
        cidr(),
        proptest::option::of(address()),
        proptest::option::of(0_usize..3),
    );
    let ip = ip.prop_map(|(address, gateway, interface)| IpConfig {
        address,
        gateway,
        interface,
    });
    let lists = (
        proptest::collection::vec(interface, 3..5),
        proptest::collection::vec(ip, 0..5),
        proptest::collection::vec(route(), 0..5),
        proptest::collection::vec("[a-z0-9.]{1,9}", 0..3),
    );
    lists.prop_map(|(interfaces, ips, routes, nameservers)| Success {
        interfaces,
        ips,
        routes,
        dns: Dns {
            nameservers,
            ..Dns::default()
        },
    })
}

proptest! {
    #[test]
    fn every_version_is_read_back_as_it_was_written(success in success()) {
        for version in Version::ALL {
            let Ok(written) = success.to_json(version) else {
                prop_assert!(version < Version::V0_3_0 && success.ips.is_empty());
                continue;
            };
            let read = Success::from_json(&written, Version::V1_1_0).unwrap();
            // What the version can say survives any number of conversions.
            prop_assert_eq!(read.to_json(version).unwrap(), written.clone());
            if version == Version::V1_1_0 {
                prop_assert_eq!(&read, &success);
            }
            if version >= Version::V0_3_0 {
                prop_assert_eq!(&read.ips, &success.ips);
                prop_assert_eq!(read.interfaces.len(), success.interfaces.len());
                prop_assert_eq!(read.routes.len(), success.routes.len());
            }
        }
    }

    #[test]
    fn an_older_result_survives_the_newer_shape(success in success()) {
        for (index, older) in Version::ALL.into_iter().enumerate() {
            let Ok(written) = success.to_json(older) else { continue };
            for newer in Version::ALL.into_iter().skip(index) {
                let there = Success::from_json(&written, older).unwrap().to_json(newer).unwrap();
                let back = Success::from_json(&there, newer).unwrap().to_json(older).unwrap();
                prop_assert_eq!(&back, &written);
            }
        }
    }
}
