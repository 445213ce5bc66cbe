//! What can be changed, as data.

use std::fmt;
use std::net::IpAddr;

use nix::errno::Errno;

use super::object::{Destination, Service, ServiceKey};
use super::{DESTINATION, SERVICE, VERSION, encoded};
use crate::netlink::{Error, generic_request};

/// `IPVS_CMD_NEW_SERVICE`
const NEW_SERVICE: u8 = 1;
/// `IPVS_CMD_SET_SERVICE`
const SET_SERVICE: u8 = 2;
/// `IPVS_CMD_DEL_SERVICE`
const DEL_SERVICE: u8 = 3;
/// `IPVS_CMD_NEW_DEST`
const NEW_DESTINATION: u8 = 5;
/// `IPVS_CMD_SET_DEST`
const SET_DESTINATION: u8 = 6;
/// `IPVS_CMD_DEL_DEST`
const DEL_DESTINATION: u8 = 7;

/// One change, for [`IpvsSocket::apply`](super::IpvsSocket::apply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes a service.
    AddService(Service),
    /// Gives a service this scheduler, persistence and hash. Its connections stay where they are.
    SetService(Service),
    /// Takes a service away with its destinations, if it is there. Its connections end with their
    /// next packet or go on, as the sysctl `net.ipv4.vs.expire_nodest_conn` says.
    DeleteService(ServiceKey),
    /// Adds a destination to a service.
    AddDestination(ServiceKey, Destination),
    /// Gives a destination this weight.
    SetDestination(ServiceKey, Destination),
    /// Takes the destination of that address and port away from a service, if it is there.
    DeleteDestination(ServiceKey, IpAddr, u16),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService(service) => write!(f, "add IPVS service {service}"),
            Self::SetService(service) => write!(f, "set IPVS service {service}"),
            Self::DeleteService(key) => write!(f, "delete IPVS service {key}"),
            Self::AddDestination(key, destination) => {
                write!(f, "add destination {destination} to IPVS service {key}")
            }
            Self::SetDestination(key, destination) => {
                write!(f, "set destination {destination} of IPVS service {key}")
            }
            Self::DeleteDestination(key, ip, port) => {
                let address = std::net::SocketAddr::new(*ip, *port);
                write!(f, "delete destination {address} from IPVS service {key}")
            }
        }
    }
}

impl Command {
    /// The message behind the netlink header.
    pub(super) fn encoded(&self) -> Result<Vec<u8>, Error> {
        let (number, key) = match self {
            Self::AddService(service) => (NEW_SERVICE, service.key),
            Self::SetService(service) => (SET_SERVICE, service.key),
            Self::DeleteService(key) => (DEL_SERVICE, *key),
            Self::AddDestination(key, _) => (NEW_DESTINATION, *key),
            Self::SetDestination(key, _) => (SET_DESTINATION, *key),
            Self::DeleteDestination(key, ..) => (DEL_DESTINATION, *key),
        };
        let mut request = generic_request(number, VERSION);
        request.nested(SERVICE, |writer| match self {
            Self::AddService(service) | Self::SetService(service) => service.write(writer),
            _ => key.write(writer),
        });
        match self {
            Self::AddDestination(_, destination) | Self::SetDestination(_, destination) => {
                request.nested(DESTINATION, |writer| destination.write(writer));
            }
            Self::DeleteDestination(_, ip, port) => {
                request.nested(DESTINATION, |writer| Destination::name(writer, *ip, *port));
            }
            Self::AddService(_) | Self::SetService(_) | Self::DeleteService(_) => {}
        }
        encoded(self, request)
    }

    /// Whether a refusal means that there is nothing to do: what should be deleted isn't there.
    pub(super) fn is_done_by(&self, refusal: Errno) -> bool {
        match self {
            Self::DeleteService(_) => refusal == Errno::ESRCH,
            Self::DeleteDestination(..) => matches!(refusal, Errno::ESRCH | Errno::ENOENT),
            _ => false,
        }
    }
}
