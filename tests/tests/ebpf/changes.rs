//! What a change costs.

use std::net::Ipv4Addr;

use lb_model::said::{EndpointSlice, Event, Service, ServicePort, SliceEndpoint, SlicePort};

use crate::node::on_a_node;
use crate::world::World;

const SERVICES: u32 = 1_000;
const ENDPOINTS: u32 = 10;

fn name(index: u32) -> String {
    format!("s{index}")
}

fn service(index: u32) -> Service {
    Service {
        namespace: "default".into(),
        name: name(index),
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + index).to_string()],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: "TCP".into(),
            port: 80,
            node_port: 0,
        }],
        ..Service::default()
    }
}

/// Its endpoints are numbers `first` and up of its own.
fn slice(index: u32, first: u32) -> EndpointSlice {
    let endpoint = |number| SliceEndpoint {
        addresses: vec![Ipv4Addr::from(0x0af4_0000 + index * 16 + number).to_string()],
        ..SliceEndpoint::default()
    };
    EndpointSlice {
        namespace: "default".into(),
        name: name(index),
        service: name(index),
        address_type: "IPv4".into(),
        endpoints: (first..first + ENDPOINTS).map(endpoint).collect(),
        ports: vec![SlicePort {
            name: String::new(),
            protocol: "TCP".into(),
            port: Some(8080),
        }],
        ..EndpointSlice::default()
    }
}

/// A slot of a set written, and what is remembered of it.
const HANDFUL: usize = 4;

#[test]
fn one_endpoint_costs_a_handful_of_operations_however_many_services_there_are() {
    on_a_node(|node| {
        let mut world = World::empty();
        for index in 0..SERVICES {
            world.say(Event::Service(service(index)));
            world.say(Event::Slice(slice(index, 0)));
        }
        let mut proxy = node.start(&world);
        let all = usize::try_from(SERVICES * ENDPOINTS).unwrap();
        assert!(proxy.sync(&mut world).operations() > all);

        world.say(Event::Slice(slice(SERVICES / 2, 1)));
        let report = proxy.sync(&mut world);
        let operations = report.operations();

        assert!((1..=HANDFUL).contains(&operations), "{report:?}");
        assert_eq!(proxy.sync(&mut world).operations(), 0);
    });
}
