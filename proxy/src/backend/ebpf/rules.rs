//! What the programs on sockets heed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::{Array, MapData};
use causeway_ebpf_abi::{SocketRules, maps};
use lb_model::Family;
use lb_plan::bpf::address;
use nodekit::netns::NetNs;
use nodekit::sock_diag::SockDiag;

use super::entries::Entry;
use super::sockets::failed;
use super::{Error, Options};

type Map = Array<MapData, Entry<SocketRules>>;

pub(super) struct Rules {
    map: Map,
    now: SocketRules,
}

impl Rules {
    /// Says to the programs what `options` ask for, as far as this kernel can.
    pub(super) fn write(map: Map, options: &Options) -> Result<Self, Error> {
        let Entry(before) = map.get(&0, 0).map_err(failed(maps::SOCKET_RULES))?;
        let mut flags = 0;
        if options.connect_udp && can_end_udp() {
            flags |= SocketRules::UDP_CONNECT;
        }
        if options.guard_node_ports {
            flags |= SocketRules::GUARD_PORTS;
        }
        let mut rules = Self { map, now: before };
        rules.set(SocketRules { flags, ..before })?;
        Ok(rules)
    }

    /// Whether `connect` of UDP is translated.
    pub(super) const fn takes_udp_connect(&self) -> bool {
        self.now.flags & SocketRules::UDP_CONNECT != 0
    }

    /// Node ports are served at these addresses.
    pub(super) fn guard(&mut self, served: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let one = |family| {
            let mut of_family = served.iter().filter(|ip| Family::of(**ip) == family);
            of_family.next().map_or([0; 16], |ip| address(*ip))
        };
        self.set(SocketRules {
            v4: one(Family::V4),
            v6: one(Family::V6),
            flags: self.now.flags,
        })
    }

    fn set(&mut self, rules: SocketRules) -> Result<(), Error> {
        if rules != self.now {
            let written = self.map.set(0, Entry(rules), 0);
            written.map_err(failed(maps::SOCKET_RULES))?;
            self.now = rules;
        }
        Ok(())
    }
}

/// Whether a UDP socket can be ended whose endpoint leaves. One that could not would go on sending
/// there, and nobody would know.
fn can_end_udp() -> bool {
    // Also by who may not enter the namespaces in which those sockets are.
    let enters = NetNs::current().and_then(|own| own.run(|| ()));
    let lacks = match enters {
        Err(error) => error.to_string(),
        Ok(()) => match SockDiag::open().and_then(|mut diag| diag.ends_udp()) {
            Ok(true) => return true,
            Ok(false) => "CONFIG_INET_UDP_DIAG or CONFIG_INET_DIAG_DESTROY is missing".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    tracing::warn!(
        lacks,
        "UDP sockets cannot be ended here, so that connect of UDP is not translated; their packets are"
    );
    false
}
