//! An API server as it is in the field.

use std::time::{Duration, Instant};

use causeway_proxy::config::Api;
use causeway_proxy::metrics::ApiRequests;
use causeway_proxy::watch::{Patience, connect_with, start};
use causeway_tests::proxy_bed::{Bed, PORTS, answer, objects, sure_answer, wait_for, wait_until};
use lb_model::said::Event;
use netns_lab::apiserver::{ApiServer, Deletion, Resource, Store, StoreOptions};
use serde_json::{Value, json};

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
                    .filter(|target| sure_answer(**target).is_none())
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
    wait_until("end of what left", PATIENCE, || {
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
    wait_until("complaint", PATIENCE, || {
        let log = proxy.log().unwrap();
        log.contains("the API server cannot be watched")
    })
    .unwrap();
    bed.store.compact();
    misbehaviour.delay_lists(Duration::from_millis(500));
    misbehaviour.refuse_with(None);
    assert_eq!(failures(&bed, &[web], Duration::from_millis(1000)), 0);
    put(&bed, "web", 0, 2, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
}

#[test]
fn new_credentials_are_taken_up_and_old_ones_cost_nothing() {
    let bed = Bed::new().unwrap();
    let token = bed.folder().join("token");
    std::fs::write(&token, "first").unwrap();
    let path = bed.folder().join("kubeconfig");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"tokenFile": token});
    std::fs::write(&path, config.to_string()).unwrap();
    let misbehaviour = bed.server().unwrap().misbehaviour();
    misbehaviour.accept_only(Some("first"));
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();

    misbehaviour.accept_only(Some("second"));
    misbehaviour.drop_connections();
    put(&bed, "web", 0, 2, PORTS[1]);
    wait_until("refusal", PATIENCE, || {
        proxy.log().unwrap().contains("Unauthorized")
    })
    .unwrap();
    assert_eq!(bed.netns.run(|| sure_answer(web)).unwrap(), Some(PORTS[0]));
    std::fs::write(&token, "second").unwrap();
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
}

#[test]
fn lists_that_break_off_empty_nothing() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let last = put(&bed, "zulu", 1, 2, PORTS[0]);
    let proxy = bed.proxy(&[]).unwrap();
    for target in [web, last] {
        wait_for(&bed.netns, target, PORTS[0], PATIENCE).unwrap();
    }
    // To a proxy that runs and to one that starts: neither may take half a list for the whole.
    let misbehaviour = bed.server().unwrap().misbehaviour();
    for objects in [0, 1] {
        misbehaviour.break_off_lists(Some(objects));
        bed.store.compact();
        misbehaviour.drop_connections();
        let targets = [web, last];
        assert_eq!(failures(&bed, &targets, Duration::from_millis(400)), 0);
    }
    proxy.kill().unwrap();
    let _proxy = bed.proxy(&[]).unwrap();
    let targets = [web, last];
    assert_eq!(failures(&bed, &targets, Duration::from_millis(800)), 0);
    misbehaviour.break_off_lists(None);
    put(&bed, "zulu", 1, 2, PORTS[1]);
    wait_for(&bed.netns, last, PORTS[1], PATIENCE).unwrap();
    assert_eq!(failures(&bed, &[web], Duration::from_millis(100)), 0);
}

#[test]
fn a_name_with_several_addresses_is_tried_through() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    // localhost is ::1 and 127.0.0.1, and nobody listens on the first.
    let path = bed.folder().join("kubeconfig");
    let config = std::fs::read_to_string(&path).unwrap();
    let named = config.replace("127.0.0.1", "localhost");
    assert_ne!(named, config);
    std::fs::write(&path, named).unwrap();
    let _proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
}

#[test]
fn connections_that_fall_silent_are_given_up_without_a_new_list() {
    let store = Store::new(StoreOptions::default());
    let server = ApiServer::start(store.clone()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.serve(listener).unwrap();
    let put = |name: &str, number| {
        let service = objects::service(name, objects::cluster_ip(number));
        store.seed(Resource::Service, [service]).unwrap();
    };
    put("first", 0);
    let api = Api {
        kubeconfig: None,
        master: Some(format!("http://{address}")),
    };
    let patience = Patience {
        silence: Duration::from_millis(700),
        ..Patience::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connection = connect_with(&api, patience, &ApiRequests::default())
            .await
            .unwrap();
        let (sender, mut heard) = tokio::sync::mpsc::channel(64);
        let _watches = start(&connection, "node-1", &sender);
        let mut next = async || {
            let heard = tokio::time::timeout(PATIENCE, heard.recv()).await;
            heard.unwrap().unwrap().event.unwrap()
        };
        let mut ended = [false; 4];
        while ended != [true; 4] {
            match next().await {
                Event::ServiceListEnds => ended[0] = true,
                Event::SliceListEnds => ended[1] = true,
                Event::NodeGone => ended[2] = true,
                Event::ServiceCidrListEnds => ended[3] = true,
                _ => {}
            }
        }
        for number in 1..4 {
            server.misbehaviour().mute_connections();
            let name = format!("late-{number}");
            put(&name, number);
            // The next that is heard of is the change: nothing is listed again.
            let heard = next().await;
            assert!(
                matches!(&heard, Event::Service(service) if service.name == name),
                "{heard:?} instead of {name}"
            );
        }
    });
}
