//! How many Services, and how many endpoints of each.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS};
use netns_lab::apiserver::Resource;
use serde_json::json;

/// A cluster's size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
}

impl Load {
    /// Reads `1000x10,…`.
    pub(crate) fn list(text: &str) -> anyhow::Result<Vec<Self>> {
        text.split(',')
            .map(|part| {
                let (services, endpoints) = part.split_once('x').context("as 1000x10")?;
                Ok(Self {
                    services: services.parse()?,
                    endpoints: endpoints.parse()?,
                })
            })
            .collect::<anyhow::Result<_>>()
            .with_context(|| format!("--loads {text}: accepted is a list as 1000x10,5000x50"))
    }

    /// Stores everything, and one more Service with one endpoint, the probe.
    pub(crate) fn fill(self, bed: &Bed) -> anyhow::Result<()> {
        for index in 0..self.services {
            bed.store.seed(
                Resource::Service,
                [service(&name(index), cluster_ip(index))],
            )?;
        }
        self.set_ports(bed, 0..self.services, PORTS[0])?;
        self.set_probe(bed, PORTS[0])?;
        bed.store.seed(
            Resource::Service,
            [service("probe", cluster_ip(self.services))],
        )?;
        Ok(())
    }

    /// Writes the slices of these Services anew: all endpoints answer with `port`.
    pub(crate) fn set_ports(
        self,
        bed: &Bed,
        indexes: impl IntoIterator<Item = usize>,
        port: u16,
    ) -> anyhow::Result<()> {
        let slices = indexes.into_iter().map(|index| {
            let ips = (0..self.endpoints).map(|number| endpoint_ip(index, number, self.endpoints));
            slice(&name(index), ips, port)
        });
        Ok(bed.store.seed(Resource::EndpointSlice, slices)?)
    }

    /// Each of these Services has one endpoint more, in a slice of its own, that answers with `port`.
    pub(crate) fn set_one_more(
        self,
        bed: &Bed,
        indexes: impl IntoIterator<Item = usize>,
        port: u16,
    ) -> anyhow::Result<()> {
        let all = self.services * self.endpoints;
        let slices = indexes.into_iter().map(|index| {
            let mut one = slice(&name(index), [endpoint_ip(0, all + 1 + index, 0)], port);
            one["metadata"]["name"] = json!(format!("{}-one-more", name(index)));
            one
        });
        Ok(bed.store.seed(Resource::EndpointSlice, slices)?)
    }

    /// The probe's one endpoint answers with `port` from now on.
    pub(crate) fn set_probe(self, bed: &Bed, port: u16) -> anyhow::Result<()> {
        let ip = endpoint_ip(self.services, 0, self.endpoints);
        Ok(bed
            .store
            .seed(Resource::EndpointSlice, [slice("probe", [ip], port)])?)
    }

    /// Where the probe is reached.
    pub(crate) fn probe(self) -> SocketAddr {
        target(self.services)
    }
}

/// Where Service number `index` is reached.
pub(crate) fn target(index: usize) -> SocketAddr {
    (IpAddr::from(cluster_ip(index)), 80).into()
}

fn name(index: usize) -> String {
    format!("service-{index:05}")
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.services, self.endpoints)
    }
}
