//! What the API server says, as model events. Never decides anything, and no Kubernetes type
//! leaves this folder.

mod bounded;
mod client;
mod count;
mod kind;
pub mod kubeconfig;
mod node;
mod service;
mod service_cidr;
mod slice;
mod stream;
mod tolerant;
mod trouble;

use std::time::Instant;

use lb_model::Complaint;
use lb_model::said::Event;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use kind::Kind;

pub use client::{ClientError, Connection, Patience, connect, connect_with};

/// An event, and when it arrived here.
#[derive(Debug)]
pub struct Heard {
    /// When the daemon had it in hand, decoded.
    pub at: Instant,
    /// What happened; `None`: an object of which nothing can be used, so that what is in force of
    /// it stays until the next full list.
    pub event: Option<Event>,
    /// Fields that could not even be read; the rest of the object is in `event`.
    pub complaints: Vec<Complaint>,
}

/// What `json` says, an object of the watched kind called `kind` as an API server writes it; `None`:
/// that kind is not watched, or `json` is none at all.
pub fn read(kind: &str, json: &str) -> Option<Heard> {
    match kind {
        service::Services::NAME => stream::read::<service::Services>(json),
        slice::Slices::NAME => stream::read::<slice::Slices>(json),
        node::OwnNode::NAME => stream::read::<node::OwnNode>(json),
        service_cidr::ServiceCidrs::NAME => stream::read::<service_cidr::ServiceCidrs>(json),
        _ => None,
    }
}

/// Watches Services, EndpointSlices, ServiceCIDRs and Node `node_name`, for as long as `out` has a receiver.
/// The API server may come and go: that is logged once, and tried again.
pub fn start(api: &Connection, node_name: &str, out: &mpsc::Sender<Heard>) -> JoinSet<()> {
    let trouble = trouble::Trouble::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(stream::watch::<service::Services>(
        api.clone(),
        stream::labelled("!service.kubernetes.io/service-proxy-name"),
        out.clone(),
        trouble.clone(),
    ));
    tasks.spawn(stream::watch::<slice::Slices>(
        api.clone(),
        stream::labelled("!service.kubernetes.io/headless"),
        out.clone(),
        trouble.clone(),
    ));
    tasks.spawn(stream::watch::<node::OwnNode>(
        api.clone(),
        stream::named(node_name),
        out.clone(),
        trouble.clone(),
    ));
    tasks.spawn(stream::watch::<service_cidr::ServiceCidrs>(
        api.clone(),
        stream::labelled(""),
        out.clone(),
        trouble,
    ));
    tasks
}
