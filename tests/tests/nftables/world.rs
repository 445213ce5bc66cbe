//! What the API says, and a proxy's backend that brings it to the node.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use causeway_proxy::backend::{DataPlane, PassReport};
use lb_model::said::{EndpointSlice, Event, Service, ServicePort, SliceEndpoint, SlicePort};
use lb_model::{DetectLocal, Family, Model, ModelConfig, ServiceName};

use causeway_tests::packet_bed::{Bed, POD_PORT};

/// The ClusterIP with the last number `n`.
pub(crate) fn vip(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 96, 0, n]),
        Family::V6 => format!("fd00:96::{n:x}").parse().unwrap(),
    }
}

/// A Service of both families with TCP and UDP port 80 at [`vip`] `n`.
pub(crate) fn service(n: u8) -> Service {
    let port = |protocol: &str| ServicePort {
        name: protocol.to_lowercase(),
        protocol: protocol.into(),
        port: 80,
        node_port: 0,
    };
    Service {
        namespace: "default".into(),
        name: format!("s{n}"),
        cluster_ips: Family::ALL
            .map(|family| vip(family, n).to_string())
            .to_vec(),
        ports: vec![port("TCP"), port("UDP")],
        ..Service::default()
    }
}

/// [`service`] with node ports 30000 + `n`.
pub(crate) fn node_port_service(n: u8) -> Service {
    let mut service = service(n);
    service.kind = "NodePort".into();
    for port in &mut service.ports {
        port.node_port = 30_000 + i32::from(n);
    }
    service
}

/// The model of one node.
pub(crate) struct World {
    pub(crate) model: Model,
}

impl World {
    /// Nothing there, and that is known; pods are those of 10.244.0.0/16 and fd00:244::/32.
    pub(crate) fn empty() -> Self {
        Self::with(DetectLocal::ClusterCidr(vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:244::/32".parse().unwrap(),
        ]))
    }

    pub(crate) fn with(detect_local: DetectLocal) -> Self {
        let mut model = Model::new(ModelConfig {
            node_name: "node-0".into(),
            detect_local,
            masquerade_all: false,
        });
        for event in [
            Event::ServiceListBegins,
            Event::ServiceListEnds,
            Event::SliceListBegins,
            Event::SliceListEnds,
        ] {
            model.apply(event);
        }
        assert!(model.ready());
        Self { model }
    }

    pub(crate) fn say(&mut self, event: Event) {
        assert_eq!(self.model.apply(event), vec![]);
    }

    /// A Service with these pods behind it, in both families.
    pub(crate) fn serve(&mut self, bed: &Bed, service: &Service, pods: &[usize]) {
        self.say(Event::Service(service.clone()));
        self.endpoints(bed, service, pods);
    }

    /// The pods behind a Service: the third is on another node.
    pub(crate) fn endpoints(&mut self, bed: &Bed, service: &Service, pods: &[usize]) {
        for family in Family::ALL {
            let slice = self.slice(bed, service, family, pods);
            self.say(Event::Slice(slice));
        }
    }

    /// The slice that [`World::endpoints`] says.
    pub(crate) fn slice(
        &self,
        bed: &Bed,
        service: &Service,
        family: Family,
        pods: &[usize],
    ) -> EndpointSlice {
        let address_type = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let endpoint = |pod: &usize| SliceEndpoint {
            addresses: vec![bed.pod(*pod).ip(family).to_string()],
            node_name: if *pod == 3 { "node-1" } else { "node-0" }.into(),
            ..SliceEndpoint::default()
        };
        let ports = service.ports.iter().map(|port| SlicePort {
            name: port.name.clone(),
            protocol: port.protocol.clone(),
            port: Some(POD_PORT.into()),
        });
        EndpointSlice {
            namespace: service.namespace.clone(),
            name: format!("{}-{address_type}", service.name).to_lowercase(),
            service: service.name.clone(),
            address_type: address_type.into(),
            endpoints: pods.iter().map(endpoint).collect(),
            ports: ports.collect(),
            ..EndpointSlice::default()
        }
    }

    pub(crate) fn gone(&mut self, service: &Service) {
        self.say(Event::ServiceGone {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
        });
    }
}

/// A proxy's data plane on the node.
pub(crate) struct Proxy<'a, P> {
    bed: &'a Bed,
    pub(crate) backend: P,
    pending: BTreeSet<ServiceName>,
}

impl<'a, P: DataPlane + Send> Proxy<'a, P> {
    pub(crate) fn over(bed: &'a Bed, backend: P) -> Self {
        Self {
            bed,
            backend,
            pending: BTreeSet::new(),
        }
    }

    /// One pass, which may fail.
    pub(crate) fn try_sync(&mut self, world: &mut World) -> PassReport {
        let mut services = world.model.take_changes().services;
        services.append(&mut self.pending);
        let Self { bed, backend, .. } = self;
        let sync = || backend.sync(&world.model, &services);
        let report = bed.node.netns.run(sync).unwrap();
        self.pending = report.failed().cloned().collect();
        report
    }

    /// One pass, which must succeed.
    #[track_caller]
    pub(crate) fn sync(&mut self, world: &mut World) -> PassReport {
        let report = self.try_sync(world);
        assert!(report.complete(), "{report:?}");
        report
    }
}

/// Port 80 of [`vip`] `n`.
pub(crate) fn at(family: Family, n: u8) -> SocketAddr {
    SocketAddr::new(vip(family, n), 80)
}

/// Node port 30000 + `n`.
pub(crate) fn node_port(bed: &Bed, family: Family, n: u8) -> SocketAddr {
    SocketAddr::new(bed.node.ip(family), 30_000 + u16::from(n))
}

/// Before a change that faults come into: three Services.
pub(crate) fn old(bed: &Bed) -> World {
    let mut world = World::empty();
    world.serve(bed, &service(1), &[1]);
    world.serve(bed, &node_port_service(2), &[1, 2]);
    world.serve(bed, &service(3), &[2]);
    world
}

/// Then: one has another endpoint, one has affinity, one is gone, one is new.
pub(crate) fn change(bed: &Bed, world: &mut World) {
    world.endpoints(bed, &service(1), &[2]);
    let mut sticky = node_port_service(2);
    sticky.client_ip_affinity = true;
    world.serve(bed, &sticky, &[1, 2, 3]);
    world.gone(&service(3));
    world.serve(bed, &service(4), &[3]);
}

/// Which pod answers at `n`, if any.
pub(crate) fn pod(bed: &Bed, family: Family, n: u8) -> Option<usize> {
    bed.client.tcp(at(family, n)).ok().map(|seen| seen.pod)
}
