//! The IPVS data plane: the kernel's virtual servers choose the endpoints.
//!
//! A frontend that IPVS [`takes`] is a virtual service, one for each address of the node where it is
//! a node port, and its endpoints are the service's destinations. Addresses of Services are bound to
//! a device of their own, since IPVS serves only what is the node's. Whatever else a frontend asks
//! for (masquerade, source ranges, answers without an endpoint), and those that tell sources apart,
//! is in the table of [`crate::nftables`], with [`crate::nftables::Balancer::Ipvs`].
//!
//! [`Applied`] is what the kernel has. It gives the operations to what a Service wants, and changes by
//! those that the kernel took, one by one: what was refused is asked for again by the next plan.
//!
//! A destination that is no endpoint for new connections any more *drains* where established ones may
//! go on with it: its weight is 0 until it has none.

mod applied;
mod operation;
mod render;
mod virtual_ipvs;

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_model::{Endpoint, Family, Frontend, Masquerade, Protocol, Treatment};

pub use applied::{Applied, Found};
pub use operation::{Key, Operation, Service};
pub use render::{DEVICE, render};
pub use virtual_ipvs::{Refusal, VirtualIpvs, walk};

/// What all virtual services of one family depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The family.
    pub family: Family,
    /// How a destination is chosen: the name of one of the kernel's schedulers.
    pub scheduler: String,
    /// The addresses on which node ports are served.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Addresses that are the node's own, so that they need not be bound, and are never unbound.
    pub own: BTreeSet<IpAddr>,
}

/// The endpoints that IPVS chooses from for `frontend`, and when the source is rewritten. `None`: it
/// tells sources apart, which IPVS can't, or has no endpoints.
pub fn takes(frontend: &Frontend) -> Option<(&[Endpoint], Masquerade)> {
    match &frontend.treatment {
        Treatment::Forward {
            endpoints,
            masquerade,
        } => Some((endpoints, *masquerade)),
        Treatment::LocalOnly { .. } | Treatment::Reject | Treatment::Drop => None,
    }
}

/// Whether connections of this kind are left to themselves even when their endpoint serves no more. A
/// UDP flow is then sent elsewhere, as in every data plane; SCTP is treated as kube-proxy does it.
const fn outlives(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp)
}
