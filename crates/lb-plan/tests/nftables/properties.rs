//! For random clusters: the way does not matter, any prefix is sound, a restart finds home.

use std::collections::BTreeSet;

use lb_model::LocalDetector;
use lb_plan::nftables::{Step, VirtualKernel};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::cluster::{ByAddress, Cluster, by_address, cluster, detector, expected, packet};
use crate::node::{Node, changed, settings, verdict};

/// What is in force after `step` of the way from `old` to `new`.
fn after_step(state: &mut ByAddress, old: &Cluster, new: &Cluster, step: &Step) {
    let Some(service) = &step.service else {
        return;
    };
    let wanted = by_address(new);
    for frontend in old.get(service).into_iter().flatten() {
        if !wanted.contains_key(&frontend.address) {
            state.remove(&frontend.address);
        }
    }
    for frontend in new.get(service).into_iter().flatten() {
        state.insert(frontend.address, frontend.clone());
    }
}

fn same_as_from_scratch(node: &Node, cluster: &Cluster) {
    let fresh = Node::with(node.settings.clone(), cluster);
    assert_eq!(
        node.kernel.regardless_of_slots(),
        fresh.kernel.regardless_of_slots()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_packet_goes_where_the_frontends_say(
        cluster in cluster(),
        detector in detector(),
        packets in vec(packet(), 30),
    ) {
        let node = Node::with(settings(detector.clone()), &cluster);
        let state = by_address(&cluster);
        for packet in packets {
            prop_assert_eq!(
                verdict(&node.kernel, &packet),
                expected(&state, &detector, &packet),
                "{:?}", packet
            );
        }
    }

    #[test]
    fn the_way_does_not_matter(clusters in vec(cluster(), 2..5)) {
        let mut node = Node::new(settings(LocalDetector::None));
        let mut old = Cluster::new();
        for new in clusters {
            node.go_to(&changed(&old, &new), false, |_, _| {});
            same_as_from_scratch(&node, &new);
            let again = node.go_to(&new, true, |_, _| {});
            prop_assert_eq!(again, vec![], "a second pass has something to do");
            old = new;
        }
    }

    #[test]
    fn a_packet_meets_a_service_as_it_was_or_as_it_is(
        old in cluster(),
        new in cluster(),
        packets in vec(packet(), 30),
    ) {
        let detector = LocalDetector::Cidr("10.1.0.0/16".parse().unwrap());
        let mut node = Node::with(settings(detector.clone()), &old);
        let mut state = by_address(&old);
        node.go_to(&changed(&old, &new), false, |kernel, step| {
            after_step(&mut state, &old, &new, step);
            for packet in &packets {
                let wanted = expected(&state, &detector, packet);
                assert_eq!(verdict(kernel, packet), wanted, "{packet:?} after {step:?}");
            }
        });
        let state = by_address(&new);
        for packet in &packets {
            prop_assert_eq!(verdict(&node.kernel, packet), expected(&state, &detector, packet));
        }
    }

    #[test]
    fn a_restart_at_any_point_ends_where_it_should(
        old in cluster(),
        new in cluster(),
        last in cluster(),
    ) {
        let mut node = Node::with(settings(LocalDetector::None), &old);
        let mut killed: Vec<VirtualKernel> = vec![node.kernel.clone()];
        node.go_to(&changed(&old, &new), false, |kernel, _| killed.push(kernel.clone()));
        for kernel in killed {
            node.kernel = kernel;
            let mut restarted = node.restart();
            restarted.go_to(&last, true, |_, _| {});
            same_as_from_scratch(&restarted, &last);
        }
    }

    #[test]
    fn what_failed_is_made_good(
        clusters in vec(cluster(), 2..4),
        luck in vec(any::<bool>(), 60),
    ) {
        let mut luck = luck.into_iter().cycle();
        let mut node = Node::new(settings(LocalDetector::None));
        let mut old = Cluster::new();
        let mut pending = BTreeSet::new();
        for new in &clusters {
            let mut named = changed(&old, new);
            for service in pending.iter().flatten() {
                let frontends = new.get(service).cloned().unwrap_or_default();
                named.insert(Clone::clone(service), frontends);
            }
            let (_, failed) =
                node.try_to(&named, false, |_| luck.next().unwrap_or(true), |_, _| {});
            pending = failed;
            old = new.clone();
        }
        let last = pending.iter().flatten();
        let last: Cluster = last.map(|name| (name.clone(), old[name].clone())).collect();
        node.go_to(&last, false, |_, _| {});
        same_as_from_scratch(&node, &old);
    }
}
