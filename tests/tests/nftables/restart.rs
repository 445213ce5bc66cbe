//! A proxy that starts on a node where one was before.

use std::process::Command;

use causeway_proxy::backend::NftablesBackend;
use lb_model::{DetectLocal, Family};
use nodekit::nft::{Batch, NftSocket, Table};

use crate::drift::{noticed, sorted};
use crate::world::{Proxy, World, at, node_port, node_port_service, service};
use causeway_tests::packet_bed::{Bed, ask};

/// `nft` with these words on the node.
pub(crate) fn nft(bed: &Bed, words: &str) -> String {
    let run = || Command::new("nft").args(words.split(' ')).output();
    let output = bed.node.netns.run(run).unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Three Services, one of them with all that there is.
pub(crate) fn world(bed: &Bed) -> World {
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
fn a_restart_finds_everything_done_and_connections_alive() {
    let bed = Bed::new();
    let mut before = world(&bed);
    let mut proxy = Proxy::start(&bed, &before);
    assert!(proxy.sync(&mut before).operations() > 100);
    drop(proxy);
    let mut streams = Family::ALL.map(|family| bed.client.connect(at(family, 1)).unwrap());
    let pods = streams.each_mut().map(|stream| ask(stream).unwrap().pod);
    let remembered = bed.client.tcp(node_port(&bed, Family::V4, 3)).unwrap();
    let listing = nft(&bed, "list ruleset");

    let mut after = world(&bed);
    let mut proxy = Proxy::start(&bed, &after);
    let report = proxy.sync(&mut after);
    assert_eq!(report.operations(), 0, "{report:?}");
    assert!(report.families.values().all(|family| family.full));
    let shape = |listing: &str| -> Vec<String> {
        let lines = listing.lines().filter(|line| !line.contains("expires"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(shape(&nft(&bed, "list ruleset")), shape(&listing));
    assert_eq!(
        streams.each_mut().map(|stream| ask(stream).unwrap().pod),
        pods
    );
    assert_eq!(
        bed.client.tcp(node_port(&bed, Family::V4, 3)).unwrap(),
        remembered
    );
}

#[test]
fn what_went_while_nobody_looked_is_removed() {
    let bed = Bed::new();
    let mut before = world(&bed);
    Proxy::start(&bed, &before).sync(&mut before);
    let mut after = World::empty();
    after.serve(&bed, &service(1), &[3]);
    let mut proxy = Proxy::start(&bed, &after);
    assert!(
        bed.client.tcp(at(Family::V4, 2)).is_ok(),
        "nothing goes before the first pass"
    );
    proxy.sync(&mut after);
    for family in Family::ALL {
        assert_eq!(bed.client.tcp(at(family, 1)).unwrap().pod, 3);
        assert!(bed.client.tcp(at(family, 2)).is_err());
        assert!(bed.client.tcp(node_port(&bed, family, 3)).is_err());
    }
    let listing = nft(&bed, "list ruleset");
    assert!(
        !listing.contains("local") && !listing.contains("10.244.1.2 . 8080"),
        "{listing}"
    );
}

#[test]
fn what_others_do_between_the_start_and_the_first_pass_is_seen() {
    let bed = Bed::new();
    let mut before = world(&bed);
    Proxy::start(&bed, &before).sync(&mut before);
    let listing = sorted(&nft(&bed, "list ruleset"));
    let mut after = world(&bed);
    let mut proxy = Proxy::start(&bed, &after);
    nft(
        &bed,
        "delete element ip causeway frontends { 10.96.0.1 . tcp . 80 }; \
         delete element ip causeway endpoints { 10.96.0.2 . tcp . 80 . 0x0 }; \
         add element ip causeway endpoints { 10.96.0.2 . tcp . 80 . 0x0 : 10.244.3.2 . 1 }; \
         delete element ip6 causeway endpoints { fd00:96::2 . tcp . 80 . 0x1 }",
    );
    proxy.sync(&mut after);
    assert_eq!(sorted(&nft(&bed, "list ruleset")), listing);
}

#[test]
fn endpoints_that_no_frontend_draws_from_are_not_in_the_way_and_go() {
    let bed = Bed::new();
    let mut before = world(&bed);
    Proxy::start(&bed, &before).sync(&mut before);
    let element = |n: u8| format!("{{ 10.96.0.{n} . tcp . 80 . 0x0 : 10.244.3.2 . 1 }}");
    for n in [7, 9] {
        nft(
            &bed,
            &format!("add element ip causeway endpoints {}", element(n)),
        );
    }
    let mut after = world(&bed);
    let mut proxy = Proxy::start(&bed, &after);
    assert_eq!(proxy.sync(&mut after).operations(), 0);
    // One is where a new Service's endpoint belongs.
    after.serve(&bed, &service(9), &[1]);
    proxy.sync(&mut after);
    assert_eq!(bed.client.tcp(at(Family::V4, 9)).unwrap().pod, 1);
    if noticed(&bed, &mut proxy) {
        proxy.sync(&mut after);
    }
    let listing = nft(&bed, "list map ip causeway endpoints");
    assert!(
        listing.contains("10.96.0.9 .") && !listing.contains("10.96.0.7 ."),
        "{listing}"
    );
}

#[test]
fn other_settings_replace_the_table_at_once() {
    let bed = Bed::new();
    let mut before = world(&bed);
    Proxy::start(&bed, &before).sync(&mut before);
    let mut stream = bed.client.connect(at(Family::V4, 1)).unwrap();
    let mut after = World::with(DetectLocal::Prefix("veth".into()));
    after.serve(&bed, &service(1), &[3]);
    let mut proxy = Proxy::start(&bed, &after);
    let report = proxy.sync(&mut after);
    assert!(
        report
            .families
            .values()
            .all(|family| family.transactions == 1),
        "{report:?}"
    );
    assert_eq!(bed.client.tcp(at(Family::V4, 1)).unwrap().pod, 3);
    assert!(bed.client.tcp(at(Family::V4, 2)).is_err());
    assert!(ask(&mut stream).is_ok());
}

#[test]
fn cleanup_takes_our_tables_and_no_others() {
    let bed = Bed::new();
    let mut world = world(&bed);
    Proxy::start(&bed, &world).sync(&mut world);
    let other = || {
        let mut batch = Batch::new(nodekit::nft::Family::Inet, "somebody-elses");
        batch.create_table(0, &Table::default());
        NftSocket::open().unwrap().commit(&batch).unwrap();
    };
    bed.node.netns.run(other).unwrap();
    for _ in 0..2 {
        bed.node
            .netns
            .run(NftablesBackend::cleanup)
            .unwrap()
            .unwrap();
        assert_eq!(nft(&bed, "list tables").trim(), "table inet somebody-elses");
    }
}
