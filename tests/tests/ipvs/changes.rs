//! Changes, others' among them.

use std::net::TcpStream;
use std::time::Duration;

use causeway_tests::packet_bed::{Bed, ask};
use causeway_tests::proxy_bed::wait_until;
use lb_model::{Family, ServiceName};
use nodekit::ipvs::{Command, Service};
use nodekit::route::{Handle, index_of};

use crate::proxy::{apply, listing, tcp};
use crate::world::{
    Proxy, World, at, change, node_port, node_port_service, old, pod, service, vip,
};

/// An emulated machine is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn changes_reach_the_kernel_as_a_fresh_start_would_have_it() {
    let bed = Bed::new();
    let mut world = old(&bed);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    assert_eq!(pod(&bed, Family::V4, 1), Some(1));
    change(&bed, &mut world);
    proxy.sync(&mut world);
    for family in Family::ALL {
        let sticky = pod(&bed, family, 2);
        assert!(sticky.is_some() && (0..5).all(|_| pod(&bed, family, 2) == sticky));
        let others = [1, 3, 4].map(|n| pod(&bed, family, n));
        assert_eq!(others, [Some(2), None, Some(3)]);
    }
    let lines = listing(&bed);
    let lasts = |line: &&String| line.ends_with(" rr 10800");
    // Of both families: TCP and UDP, and their node ports.
    assert_eq!(lines.iter().filter(lasts).count(), 8, "{lines:?}");
}

#[test]
fn what_others_remove_comes_back() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &service(1), &[1, 2]);
    world.serve(&bed, &node_port_service(2), &[2, 3]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let written = listing(&bed);
    let v4 = |n| vip(Family::V4, n);
    let endpoint = bed.pod(2).ip(Family::V4);
    let commands = [
        Command::DeleteService(tcp(v4(1), 80)),
        Command::DeleteDestination(tcp(v4(2), 80), endpoint, 8080),
        Command::AddService(Service {
            key: tcp(v4(7), 80),
            scheduler: "rr".to_owned(),
            persistence: None,
            hash_port: false,
        }),
    ];
    let route = |act: &(dyn Fn(&mut Handle, u32) + Sync)| {
        let run = || {
            let device = index_of("kube-ipvs0").unwrap().unwrap();
            act(&mut Handle::open().unwrap(), device);
        };
        bed.node.netns.run(run).unwrap();
    };
    let mut repaired = |proxy: &mut Proxy<'_, _>, what: &str| {
        assert_ne!(listing(&bed), written, "{what}");
        let looked = || proxy.drifted(&bed);
        // Reading back has its share of the time only.
        wait_until(what, PATIENCE, looked).unwrap();
        let report = proxy.sync(&mut world);
        assert!(report.operations() > 0, "{what}");
        assert_eq!(listing(&bed), written, "{what}");
        for family in Family::ALL {
            assert!(bed.client.tcp(at(family, 1)).is_ok(), "{what}");
            assert!(bed.client.tcp(node_port(&bed, family, 2)).is_ok(), "{what}");
        }
    };
    for command in commands {
        apply(&bed, std::slice::from_ref(&command));
        repaired(&mut proxy, &command.to_string());
    }
    route(&|handle, device| {
        let address = "10.96.0.1/32".parse().unwrap();
        handle.delete_address(device, address).unwrap();
    });
    repaired(&mut proxy, "an address");
    route(&|handle, device| handle.delete_link(device).unwrap());
    repaired(&mut proxy, "the device");
}

/// Somebody takes what a Service needs; the others do not notice, and it is put right.
#[test]
fn what_is_there_already_is_in_the_way_of_its_service_only() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &service(1), &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let foreign = Service {
        key: tcp(vip(Family::V4, 2), 80),
        scheduler: "lc".to_owned(),
        persistence: None,
        hash_port: false,
    };
    apply(&bed, &[Command::AddService(foreign)]);
    world.serve(&bed, &service(2), &[2]);
    world.serve(&bed, &service(3), &[3]);
    let report = proxy.try_sync(&mut world);
    let failed: Vec<&ServiceName> = report.failed().collect();
    assert_eq!(failed, [&ServiceName::new("default", "s2")]);
    for family in Family::ALL {
        assert_eq!(
            (pod(&bed, family, 1), pod(&bed, family, 3)),
            (Some(1), Some(3))
        );
    }
    proxy.sync(&mut world);
    for family in Family::ALL {
        assert_eq!(pod(&bed, family, 2), Some(2));
    }
    let now = listing(&bed);
    assert!(now.contains(&"tcp 10.96.0.2:80 rr 0".to_owned()), "{now:?}");
}

/// It has its connections until they end, and is gone then.
#[test]
fn an_endpoint_that_left_drains() {
    let bed = Bed::new();
    let mut world = World::empty();
    world.serve(&bed, &service(1), &[1]);
    let mut proxy = Proxy::start(&bed, &world);
    proxy.sync(&mut world);
    let mut stream: TcpStream = bed.client.connect(at(Family::V4, 1)).unwrap();
    assert_eq!(ask(&mut stream).unwrap().pod, 1);
    world.endpoints(&bed, &service(1), &[2]);
    let report = proxy.sync(&mut world);
    assert!(report.look_again().is_some(), "{report:?}");
    assert_eq!(bed.client.tcp(at(Family::V4, 1)).unwrap().pod, 2);
    assert_eq!(ask(&mut stream).unwrap().pod, 1);
    let draining = "tcp 10.96.0.1:80 -> 10.244.1.2:8080 0".to_owned();
    assert!(listing(&bed).contains(&draining), "{:?}", listing(&bed));
    // The Service goes, and it still has the connection.
    world.gone(&service(1));
    proxy.sync(&mut world);
    assert!(bed.client.tcp(at(Family::V4, 1)).is_err());
    assert_eq!(ask(&mut stream).unwrap().pod, 1);
    // Reset, of which IPVS remembers nothing after ten seconds.
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    wait_until("the end of what drains", PATIENCE, || {
        proxy.sync(&mut world);
        std::thread::sleep(Duration::from_millis(200));
        // (Of closed ones IPVS remembers something for two minutes.)
        let lines = listing(&bed);
        !lines.iter().any(|line| line.contains("-> 10.244.1.2:"))
    })
    .unwrap();
}
