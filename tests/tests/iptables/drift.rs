//! Others who flush or change what is ours.

use causeway_proxy::backend::IptablesBackend;
use causeway_tests::packet_bed::Bed;
use lb_model::Family;
use lb_model::said::{Event, SliceEndpoint};
use nodekit::xtables::Variant;

use crate::proxy::{each_variant, iptables, rules};
use crate::world::{Proxy, World, at, node_port, node_port_service, service};

/// Does `damage`, lets the proxy look and repair, and sees that all is as before.
#[track_caller]
fn repairs(
    bed: &Bed,
    variant: Variant,
    (proxy, world): (&mut Proxy<'_, IptablesBackend>, &mut World),
    damage: &[&str],
) {
    assert!(!proxy.drifted(bed), "before {damage:?}");
    let mut before = rules(bed, variant);
    for words in damage {
        iptables(bed, variant, words);
    }
    assert!(proxy.drifted(bed), "{damage:?}");
    let report = proxy.sync(world);
    assert!(report.families.values().all(|family| family.full));
    let mut after = rules(bed, variant);
    // The jumps may stand in another order.
    before.sort();
    after.sort();
    assert_eq!(before, after, "{damage:?}");
    for family in Family::ALL {
        assert!(bed.client.tcp(at(family, 1)).is_ok(), "{damage:?}");
        assert!(
            bed.client.tcp(node_port(bed, family, 2)).is_ok(),
            "{damage:?}"
        );
    }
}

fn world(bed: &Bed) -> World {
    let mut world = World::empty();
    world.serve(bed, &service(1), &[1, 2]);
    world.serve(bed, &node_port_service(2), &[2, 3]);
    world
}

#[test]
fn what_others_remove_comes_back() {
    each_variant(|bed, variant| {
        let mut world = world(bed);
        let mut proxy = Proxy::start(bed, &world, variant);
        proxy.sync(&mut world);
        for damage in [
            &["-t nat -F"][..],
            &["-F"],
            &["-t nat -F", "-t nat -X"],
            &["-F", "-X"],
            &[
                "-t mangle -X KUBE-PROXY-CANARY",
                "-t mangle -N KUBE-PROXY-CANARY",
            ],
            &["-t nat -D KUBE-SERVICES 1"],
            &["-t nat -F KUBE-POSTROUTING"],
            &["-t nat -D POSTROUTING 1"],
        ] {
            // A chain that holds a rule cannot go by -X.
            let damage: Vec<&str> = match damage {
                ["-t mangle -X KUBE-PROXY-CANARY", rest @ ..] => [
                    "-t mangle -F KUBE-PROXY-CANARY",
                    "-t mangle -X KUBE-PROXY-CANARY",
                ]
                .into_iter()
                .chain(rest.iter().copied())
                .collect(),
                damage => damage.to_vec(),
            };
            repairs(bed, variant, (&mut proxy, &mut world), &damage);
        }
        // Others' rules beside ours are their business.
        iptables(
            bed,
            variant,
            "-t nat -I PREROUTING -p tcp --dport 1 -j ACCEPT",
        );
        iptables(
            bed,
            variant,
            "-t nat -A KUBE-MARK-MASQ -p tcp --dport 1 -j RETURN",
        );
        assert!(!proxy.drifted(bed));
    });
}

#[test]
fn a_change_that_meets_a_flush_repairs_it_in_the_same_pass() {
    each_variant(|bed, variant| {
        let mut world = world(bed);
        let mut proxy = Proxy::start(bed, &world, variant);
        proxy.sync(&mut world);
        for words in ["-t nat -F", "-t nat -X"] {
            iptables(bed, variant, words);
        }
        world.serve(bed, &service(3), &[3]);
        let report = proxy.sync(&mut world);
        for family in report.families.values() {
            assert!(family.full);
            let restore = family.restore.as_ref().unwrap();
            assert_eq!(
                (restore.failures, restore.partial_failures),
                (1, 1),
                "{report:?}"
            );
        }
        for family in Family::ALL {
            assert!(bed.client.tcp(at(family, 1)).is_ok());
            assert_eq!(bed.client.tcp(at(family, 3)).unwrap().pod, 3);
        }
    });
}

#[test]
fn on_a_large_node_the_canaries_tell() {
    each_variant(|bed, variant| {
        let mut world = world(bed);
        let crowd = service(9);
        world.say(Event::Service(crowd.clone()));
        for (number, family) in Family::ALL.into_iter().enumerate() {
            let mut slice = world.slice(bed, &crowd, family, &[]);
            slice.endpoints = (0..510_u32)
                .map(|n| SliceEndpoint {
                    addresses: vec![match family {
                        Family::V4 => format!("10.250.{}.{}", n / 250, n % 250 + 1),
                        Family::V6 => format!("fd00:250::{:x}", n + 1),
                    }],
                    node_name: format!("node-{number}"),
                    ..SliceEndpoint::default()
                })
                .collect();
            world.say(Event::Slice(slice));
        }
        let mut proxy = Proxy::start(bed, &world, variant);
        proxy.sync(&mut world);
        let worded = rules(bed, variant)
            .iter()
            .any(|line| line.contains("s1:tcp -> "));
        assert!(!worded, "1,020 endpoints and more have no words each");
        for damage in [
            &["-t nat -F"][..],
            &["-F", "-X"],
            &["-t mangle -F", "-t mangle -X"],
        ] {
            repairs(bed, variant, (&mut proxy, &mut world), damage);
        }
    });
}
