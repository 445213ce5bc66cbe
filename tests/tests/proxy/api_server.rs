//! An API server as it is in the field.

use std::time::{Duration, Instant};

use causeway_tests::proxy_bed::{Bed, PORTS, answer, wait_for};
use netns_lab::apiserver::{Deletion, Resource};

use super::{PATIENCE, put};

/// Every failed try of these targets within `time`.
fn failures(bed: &Bed, targets: &[std::net::SocketAddr], time: Duration) -> usize {
    bed.netns
        .run(|| {
            let start = Instant::now();
            let mut failed = 0;
            while start.elapsed() < time {
                failed += targets
                    .iter()
                    .filter(|target| answer(**target).is_none())
                    .count();
                std::thread::sleep(Duration::from_millis(5));
            }
            failed
        })
        .unwrap()
}

#[test]
fn killed_and_restarted_it_is_caught_up_with() {
    let mut bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let steady = put(&bed, "steady", 1, 2, PORTS[0]);
    let _proxy = bed.proxy(&[]).unwrap();
    for target in [web, steady] {
        wait_for(&bed.netns, target, PORTS[0], PATIENCE).unwrap();
    }
    bed.stop_server();
    assert_eq!(
        failures(&bed, &[web, steady], Duration::from_millis(500)),
        0
    );
    put(&bed, "web", 0, 2, PORTS[1]);
    bed.start_server().unwrap();
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    assert_eq!(
        failures(&bed, &[web, steady], Duration::from_millis(200)),
        0
    );
}

#[test]
fn after_410_everything_is_listed_again_and_what_left_is_removed() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let gone = put(&bed, "gone", 1, 2, PORTS[0]);
    let _proxy = bed.proxy(&[]).unwrap();
    for target in [web, gone] {
        wait_for(&bed.netns, target, PORTS[0], PATIENCE).unwrap();
    }
    // The watches hang, the changes happen, their history is lost, the connections are cut.
    let misbehaviour = bed.server().unwrap().misbehaviour();
    misbehaviour.hang_watches(true);
    put(&bed, "web", 0, 2, PORTS[1]);
    bed.store
        .delete(Resource::Service, "default", "gone", &Deletion::now())
        .unwrap();
    bed.store.compact();
    misbehaviour.drop_connections();
    misbehaviour.hang_watches(false);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    causeway_tests::proxy_bed::wait_until("end of what left", PATIENCE, || {
        bed.netns.run(|| answer(gone)).unwrap().is_none()
    })
    .unwrap();
}

#[test]
fn errors_and_slow_lists_change_nothing_in_the_kernel() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    let misbehaviour = bed.server().unwrap().misbehaviour();
    misbehaviour.refuse_with(Some(503));
    misbehaviour.drop_connections();
    assert_eq!(failures(&bed, &[web], Duration::from_millis(700)), 0);
    bed.store.compact();
    misbehaviour.delay_lists(Duration::from_millis(500));
    misbehaviour.refuse_with(None);
    assert_eq!(failures(&bed, &[web], Duration::from_millis(1000)), 0);
    put(&bed, "web", 0, 2, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    assert!(
        proxy
            .log()
            .unwrap()
            .contains("the API server cannot be watched")
    );
}
