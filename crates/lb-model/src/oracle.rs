//! The oracle: where must this packet go?

use std::net::IpAddr;

use crate::frontend::{Endpoint, Protocol};
use crate::model::Model;

/// The first packet of a connection, as the node sees it before any translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Interface it came in through; `None` when the node itself sends it.
    pub interface: Option<String>,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// The source is an address of this node (`fib saddr type local`).
    pub source_is_node: bool,
    /// The destination is one of this node's node-port addresses.
    pub destination_is_node_port_address: bool,
}

/// Where a packet must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one of these endpoints, each equally likely.
    Endpoints {
        /// The candidates, sorted.
        candidates: Vec<Endpoint>,
        /// Whether the source is rewritten (hairpin apart: see [`Route::masqueraded_to`]).
        masquerade: bool,
    },
    /// ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
    /// Not a frontend of ours: passes untouched.
    NotOurs,
}

impl Model {
    /// Where `packet` must go.
    pub fn route_packet(&self, _packet: &Packet) -> Route {
        Route::NotOurs
    }
}
