//! What a change costs.

use std::collections::BTreeSet;

use causeway_proxy::backend::PassReport;
use causeway_tests::packet_bed::Bed;
use lb_model::{Family, Protocol, ServiceName};
use lb_plan::iptables::{Chain, Kind};
use nodekit::faulty::Faults;
use nodekit::xtables::Variant;

use crate::proxy::{cleanup, each_variant, iptables, rules};
use crate::world::{Proxy, World, at, node_port, node_port_service, service};

/// What the pass wrote, in each family the same.
#[track_caller]
fn wrote(report: &PassReport, lines: usize, filter: u64, nat: u64) {
    for family in report.families.values() {
        assert!(!family.full, "{report:?}");
        assert_eq!(family.operations, lines, "{report:?}");
        let restore = family.restore.as_ref().unwrap();
        let written = ["filter", "nat"].map(|table| restore.rules_written.get(table).copied());
        let written = written.map(Option::unwrap_or_default);
        assert_eq!(written, [filter, nat]);
        assert_eq!((restore.failures, restore.partial_failures), (0, 0));
    }
}

#[test]
fn a_change_writes_the_lines_of_its_service() {
    each_variant(|bed, variant| {
        let mut world = World::empty();
        let mut proxy = Proxy::start(bed, &world, variant);
        for n in 1..20 {
            world.serve(bed, &node_port_service(n), &[1, 2]);
        }
        let report = proxy.sync(&mut world);
        for (family, report) in &report.families {
            let rules = &report.restore.as_ref().unwrap().rules;
            // Each port: two ways in, two rules of what is external, three of the choice, four of
            // the endpoints; and what always is there, with one way to node ports an address. Where
            // localhost is one, a way in that counts.
            let (addresses, counted) = if *family == Family::V4 {
                (2, 1)
            } else {
                (1, 0)
            };
            let port = 2 + counted + 2 + 3 + 4;
            assert_eq!(rules["nat"], 19 * 2 * port + 4 + addresses);
        }
        // One endpoint for another: each of two ports has another rule in its choice, makes an
        // endpoint and removes one; all in one table.
        world.endpoints(bed, &node_port_service(7), &[1, 3]);
        let report = proxy.sync(&mut world);
        wrote(&report, 2 * (2 + 2 + 2 + 1) + 2, 0, 2 * (2 + 1));
        for family in Family::ALL {
            let reached = (0..40).map(|_| bed.client.tcp(at(family, 7)).unwrap().pod);
            assert!(reached.into_iter().all(|pod| pod != 2));
        }
        // The same again is nothing.
        world.endpoints(bed, &node_port_service(7), &[1, 3]);
        let report = proxy.sync(&mut world);
        assert!(
            report
                .families
                .values()
                .all(|family| family.transactions == 0)
        );
        // A new Service adds two rules to what all share: each port has one chain and two rules for
        // its one endpoint, one chain and two rules for the choice.
        world.serve(bed, &service(20), &[3]);
        let report = proxy.sync(&mut world);
        wrote(&report, 2 * (1 + 3 + 3) + 2, 0, 2 * (1 + 4));
        assert_eq!(bed.client.tcp(at(Family::V6, 20)).unwrap().pod, 3);
    });
}

/// Where iptables-nft runs, so many at once are written in two parts.
const MANY: u8 = 240;

#[test]
fn many_changes_at_once_are_written_in_parts() {
    each_variant(|bed, variant| {
        let mut world = World::empty();
        for n in 1..=MANY {
            world.serve(bed, &node_port_service(n), &[1]);
        }
        let mut proxy = Proxy::start(bed, &world, variant);
        proxy.sync(&mut world);
        for n in 1..=MANY {
            world.endpoints(bed, &node_port_service(n), &[2, 3]);
        }
        let report = proxy.sync(&mut world);
        let parts = match variant {
            Variant::Nft => 2,
            Variant::Legacy => 1,
        };
        for family in report.families.values() {
            assert!(!family.full, "{report:?}");
            assert_eq!(family.transactions, parts, "{report:?}");
        }
        assert!(!proxy.drifted(bed));
        for n in [1, MANY] {
            let reached = (0..20).map(|_| bed.client.tcp(at(Family::V6, n)).unwrap().pod);
            assert!(reached.into_iter().all(|pod| pod != 1));
        }
    });
}

/// What is wrong with the last part makes everything be written anew, and waits alone.
#[test]
fn a_part_that_is_refused_takes_nothing_with_it() {
    each_variant(|bed, variant| {
        let mut world = World::empty();
        for n in 1..=MANY {
            world.serve(bed, &node_port_service(n), &[1, 2]);
        }
        let faults = Faults::default();
        let mut proxy = Proxy::start_faulty(bed, &world, variant, &faults);
        proxy.sync(&mut world);
        // The last one in the order of names.
        faults.refuse_input("default/s99:", true);
        for n in 1..=MANY {
            world.endpoints(bed, &node_port_service(n), &[1, 3]);
        }
        let report = proxy.try_sync(&mut world);
        for family in report.families.values() {
            assert!(family.full, "{report:?}");
            let failed: Vec<&str> = family.failed.keys().map(ServiceName::as_str).collect();
            assert_eq!(failed, ["default/s99"]);
        }
        faults.heal();
        proxy.sync(&mut world);
        assert!(!proxy.drifted(bed));
        for n in [1, 99, MANY] {
            let reached = (0..20).map(|_| bed.client.tcp(at(Family::V4, n)).unwrap().pod);
            assert!(reached.into_iter().all(|pod| pod != 2));
        }
    });
}

#[test]
fn services_that_come_and_go_leave_nothing() {
    each_variant(|bed, variant| {
        let mut world = World::empty();
        let mut proxy = Proxy::start(bed, &world, variant);
        proxy.sync(&mut world);
        let empty = rules(bed, variant);
        let mut sticky = node_port_service(1);
        sticky.client_ip_affinity = true;
        sticky.external_traffic_policy = "Local".into();
        world.serve(bed, &sticky, &[1, 2, 3]);
        world.serve(bed, &service(2), &[]);
        proxy.sync(&mut world);
        assert!(bed.client.tcp(node_port(bed, Family::V4, 1)).is_ok());
        for pods in [&[3][..], &[], &[1]] {
            world.endpoints(bed, &sticky, pods);
            let report = proxy.sync(&mut world);
            assert!(
                report.families.values().all(|family| !family.full),
                "{report:?}"
            );
        }
        world.gone(&sticky);
        world.gone(&service(2));
        proxy.sync(&mut world);
        assert_eq!(rules(bed, variant), empty);
    });
}

/// What is listed, whatever the order in the chains that choose an endpoint; there the chance of each
/// depends on it.
fn regardless_of_order(bed: &Bed, variant: Variant) -> Vec<String> {
    let mut rules = rules(bed, variant);
    for rule in &mut rules {
        if let Some((before, after)) = rule.split_once("-m statistic --mode random --probability ")
        {
            let (_, after) = after.split_once(' ').unwrap();
            *rule = format!("{before}{after}");
        }
    }
    rules.sort();
    rules
}

#[test]
fn endpoints_that_come_and_go_one_by_one_leave_what_a_fresh_start_makes() {
    each_variant(|bed, variant| {
        let mut world = World::empty();
        let plain = node_port_service(1);
        let mut sticky = node_port_service(2);
        sticky.client_ip_affinity = true;
        let all = |world: &mut World, pods: &[usize]| {
            for service in [&plain, &sticky] {
                world.serve(bed, service, pods);
            }
        };
        let mut proxy = Proxy::start(bed, &world, variant);
        all(&mut world, &[1]);
        proxy.sync(&mut world);
        let steps: [&[usize]; 8] = [
            &[1, 2],
            &[2],
            &[2, 3],
            &[1, 2, 3],
            &[3],
            &[1, 3],
            &[1, 2],
            &[2, 3],
        ];
        for pods in steps {
            all(&mut world, pods);
            let report = proxy.sync(&mut world);
            assert!(report.families.values().all(|family| !family.full));
            for family in Family::ALL {
                let tries = (0..60).map(|_| bed.client.tcp(at(family, 1)).unwrap().pod);
                assert_eq!(
                    tries.collect::<BTreeSet<_>>(),
                    pods.iter().copied().collect()
                );
                assert!(pods.contains(&bed.client.tcp(at(family, 2)).unwrap().pod));
            }
        }
        let changed = regardless_of_order(bed, variant);
        drop(proxy);
        cleanup(bed);
        let mut fresh = Proxy::start(bed, &world, variant);
        all(&mut world, &[2, 3]);
        fresh.sync(&mut world);
        assert_eq!(changed, regardless_of_order(bed, variant));
    });
}

/// A rule is deleted by its words and not by its place, so that what others put there does no harm.
#[test]
fn a_foreign_rule_in_a_choice_misleads_no_change() {
    each_variant(|bed, variant| {
        let mut world = World::empty();
        let mut proxy = Proxy::start(bed, &world, variant);
        world.serve(bed, &service(1), &[1, 2]);
        proxy.sync(&mut world);
        let chain = Chain::of_port(Kind::Cluster, "default/s1:tcp", Protocol::Tcp);
        iptables(
            bed,
            variant,
            &format!("-t nat -I {chain} 2 -m comment --comment mine"),
        );
        world.endpoints(bed, &service(1), &[3, 2]);
        let report = proxy.sync(&mut world);
        assert!(report.families.values().all(|family| !family.full));
        for family in Family::ALL {
            let tries = (0..60).map(|_| bed.client.tcp(at(family, 1)).unwrap().pod);
            assert_eq!(tries.collect::<BTreeSet<_>>(), BTreeSet::from([2, 3]));
        }
    });
}
