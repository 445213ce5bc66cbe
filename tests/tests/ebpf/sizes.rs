//! How large maps are: what becomes of what there is no room for, and of connections when a daemon is
//! told other sizes than the one before.

use std::collections::BTreeSet;

use causeway_ebpf_abi::maps;
use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::{DEFAULT_TRACKS, EbpfBackend, MapFill, Options};
use causeway_tests::packet_bed::{Bed, ask};
use lb_model::{Family, ServiceName};

use crate::load::Kept;
use crate::node::{Node, bar_the_way, on_a_node};
use crate::outside::ruleset;
use crate::upgrade::{self, traffic, world};
use crate::world::{Proxy, World, at, node_port, service};

/// Each has a frontend for both protocols in both families, and two endpoints at each.
const SERVICES: std::ops::RangeInclusive<u8> = 1..=5;
const FRONTENDS: u32 = 4;
const BACKENDS: u32 = 8;

fn many(bed: &Bed) -> World {
    let mut world = World::empty();
    for n in SERVICES {
        world.serve(bed, &service(n), &[1, 2]);
    }
    world
}

/// How full a map is.
fn fill(proxy: &Proxy<'_, EbpfBackend>, map: &str) -> MapFill {
    let counts = proxy.backend.ebpf_counts().unwrap();
    counts.maps().find(|fill| fill.map == map).unwrap()
}

/// Everybody reaches every Service, by whatever.
fn all_are_served(node: &Node<'_>, services: impl Iterator<Item = u8>) {
    for n in services {
        for family in Family::ALL {
            let to = at(family, n);
            let client = &node.bed.client;
            for reached in [
                client.tcp(to),
                client.udp(to),
                node.tcp(node.bed.pod(3), to),
            ] {
                assert!([1, 2].contains(&reached.unwrap().pod), "{to}");
            }
        }
    }
}

/// One Service too many: nftables has it, until another one is gone.
fn the_last_has_to_wait(options: impl Fn(Options) -> Options + Send + Sync, map: &'static str) {
    on_a_node(|node| {
        let mut world = many(node.bed);
        let options = options(node.cell.options());
        let mut proxy = node.start_with(&world, &options);
        let last = BTreeSet::from([ServiceName::new("default", "s5")]);
        for _ in 0..2 {
            let report = proxy.try_sync(&mut world);
            let failed: BTreeSet<_> = report.failed().cloned().collect();
            assert_eq!(failed, last, "{report:?}");
            let leftovers = report.families.values().map(|family| &family.leftovers);
            assert!(leftovers.flatten().next().is_none(), "{report:?}");
            assert_ne!(ruleset(node), "");
            all_are_served(node, SERVICES);
        }
        // Of the last one there is nothing.
        let full = fill(&proxy, map);
        assert_eq!(full.entries, (full.max + 1) / 5 * 4);
        world.gone(&service(1));
        proxy.sync(&mut world);
        assert_eq!(fill(&proxy, map).entries, full.entries);
        all_are_served(node, 2..=5);
        for family in Family::ALL {
            assert!(node.tcp(node.bed.pod(3), at(family, 1)).is_err());
        }
    });
}

#[test]
fn a_service_without_room_for_its_frontends_is_left_to_nftables() {
    let frontends = FRONTENDS * 5 - 1;
    let small = move |options| Options {
        frontends,
        ..options
    };
    the_last_has_to_wait(small, maps::FRONTENDS);
}

#[test]
fn a_service_without_room_for_its_backends_is_left_to_nftables() {
    let backends = BACKENDS * 5 - 1;
    let small = move |options| Options {
        backends,
        ..options
    };
    the_last_has_to_wait(small, maps::BACKENDS);
}

#[test]
fn other_sizes_of_what_the_daemon_fills_fail_no_connection() {
    on_a_node(|node| {
        let before = Options {
            tracks: DEFAULT_TRACKS,
            ..node.cell.options()
        };
        let mut world = world(node.bed);
        bar_the_way(node.bed.pod(3));
        let mut proxy = node.start_with(&world, &before);
        proxy.sync(&mut world);
        traffic(node).during(|go_on| {
            for (frontends, backends) in [(1_024, 2_048), (before.frontends, 2_048)] {
                let options = Options {
                    frontends,
                    backends,
                    ..before.clone()
                };
                let mut after = upgrade::world(node.bed);
                proxy = node.start_with(&after, &options);
                proxy.sync(&mut after);
                let sizes = [maps::FRONTENDS, maps::BACKENDS].map(|map| fill(&proxy, map).max);
                assert_eq!(sizes, [frontends, backends].map(u64::from));
                go_on();
            }
        });
        drop(proxy);
    });
}

#[test]
fn tracks_move_to_a_map_of_another_size() {
    on_a_node(|node| {
        let mut before = world(node.bed);
        node.start(&before).sync(&mut before);
        let traffic = traffic(node);
        let mut kept = vec![traffic.kept_outside()];
        for tracks in [8_192, 1_024, 2_048] {
            let options = Options {
                tracks,
                ..node.cell.options()
            };
            let mut after = world(node.bed);
            // Killed before its programs are anywhere, and after some connections more.
            drop(node.start_with(&after, &options));
            kept.push(traffic.kept_outside());
            let mut proxy = node.start_with(&after, &options);
            kept.push(traffic.kept_outside());
            proxy.sync(&mut after);
            kept.iter_mut().for_each(Kept::stay);
            let found = fill(&proxy, maps::TRACKS);
            assert_eq!(found.max, u64::from(tracks));
            // Two directions each, of both families.
            assert_eq!(found.entries, 4 * kept.len() as u64);
            kept.push(traffic.kept_outside());
        }
    });
}

#[test]
fn what_was_idle_for_longest_goes_where_tracks_have_less_room() {
    const LEFT: usize = 16;
    on_a_node(|node| {
        let mut before = world(node.bed);
        node.start(&before).sync(&mut before);
        let to = node_port(node.bed, Family::V4, 2);
        let client = &node.bed.client;
        let mut streams: Vec<_> = (0..3 * LEFT).map(|_| client.connect(to).unwrap()).collect();
        // All but the first ones are heard of again.
        for stream in &mut streams[LEFT..] {
            ask(stream).unwrap();
        }
        let options = Options {
            tracks: u32::try_from(2 * 2 * LEFT).unwrap(),
            ..node.cell.options()
        };
        let mut after = world(node.bed);
        let mut proxy = node.start_with(&after, &options);
        proxy.sync(&mut after);
        let found = fill(&proxy, maps::TRACKS);
        assert_eq!(found.max, u64::from(options.tracks));
        assert!(found.entries <= found.max, "{found:?}");
        assert!(ask(&mut streams[3 * LEFT - 1]).is_ok());
        for stream in &mut streams[..LEFT] {
            assert!(ask(stream).is_err(), "the room is for others");
        }
        assert!(client.tcp(to).is_ok());
    });
}

#[test]
fn new_connections_push_old_ones_out_of_tracks_that_are_full() {
    const TRACKS: u32 = 256;
    on_a_node(|node| {
        let options = Options {
            tracks: TRACKS,
            ..node.cell.options()
        };
        let mut world = world(node.bed);
        let mut proxy = node.start_with(&world, &options);
        proxy.sync(&mut world);
        for turn in 0..TRACKS {
            for family in Family::ALL {
                let to = node_port(node.bed, family, 2);
                let reached = node.bed.client.tcp(to);
                assert!([2, 3].contains(&reached.unwrap().pod), "{turn}: {to}");
            }
        }
        let found = fill(&proxy, maps::TRACKS);
        assert_eq!(found.max, u64::from(TRACKS));
        let full = u64::from(TRACKS / 2)..=u64::from(TRACKS);
        assert!(full.contains(&found.entries), "{found:?}");
    });
}
