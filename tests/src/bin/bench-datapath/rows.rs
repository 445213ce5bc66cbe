//! What is measured.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::cluster::{FAR, NEAR, NODE_IPS};
use crate::load::Kind;
use crate::objects::{NODE_PORTS, vip};

/// By which address, and on which node the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// The pod's own address; the client's node.
    DirectNear,
    /// The pod's own address; the other node.
    DirectFar,
    /// A ClusterIP; the client's node.
    VipNear,
    /// A ClusterIP; the other node.
    VipFar,
    /// A node port of the first node, asked from outside; a pod there.
    PortNear,
    /// A node port of the first node, asked from outside; a pod of the other node.
    PortFar,
}

impl Road {
    pub(crate) const ALL: [Self; 6] = [
        Self::DirectNear,
        Self::DirectFar,
        Self::VipNear,
        Self::VipFar,
        Self::PortNear,
        Self::PortFar,
    ];

    pub(crate) fn is_from_outside(self) -> bool {
        matches!(self, Self::PortNear | Self::PortFar)
    }

    fn is_near(self) -> bool {
        matches!(self, Self::DirectNear | Self::VipNear | Self::PortNear)
    }

    /// Where it leads.
    pub(crate) fn target(self, kind: Kind) -> SocketAddr {
        let index = usize::from(!self.is_near());
        match self {
            Self::DirectNear | Self::DirectFar => self.limit(kind),
            Self::VipNear | Self::VipFar => vip(index, kind.port()),
            Self::PortNear | Self::PortFar => (NODE_IPS[0], NODE_PORTS[index]).into(),
        }
    }

    /// The pod at its end: nothing is quicker than to go there.
    pub(crate) fn limit(self, kind: Kind) -> SocketAddr {
        let pod: Ipv4Addr = if self.is_near() { NEAR } else { FAR };
        SocketAddr::new(IpAddr::V4(pod), kind.port())
    }
}

/// A line of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) road: Road,
    pub(crate) kind: Kind,
}

impl Row {
    /// All that are measured.
    pub(crate) fn all() -> Vec<Self> {
        let inside = [
            Road::DirectNear,
            Road::VipNear,
            Road::DirectFar,
            Road::VipFar,
        ];
        let kinds = [Kind::Connection, Kind::Request, Kind::Bulk];
        let mut rows = Vec::new();
        for kind in kinds {
            rows.extend(inside.map(|road| Self { road, kind }));
        }
        let road = Road::VipNear;
        rows.push(Self {
            road,
            kind: Kind::Datagram,
        });
        let kind = Kind::Connection;
        rows.extend([Road::PortNear, Road::PortFar].map(|road| Self { road, kind }));
        rows
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.road {
            Road::DirectNear | Road::DirectFar => "pod IP",
            Road::VipNear | Road::VipFar => "ClusterIP",
            Road::PortNear | Road::PortFar => "NodePort from outside",
        };
        let place = if self.road.is_near() {
            "same node"
        } else {
            "other node"
        };
        write!(f, "{by}, {place}: {}", self.kind.name())
    }
}
