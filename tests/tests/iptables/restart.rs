//! A proxy that starts on a node where one was before, and one that leaves.

use causeway_tests::packet_bed::{Bed, ask};
use lb_model::Family;

use crate::proxy::{cleanup, each_variant, iptables, rules};
use crate::world::{Proxy, World, at, node_port, node_port_service, service};

/// Three Services, one of them with all that there is.
fn world(bed: &Bed) -> World {
    let mut world = World::empty();
    let mut third = node_port_service(3);
    third.client_ip_affinity = true;
    third.external_traffic_policy = "Local".into();
    world.serve(bed, &service(1), &[1, 2]);
    world.serve(bed, &node_port_service(2), &[2, 3]);
    world.serve(bed, &third, &[1, 3]);
    world
}

#[test]
fn a_restart_writes_the_same_and_connections_stay() {
    each_variant(|bed, variant| {
        let mut before = world(bed);
        let report = Proxy::start(bed, &before, variant).sync(&mut before);
        assert!(report.families.values().all(|family| family.full));
        let mut streams = Family::ALL.map(|family| bed.client.connect(at(family, 1)).unwrap());
        let pods = streams.each_mut().map(|stream| ask(stream).unwrap().pod);
        let remembered = bed.client.tcp(node_port(bed, Family::V4, 3)).unwrap();
        let written = rules(bed, variant);

        let mut after = world(bed);
        let mut proxy = Proxy::start(bed, &after, variant);
        assert_eq!(
            rules(bed, variant),
            written,
            "nothing before the first pass"
        );
        proxy.sync(&mut after);
        assert_eq!(rules(bed, variant), written);
        assert_eq!(
            streams.each_mut().map(|stream| ask(stream).unwrap().pod),
            pods
        );
        assert_eq!(
            bed.client.tcp(node_port(bed, Family::V4, 3)).unwrap(),
            remembered
        );
        assert_eq!(proxy.sync(&mut after).operations(), 0);
    });
}

#[test]
fn what_went_while_nobody_looked_is_removed() {
    each_variant(|bed, variant| {
        let mut before = world(bed);
        Proxy::start(bed, &before, variant).sync(&mut before);
        // As another version left it, or somebody else.
        iptables(bed, variant, "-t nat -N KUBE-SEP-AAAAAAAAAAAAAAAA");
        iptables(
            bed,
            variant,
            "-t nat -I KUBE-SERVICES -j KUBE-SEP-AAAAAAAAAAAAAAAA",
        );
        let mut after = World::empty();
        after.serve(bed, &service(1), &[3]);
        Proxy::start(bed, &after, variant).sync(&mut after);
        for family in Family::ALL {
            assert_eq!(bed.client.tcp(at(family, 1)).unwrap().pod, 3);
            assert!(bed.client.tcp(at(family, 2)).is_err());
            assert!(bed.client.tcp(node_port(bed, family, 3)).is_err());
        }
        let left = rules(bed, variant);
        cleanup(bed);
        let mut again = World::empty();
        again.serve(bed, &service(1), &[3]);
        Proxy::start(bed, &again, variant).sync(&mut again);
        assert_eq!(rules(bed, variant), left, "as on an empty node");
    });
}

#[test]
fn cleanup_takes_our_chains_and_no_others() {
    each_variant(|bed, variant| {
        let mut world = world(bed);
        Proxy::start(bed, &world, variant).sync(&mut world);
        // Word for word what kube-proxy would look for, and remove.
        let jump = "-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service \
                    portals\" -j KUBE-SERVICES";
        assert!(rules(bed, variant).contains(&format!("Ip {jump}")));
        iptables(bed, variant, "-t nat -N OTHERS");
        iptables(bed, variant, "-t nat -A OTHERS -j KUBE-MARK-MASQ");
        iptables(bed, variant, "-t mangle -N KUBE-KUBELET-CANARY");
        for _ in 0..2 {
            cleanup(bed);
            let left = rules(bed, variant);
            let of_v4: Vec<&str> = left
                .iter()
                .filter_map(|line| line.strip_prefix("Ip "))
                .collect();
            let shared = [
                ":KUBE-KUBELET-CANARY -",
                ":KUBE-MARK-MASQ -",
                "-A OTHERS -j KUBE-MARK-MASQ",
                "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
                ":KUBE-FIREWALL -",
                "-A INPUT -j KUBE-FIREWALL",
                "-A OUTPUT -j KUBE-FIREWALL",
            ];
            for line in shared {
                assert!(of_v4.contains(&line), "{line} is not in {left:#?}");
            }
            // The rule in KUBE-FIREWALL, too.
            assert_eq!(of_v4.len(), shared.len() + 1, "{left:#?}");
        }
        iptables(bed, variant, "-t nat -F OTHERS");
        iptables(bed, variant, "-t mangle -X KUBE-KUBELET-CANARY");
        cleanup(bed);
        assert_eq!(rules(bed, variant), [""; 0]);
    });
}
