//! What bridges learned: which Ethernet address is behind which port (bridge(8), `fdb`).

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};

use super::{Error, Handle, Mac, NeighbourState};

/// An Ethernet address that a bridge knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Forwarding {
    /// The bridge's index.
    pub bridge: u32,
    /// The address.
    pub mac: Mac,
    /// The index of the port that it is behind.
    pub port: u32,
}

impl Handle {
    /// What all bridges of the network namespace learned or were told of who is behind their ports; not
    /// the ports' own addresses, nor what holds for one VLAN only.
    ///
    /// # Errors
    /// [`Error`].
    pub fn forwarding(&mut self) -> Result<Vec<Forwarding>, Error> {
        let mut query = NeighbourMessage::default();
        query.header.family = AddressFamily::Bridge;
        let answers = self
            .socket
            .dump_messages(&"list what bridges learned", &Message::GetNeighbour(query))?;
        Ok(answers.into_iter().filter_map(forwarding_of).collect())
    }
}

fn forwarding_of(answer: Message) -> Option<Forwarding> {
    let Message::NewNeighbour(message) = answer else {
        return None;
    };
    let state = NeighbourState::from(u16::from(message.header.state));
    let (mut bridge, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Controller(index) => bridge = Some(index),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
            NeighbourAttribute::Vlan(_) => return None,
            _ => {}
        }
    }
    // A device's own list has no bridge; what is permanent is a port's own address.
    (state != NeighbourState::Permanent).then_some(Forwarding {
        bridge: bridge?,
        mac: mac?,
        port: message.header.ifindex,
    })
}
