//! A kernel that refuses, and a proxy that is killed between any two operations.

use lb_model::Family;
use nodekit::Errno;
use nodekit::faulty::Faults;

use crate::world::{Proxy, World, at, change, node_port, old, pod};
use causeway_tests::packet_bed::Bed;

/// Whether nobody answers at `n`. By UDP, which is told at once.
fn gone(bed: &Bed, family: Family, n: u8) -> bool {
    bed.client.udp(at(family, n)).is_err()
}

/// What holds after the change.
#[track_caller]
fn changed(bed: &Bed) {
    for family in Family::ALL {
        assert_eq!(pod(bed, family, 1), Some(2));
        assert!(bed.client.tcp(node_port(bed, family, 2)).is_ok());
        assert!(gone(bed, family, 3));
        assert_eq!(pod(bed, family, 4), Some(3));
    }
}

#[test]
fn a_kill_between_any_two_operations_is_made_good_by_a_restart() {
    let bed = Bed::new();
    let mut deaths = 0;
    for last in 0.. {
        // From nothing and from the old state in turn, since both may be interrupted.
        bed.node
            .netns
            .run(causeway_proxy::backend::NftablesBackend::cleanup)
            .unwrap()
            .unwrap();
        let mut world = old(&bed);
        let faults = Faults::default();
        let mut proxy = Proxy::start(&bed, &world);
        proxy.sync(&mut world);
        drop(proxy);
        let mut world = old(&bed);
        faults.die_after(last);
        if let Some(mut proxy) = Proxy::start_faulty(&bed, &world, &faults) {
            proxy.try_sync(&mut world);
            change(&bed, &mut world);
            proxy.try_sync(&mut world);
        }
        let died = faults.is_dead();
        for family in Family::ALL {
            let (first, second) = (pod(&bed, family, 1), pod(&bed, family, 2));
            assert!(first == Some(1) || first == Some(2), "{last}: {first:?}");
            assert!(second.is_some(), "{last}: {second:?}");
        }
        let mut world = old(&bed);
        change(&bed, &mut world);
        let mut proxy = Proxy::start(&bed, &world);
        proxy.sync(&mut world);
        changed(&bed);
        assert_eq!(
            Proxy::start(&bed, &world).sync(&mut world).operations(),
            0,
            "{last}"
        );
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 30, "only {deaths} operations to be killed after");
}

#[test]
fn a_kill_during_the_first_program_is_made_good_by_a_restart() {
    let bed = Bed::new();
    for last in 0.. {
        bed.node
            .netns
            .run(causeway_proxy::backend::NftablesBackend::cleanup)
            .unwrap()
            .unwrap();
        let mut world = old(&bed);
        let faults = Faults::default();
        faults.die_after(last);
        if let Some(mut proxy) = Proxy::start_faulty(&bed, &world, &faults) {
            proxy.try_sync(&mut world);
        }
        let died = faults.is_dead();
        let mut world = old(&bed);
        change(&bed, &mut world);
        Proxy::start(&bed, &world).sync(&mut world);
        changed(&bed);
        if !died {
            assert!(last > 5, "only {last} operations");
            break;
        }
    }
}

#[test]
fn what_the_kernel_refuses_stays_pending_until_it_does_not() {
    let bed = Bed::new();
    for seed in 1..12 {
        bed.node
            .netns
            .run(causeway_proxy::backend::NftablesBackend::cleanup)
            .unwrap()
            .unwrap();
        let mut world = old(&bed);
        let faults = Faults::default();
        let mut proxy = Proxy::start_faulty(&bed, &world, &faults).unwrap();
        faults.fail_fraction(0.5, seed, Errno::ENOMEM);
        proxy.try_sync(&mut world);
        change(&bed, &mut world);
        let mut tries = 0;
        while !proxy.try_sync(&mut world).complete() {
            tries += 1;
            assert!(tries < 100, "never done");
        }
        changed(&bed);
        faults.heal();
        assert_eq!(proxy.sync(&mut world).operations(), 0);
        assert_eq!(Proxy::start(&bed, &world).sync(&mut world).operations(), 0);
    }
}

#[test]
fn one_refusal_does_not_keep_the_others_waiting() {
    let bed = Bed::new();
    let mut world = old(&bed);
    let faults = Faults::default();
    let mut proxy = Proxy::start_faulty(&bed, &world, &faults).unwrap();
    proxy.sync(&mut world);
    change(&bed, &mut world);
    // The transaction's middle operation is refused: that Service waits, the others do not.
    faults.fail_transaction(1, Errno::ENOMEM);
    let report = proxy.try_sync(&mut world);
    let failed = &report.families[&Family::V4].failed;
    assert_eq!(failed.len(), 1, "{report:?}");
    assert!(report.families[&Family::V6].failed.is_empty());
    changed_but_one(&bed);
    proxy.sync(&mut world);
    changed(&bed);
}

/// At most one Service is still as before.
#[track_caller]
fn changed_but_one(bed: &Bed) {
    let done = [
        pod(bed, Family::V4, 1) == Some(2),
        gone(bed, Family::V4, 3),
        pod(bed, Family::V4, 4) == Some(3),
    ];
    assert!(
        done.into_iter().filter(|done| !done).count() <= 1,
        "{done:?}"
    );
}

#[test]
fn a_kernel_that_cannot_is_named_at_the_start_and_nothing_is_left() {
    let bed = Bed::new();
    let world = World::empty();
    let faults = Faults::default();
    faults.fail_transaction(1, Errno::EOPNOTSUPP);
    let settings = vec![world.settings(&bed, Family::V6)];
    let open = || causeway_proxy::backend::NftablesBackend::with_faults(settings, faults);
    let error = bed.node.netns.run(open).unwrap().unwrap_err().to_string();
    assert!(error.contains("cannot do nftables for V6"), "{error}");
    assert!(
        error.contains("5.13") && error.contains("EOPNOTSUPP"),
        "{error}"
    );
    // And where it can, trying it out leaves nothing.
    Proxy::start(&bed, &world);
    let tables = || nodekit::nft::NftSocket::open().unwrap().tables(None);
    assert_eq!(bed.node.netns.run(tables).unwrap().unwrap(), vec![]);
}
