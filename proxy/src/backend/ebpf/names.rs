//! Whose number is whose, out of the pinned maps.

use std::fmt;

use causeway_ebpf_abi::{PortName, maps};
use serde::Serialize;

use super::Error;
use super::entries::Entry;
use super::pinned::{Opened, Pinned, present};
use super::sockets::failed;

/// The names of Service ports.
pub(super) struct Names(Opened<u32, Entry<PortName>>);

impl Names {
    pub(super) fn open(pinned: &Pinned) -> Result<Self, Error> {
        Ok(Self(pinned.map(maps::SERVICES)?))
    }

    /// Whose that number is.
    pub(super) fn of(&self, number: u32) -> Result<Option<ServicePortName>, Error> {
        let found = present(self.0.get(&number, 0)).map_err(failed(maps::SERVICES))?;
        Ok(found.and_then(|name| ServicePortName::read(name.0.as_str())))
    }
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortName {
    /// Its namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The port's name, which may be empty.
    pub port: String,
}

impl ServicePortName {
    fn read(name: &str) -> Option<Self> {
        let (namespace, rest) = name.split_once('/')?;
        let (service, port) = rest.split_once(':').unwrap_or((rest, ""));
        Some(Self {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port: port.to_owned(),
        })
    }
}

/// As Kubernetes writes it.
impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        match self.port.as_str() {
            "" => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for name in ["default/web:http", "kube-system/dns"] {
            assert_eq!(ServicePortName::read(name).unwrap().to_string(), name);
        }
        assert_eq!(ServicePortName::read(""), None);
        let longest = format!("{0}/{0}:{0}", "x".repeat(63));
        assert_eq!(PortName::new(&longest).as_str(), longest);
    }
}
