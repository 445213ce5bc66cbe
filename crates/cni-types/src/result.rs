//! What ADD answers, in one internal shape (that of 1.1.0), and its reading and writing.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::Serialize;

use crate::{Cidr, Dns, Route};

/// The result of a successful ADD, and what `prevResult` carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Success {
    /// The interfaces that the attachment made or uses.
    pub interfaces: Vec<Interface>,
    /// The addresses that were given.
    pub ips: Vec<IpConfig>,
    /// The routes that were made in the pod.
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The name in its namespace.
    pub name: String,
    /// The hardware address; empty where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The maximum transmission unit in bytes (since 1.1.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the network namespace; empty for the host's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// The path of a vhost-user socket (since 1.1.0).
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The address of a PCI device (since 1.1.0).
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpConfig {
    /// The address with its subnet's prefix.
    pub address: Cidr,
    /// The subnet's default gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The index into [`Success::interfaces`]; absent in the result of an IPAM plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}
