//! Addresses, routes and neighbours.

use nodekit::Errno;
use nodekit::route::{
    Address, Neighbour, NeighbourState, Route, RouteFilter, RouteKind, Scope, TABLE_LOCAL,
};

use super::{FAR, NEAR, Pair, ip, ip_json, net, pair};

#[test]
#[expect(clippy::too_many_lines, reason = "one life of an object, in order")]
fn addresses_are_usable_at_once_and_bring_their_route_unless_asked_not_to() {
    let Pair {
        here,
        mut handle,
        link,
        there: _there,
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
#[expect(clippy::too_many_lines, reason = "one life of an object, in order")]
fn routes_of_both_families_are_added_replaced_listed_and_deleted() {
    let Pair {
        here,
        mut handle,
        link,
        there: _there,
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
#[expect(clippy::too_many_lines, reason = "one life of an object, in order")]
fn default_onlink_table_and_refusing_routes() {
    let Pair {
        here,
        mut handle,
        link,
        there: _there,
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
        there: _there,
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
        there: _there,
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

#[test]
fn the_route_of_a_packet_is_found() {
    let Pair {
        mut handle,
        link,
        here: _here,
        there: _there,
        ..
    } = pair();
    let address = |text| Address {
        nodad: true,
        ..Address::new(link, net(text))
    };
    handle.add_address(&address("10.1.2.3/24")).unwrap();
    handle.add_address(&address("fd00:1::3/64")).unwrap();
    for gateway in ["10.1.2.1", "fd00:1::1"] {
        let near = handle.route_to(ip(gateway)).unwrap();
        assert_eq!((near.link, near.gateway), (Some(link), None));
        let far = if near.destination.is_ipv4() {
            "192.0.2.9"
        } else {
            "2001:db8::9"
        };
        let none = handle.route_to(ip(far)).unwrap_err();
        assert_eq!(none.errno(), Some(Errno::ENETUNREACH), "{none}");
        handle.add_route(&Route::default_by(ip(gateway))).unwrap();
        let found = handle.route_to(ip(far)).unwrap();
        assert_eq!((found.link, found.gateway), (Some(link), Some(ip(gateway))));
    }
    let own = handle.route_to(ip("10.1.2.3")).unwrap();
    assert_eq!(own.kind, RouteKind::Local);
}
