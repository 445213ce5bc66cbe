//! A proxy that starts on a node where one was before, and one that leaves.

use causeway_proxy::backend::ipvs::Options;
use causeway_tests::packet_bed::{Bed, ask};
use lb_model::Family;
use nodekit::ipvs::{Command, Service};
use nodekit::route::index_of;
use nodekit::sysctl;

use crate::proxy::{apply, cleanup, listing, tcp};
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
fn a_restart_finds_everything_done_and_connections_alive() {
    let bed = Bed::new();
    let mut before = world(&bed);
    let mut proxy = Proxy::start(&bed, &before);
    assert!(proxy.sync(&mut before).operations() > 100);
    drop(proxy);
    let mut streams = Family::ALL.map(|family| bed.client.connect(at(family, 1)).unwrap());
    let pods = streams.each_mut().map(|stream| ask(stream).unwrap().pod);
    let written = listing(&bed);

    let mut after = world(&bed);
    let mut proxy = Proxy::start(&bed, &after);
    assert_eq!(listing(&bed), written, "nothing before the first pass");
    let report = proxy.sync(&mut after);
    assert_eq!(report.operations(), 0, "{report:?}");
    assert!(report.families.values().all(|family| family.full));
    assert_eq!(listing(&bed), written);
    assert_eq!(
        streams.each_mut().map(|stream| ask(stream).unwrap().pod),
        pods
    );
}

#[test]
fn what_went_while_nobody_looked_is_removed_but_what_is_excluded() {
    let bed = Bed::new();
    let mut before = world(&bed);
    Proxy::start(&bed, &before).sync(&mut before);
    let theirs = tcp("192.0.2.77".parse().unwrap(), 80);
    let left = tcp("10.96.0.99".parse().unwrap(), 80);
    let foreign = [theirs, left].map(|key| {
        Command::AddService(Service {
            key,
            scheduler: "rr".to_owned(),
            persistence: None,
            hash_port: false,
        })
    });
    apply(&bed, &foreign);
    let mut after = World::empty();
    after.serve(&bed, &service(1), &[3]);
    let options = Options {
        excluded: vec!["192.0.2.64/26".parse().unwrap()],
        ..Options::default()
    };
    let mut proxy = Proxy::with(&bed, &after, &options);
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
    let now = listing(&bed);
    assert!(
        now.contains(&"tcp 192.0.2.77:80 rr 0".to_owned()),
        "{now:?}"
    );
    assert!(
        !now.iter().any(|line| line.contains("10.96.0.99")),
        "{now:?}"
    );

    drop(proxy);
    cleanup(&bed, &options);
    assert_eq!(listing(&bed), ["tcp 192.0.2.77:80 rr 0"]);
    let device = || index_of("kube-ipvs0").unwrap();
    assert_eq!(bed.node.netns.run(device).unwrap(), None);
    // Where it never was, it has nothing to do with what others have.
    cleanup(&bed, &Options::default());
    assert_eq!(listing(&bed), ["tcp 192.0.2.77:80 rr 0"]);
}

#[test]
fn another_scheduler_is_taken_and_connections_stay() {
    let bed = Bed::new();
    let mut before = world(&bed);
    Proxy::start(&bed, &before).sync(&mut before);
    let mut streams = Family::ALL.map(|family| bed.client.connect(at(family, 1)).unwrap());
    let pods = streams.each_mut().map(|stream| ask(stream).unwrap().pod);
    let mut after = world(&bed);
    let options = Options {
        scheduler: "mh".to_owned(),
        strict_arp: true,
        ..Options::default()
    };
    let mut proxy = Proxy::with(&bed, &after, &options);
    proxy.sync(&mut after);
    let services = listing(&bed);
    let services = services.iter().filter(|line| line.contains(" mh "));
    // Of both families: three Services' TCP and UDP, and one's node port.
    assert_eq!(services.count(), 16);
    assert_eq!(
        streams.each_mut().map(|stream| ask(stream).unwrap().pod),
        pods
    );
    for family in Family::ALL {
        assert!(bed.client.tcp(at(family, 2)).is_ok());
    }
    let of_all = |name: &str| {
        let key = sysctl::Key::ipv4_conf("all", name).unwrap();
        bed.node.netns.run(|| sysctl::read(&key).unwrap()).unwrap()
    };
    assert_eq!(
        (of_all("arp_ignore"), of_all("arp_announce")),
        ("1".into(), "2".into())
    );
}
