//! IPVS, the kernel's own load balancer: virtual services, and the destinations behind them.
//!
//! It never touches a service that its caller didn't name, and takes the absence of what should be
//! deleted for success. Services that are found by a firewall mark are not seen; destinations get
//! their packets by translation (masquerading, `IP_VS_CONN_F_MASQ`), the one method that reaches
//! another port. Source: `linux/ip_vs.h`, and `net/netfilter/ipvs/ip_vs_ctl.c` for what the kernel
//! asks of each command.

mod command;
mod object;

pub use command::Command;
pub use object::{Destination, DestinationState, Service, ServiceKey};

use std::fmt::Display;

use crate::netlink::{
    AttrWriter, DUMP_ATTEMPTS, Error, Message, Protocol, Socket, attrs, generic_request,
};

/// `IPVS_GENL_NAME`
const FAMILY: &str = "IPVS";
/// `IPVS_GENL_VERSION`
const VERSION: u8 = 1;

/// `IPVS_CMD_GET_SERVICE`
const GET_SERVICE: u8 = 4;
/// `IPVS_CMD_GET_DEST`
const GET_DESTINATION: u8 = 8;
/// `IPVS_CMD_SET_CONFIG`
const SET_CONFIG: u8 = 12;
/// `IPVS_CMD_GET_CONFIG`
const GET_CONFIG: u8 = 13;

/// `IPVS_CMD_ATTR_SERVICE`
const SERVICE: u16 = 1;
/// `IPVS_CMD_ATTR_DEST`
const DESTINATION: u16 = 2;
/// `IPVS_CMD_ATTR_TIMEOUT_TCP`
const TIMEOUT_TCP: u16 = 4;
/// `IPVS_CMD_ATTR_TIMEOUT_TCP_FIN`
const TIMEOUT_TCP_FIN: u16 = 5;
/// `IPVS_CMD_ATTR_TIMEOUT_UDP`
const TIMEOUT_UDP: u16 = 6;

/// How long a connection without a packet is remembered, in seconds. To set, 0 leaves what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection.
    pub tcp: u32,
    /// A TCP connection after a FIN.
    pub tcp_fin: u32,
    /// Datagrams of the same addresses and ports.
    pub udp: u32,
}

/// A connection to the IPVS of the network namespace it was opened in.
#[derive(Debug)]
pub struct IpvsSocket {
    socket: Socket,
    /// The type of its messages.
    family: u16,
}

impl IpvsSocket {
    /// Opens a connection in the calling thread's network namespace. The kernel loads module `ip_vs`
    /// where it can.
    ///
    /// # Errors
    /// As [`Socket::open`]; `ENOENT` from the kernel where it has no IPVS.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Generic)?;
        let family = socket.generic_family(FAMILY)?;
        Ok(Self { socket, family })
    }

    /// All services of an address.
    ///
    /// The kernel goes on with a dump where it counted to, in a list that all namespaces share, and
    /// doesn't say when that changed meanwhile: so a service may be missing, or there twice. They are
    /// listed until two lists in a row are the same.
    ///
    /// # Errors
    /// As [`Socket::dump`]; [`Error::Interrupted`] where no two lists were the same.
    pub fn services(&mut self) -> Result<Vec<Service>, Error> {
        let what = "list IPVS services";
        let mut services = self.services_once(&what)?;
        for _ in 1..DUMP_ATTEMPTS {
            let again = self.services_once(&what)?;
            if again == services {
                return Ok(services);
            }
            services = again;
        }
        Err(Error::Interrupted {
            operation: what.to_owned(),
            attempts: DUMP_ATTEMPTS,
        })
    }

    fn services_once(&mut self, what: &dyn Display) -> Result<Vec<Service>, Error> {
        let request = encoded(what, generic_request(GET_SERVICE, VERSION))?;
        self.socket
            .dump(what, self.family, &request, |message, found| {
                let attributes = attributes_of(message);
                let service = attrs(attributes).find(SERVICE);
                let service =
                    service.ok_or_else(|| Error::malformed(what, "an answer without a service"))?;
                found.extend(Service::read(what, &service.nested())?);
                Ok(())
            })
    }

    /// The destinations of a service, none where there is no such service. Some may be missing if
    /// somebody else changes that service's at the same time.
    ///
    /// # Errors
    /// As [`Socket::dump`].
    pub fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<DestinationState>, Error> {
        let what = format!("list the destinations of IPVS service {key}");
        let mut request = generic_request(GET_DESTINATION, VERSION);
        request.nested(SERVICE, |writer| key.write(writer));
        let request = encoded(&what, request)?;
        self.socket
            .dump(&what, self.family, &request, |message, found| {
                let attributes = attributes_of(message);
                let state = attrs(attributes)
                    .find(DESTINATION)
                    .and_then(|one| DestinationState::read(&one.nested()));
                found.push(state.ok_or_else(|| Error::malformed(&what, "half a destination"))?);
                Ok(())
            })
    }

    /// Carries commands out, in their order and without waiting for one after the other. Gives those
    /// that the kernel refused, by their place, each with its reason: `EEXIST` for one to add that is
    /// there; `ESRCH` for a service that isn't, `ENOENT` for such a destination, or for a scheduler
    /// that the kernel doesn't have; `EINVAL` for a destination whose address is no unicast address,
    /// as none is in a namespace without addresses.
    ///
    /// # Errors
    /// The exchange itself failed, or a command can't be said: some may be done.
    pub fn apply(&mut self, commands: &[Command]) -> Result<Vec<(usize, Error)>, Error> {
        let payloads = commands.iter().map(Command::encoded);
        let mut refused =
            self.socket
                .request_each(&"change IPVS services", self.family, 0, payloads)?;
        refused.retain_mut(|(place, error)| {
            let Some(command) = commands.get(*place) else {
                return true;
            };
            if let Error::Kernel { operation, .. } = error {
                *operation = command.to_string();
            }
            !error.errno().is_some_and(|errno| command.is_done_by(errno))
        });
        Ok(refused)
    }

    /// How long connections are remembered.
    ///
    /// # Errors
    /// As [`Socket::get_one`].
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let what = "read the timeouts of IPVS";
        let request = encoded(&what, generic_request(GET_CONFIG, VERSION))?;
        self.socket
            .get_one(&what, self.family, &request, |message| {
                Timeouts::read(attributes_of(message))
                    .ok_or_else(|| Error::malformed(&what, "an answer without one of them"))
            })
    }

    /// Sets how long connections are remembered from now on.
    ///
    /// # Errors
    /// As [`Socket::request`]; `EINVAL` for one above the kernel's largest (`INT_MAX` ticks).
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        let what = format!("set the timeouts of IPVS to {timeouts:?}");
        let mut request = generic_request(SET_CONFIG, VERSION);
        request
            .u32_ne(TIMEOUT_TCP, timeouts.tcp)
            .u32_ne(TIMEOUT_TCP_FIN, timeouts.tcp_fin)
            .u32_ne(TIMEOUT_UDP, timeouts.udp);
        let request = encoded(&what, request)?;
        self.socket.request(&what, self.family, 0, &request)
    }
}

impl Timeouts {
    fn read(attributes: &[u8]) -> Option<Self> {
        let seconds = |kind| attrs(attributes).find(kind)?.u32_ne();
        Some(Self {
            tcp: seconds(TIMEOUT_TCP)?,
            tcp_fin: seconds(TIMEOUT_TCP_FIN)?,
            udp: seconds(TIMEOUT_UDP)?,
        })
    }
}

fn encoded(what: &dyn Display, writer: AttrWriter) -> Result<Vec<u8>, Error> {
    writer
        .finish()
        .map_err(|too_long| Error::malformed(what, &too_long.to_string()))
}

/// What follows an answer's `struct genlmsghdr`.
fn attributes_of<'a>(message: &Message<'a>) -> &'a [u8] {
    message.payload.get(4..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        // As Linux 6.1 has them at first.
        let mut writer = AttrWriter::default();
        writer
            .u32_ne(TIMEOUT_TCP, 900)
            .u32_ne(TIMEOUT_TCP_FIN, 120)
            .u32_ne(TIMEOUT_UDP, 300);
        let written = writer.finish().unwrap();
        let (tcp, tcp_fin, udp) = (900, 120, 300);
        assert_eq!(
            Timeouts::read(&written),
            Some(Timeouts { tcp, tcp_fin, udp })
        );
        assert_eq!(Timeouts::read(&written[..16]), None);
    }
}
