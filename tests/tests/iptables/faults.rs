//! Programs that refuse, and a proxy that is killed between any two runs of them.

use causeway_tests::packet_bed::Bed;
use lb_model::{Family, ServiceName};
use nodekit::Errno;
use nodekit::faulty::Faults;

use crate::proxy::{each_variant, rules};
use crate::world::{Proxy, at, change, node_port, old, pod, service};

/// What holds after the change.
#[track_caller]
fn changed(bed: &Bed) {
    for family in Family::ALL {
        assert_eq!(pod(bed, family, 1), Some(2));
        assert!(bed.client.tcp(node_port(bed, family, 2)).is_ok());
        // By UDP, where it is told at once.
        assert!(bed.client.udp(at(family, 3)).is_err());
        assert_eq!(pod(bed, family, 4), Some(3));
    }
}

#[test]
fn a_kill_between_any_two_runs_is_made_good_by_a_restart() {
    each_variant(|bed, variant| {
        let mut good = Vec::new();
        let mut deaths = 0;
        for last in 0.. {
            let mut world = old(bed);
            let mut proxy = Proxy::start(bed, &world, variant);
            proxy.sync(&mut world);
            drop(proxy);
            let faults = Faults::default();
            faults.die_after(last);
            let mut world = old(bed);
            let mut proxy = Proxy::start_faulty(bed, &world, variant, &faults);
            proxy.try_sync(&mut world);
            change(bed, &mut world);
            proxy.try_sync(&mut world);
            for family in Family::ALL {
                let (first, second) = (pod(bed, family, 1), pod(bed, family, 2));
                assert!(first == Some(1) || first == Some(2), "{last}: {first:?}");
                assert!(second.is_some(), "{last}: {second:?}");
            }
            let mut world = old(bed);
            change(bed, &mut world);
            let mut proxy = Proxy::start(bed, &world, variant);
            proxy.sync(&mut world);
            changed(bed);
            if last == 0 {
                good = rules(bed, variant);
            }
            assert_eq!(rules(bed, variant), good, "{last}");
            if !faults.is_dead() {
                break;
            }
            deaths += 1;
        }
        assert!(deaths >= 6, "only {deaths} runs to be killed after");
    });
}

#[test]
fn a_service_that_is_refused_waits_alone() {
    each_variant(|bed, variant| {
        for named in [true, false] {
            let mut world = old(bed);
            let faults = Faults::default();
            faults.refuse_input("default/s2:", named);
            let mut proxy = Proxy::start_faulty(bed, &world, variant, &faults);
            let report = proxy.try_sync(&mut world);
            for (family, report) in &report.families {
                let failed: Vec<&str> = report.failed.keys().map(ServiceName::as_str).collect();
                assert_eq!(failed, ["default/s2"]);
                assert!(report.leftovers.is_none(), "{report:?}");
                assert_eq!(pod(bed, *family, 1), Some(1));
                assert_eq!(pod(bed, *family, 3), Some(2));
                assert!(bed.client.udp(at(*family, 2)).is_err());
            }
            // The others' changes are not held up, and cost no more than ever.
            world.endpoints(bed, &service(1), &[3]);
            let report = proxy.try_sync(&mut world);
            for report in report.families.values() {
                assert!(!report.full, "{report:?}");
                assert_eq!(report.failed.len(), 1, "{report:?}");
            }
            assert_eq!(pod(bed, Family::V6, 1), Some(3));
            faults.heal();
            proxy.sync(&mut world);
            assert!(bed.client.tcp(node_port(bed, Family::V4, 2)).is_ok());
            assert_eq!(proxy.sync(&mut world).operations(), 0);
            assert!(!proxy.drifted(bed));
        }
    });
}

#[test]
fn what_is_refused_by_chance_stays_pending_until_it_is_not() {
    each_variant(|bed, variant| {
        for seed in 1..6 {
            let mut world = old(bed);
            let faults = Faults::default();
            let mut proxy = Proxy::start_faulty(bed, &world, variant, &faults);
            faults.fail_fraction(0.5, seed, Errno::ENOMEM);
            proxy.try_sync(&mut world);
            change(bed, &mut world);
            let mut tries = 0;
            while !proxy.try_sync(&mut world).complete() {
                tries += 1;
                assert!(tries < 100, "never done");
            }
            changed(bed);
            faults.heal();
            assert_eq!(proxy.sync(&mut world).operations(), 0);
            assert!(!proxy.drifted(bed));
        }
    });
}
