//! What is in the pinned maps, whether a daemon runs or not.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use causeway_ebpf_abi::{Backend, Frontend, FrontendKey, PodNetwork, SlotKey, maps};
use serde::Serialize;

use super::Error;
use super::entries::{Entry, ip, socket_address};
use super::names::{Names, ServicePortName};
use super::pinned::{Opened, Pinned, present, protocol_name};
use super::sockets::failed;
use super::sources::Sources;
use super::table::{Table, or_dash};

/// Every frontend, by address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Dump(Vec<Dumped>);

/// A frontend and its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dumped {
    frontend: SocketAddr,
    protocol: String,
    /// The Service port.
    service: Option<String>,
    view: View,
    /// Clients from outside get their backend by a Maglev table; else any.
    maglev: bool,
    /// 0: none.
    affinity_seconds: u32,
    /// Only for sockets of the node's own network namespace.
    node_only: bool,
    /// Sockets of this node that aim here are translated.
    sockets: bool,
    /// Of all sockets, only those of the node's own network namespace are.
    node_sockets: bool,
    /// Packets that come here are translated.
    packets: bool,
    /// Connections of pods go on under the node's address.
    masquerade_pods: bool,
    /// Connections of everybody else do.
    masquerade_others: bool,
    /// Packets are dropped.
    drop: bool,
    /// A node port at an address of the node.
    node_port: bool,
    /// The Service is with nftables.
    left_to_nftables: bool,
    /// The networks from which packets may come; null: from anywhere.
    sources: Option<Vec<String>>,
    /// None: calls are refused, unless packets are dropped or the Service is with nftables.
    backends: Vec<SocketAddr>,
}

/// Who finds this entry at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum View {
    /// Everybody.
    All,
    /// Sockets of this node and packets of pods; others find [`View::Outside`].
    Inside,
    /// Packets that no pod sent.
    Outside,
}

impl Dump {
    /// Reads the maps that are pinned in `pins`. A daemon may change them meanwhile: a frontend is
    /// then as it was before or after.
    ///
    /// # Errors
    /// There are none of this layout, or they may not be read.
    pub fn read(pins: &Path) -> Result<Self, Error> {
        let pinned = Pinned::open(pins)?;
        let backends = pinned.map(maps::BACKENDS)?;
        let names = Names::open(&pinned)?;
        let lists = Sources::open(&pinned)?.lists()?;
        let frontends = pinned.entries::<FrontendKey, Frontend>(maps::FRONTENDS)?;
        let dumped = frontends.into_iter().map(|(key, frontend)| {
            let service = names.of(frontend.service)?;
            let mut dumped = dumped(key, frontend, service, &backends)?;
            if frontend.sources != 0 {
                let networks = lists.get(&frontend.sources).into_iter().flatten();
                dumped.sources = Some(networks.map(written).collect());
            }
            Ok(dumped)
        });
        Ok(Self(dumped.collect::<Result<_, Error>>()?))
    }
}

fn dumped(
    key: FrontendKey,
    frontend: Frontend,
    service: Option<ServicePortName>,
    backends: &Opened<Entry<SlotKey>, Entry<Backend>>,
) -> Result<Dumped, Error> {
    let Frontend { set, count, .. } = frontend;
    let mut found = Vec::new();
    for slot in 0..count {
        let entry = present(backends.get(&Entry(SlotKey { set, slot }), 0));
        if let Some(Entry(backend)) = entry.map_err(failed(maps::BACKENDS))? {
            found.push(socket_address(backend.address, backend.port));
        }
    }
    let has = |flags| frontend.flags & flags != 0;
    let view = match key.view {
        FrontendKey::OUTSIDE => View::Outside,
        _ if has(Frontend::OUTSIDE_DIFFERS) => View::Inside,
        _ => View::All,
    };
    Ok(Dumped {
        frontend: socket_address(key.address, key.port),
        protocol: protocol_name(key.protocol),
        service: service.map(|service| service.to_string()),
        view,
        maglev: frontend.table != 0,
        affinity_seconds: frontend.affinity_seconds,
        node_only: has(Frontend::NODE_ONLY),
        sockets: has(Frontend::SOCKETS),
        node_sockets: has(Frontend::NODE_SOCKETS),
        packets: has(Frontend::PACKETS),
        masquerade_pods: has(Frontend::MASQUERADE_PODS),
        masquerade_others: has(Frontend::MASQUERADE_OTHERS),
        drop: has(Frontend::DROP),
        node_port: has(Frontend::NODE_PORT),
        left_to_nftables: !has(Frontend::SOCKETS | Frontend::PACKETS),
        sources: None,
        backends: found,
    })
}

/// As people write it.
fn written(network: &PodNetwork) -> String {
    let ip = ip(network.address);
    let shift = if ip.is_ipv4() { 96 } else { 0 };
    format!("{ip}/{}", network.length.saturating_sub(shift))
}

/// A line for each frontend.
impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 10] = [
            "FRONTEND",
            "PROTOCOL",
            "SERVICE",
            "FOR",
            "FROM",
            "BY",
            "MASQUERADE",
            "AFFINITY",
            "CHOICE",
            "BACKENDS",
        ];
        Table::new(HEAD, self.0.iter().map(Dumped::cells)).fmt(f)
    }
}

impl Dumped {
    fn cells(&self) -> [String; 10] {
        let whom = match self.view {
            _ if self.node_only => "node",
            View::All => "all",
            View::Inside => "inside",
            View::Outside => "outside",
        };
        let by = match (self.sockets, self.packets) {
            (true, true) => "sockets,packets",
            (true, false) => "sockets",
            (false, true) if self.node_sockets => "packets,node's sockets",
            (false, true) => "packets",
            (false, false) => "nftables",
        };
        let from = match self.sources.as_deref() {
            None => "anywhere".to_owned(),
            Some([]) => "nowhere".to_owned(),
            Some(some) => some.join(","),
        };
        let masquerade = match (self.masquerade_pods, self.masquerade_others) {
            (true, true) => "all",
            (true, false) => "pods",
            (false, true) => "others",
            (false, false) => "-",
        };
        let affinity = Some(self.affinity_seconds).filter(|seconds| *seconds != 0);
        let backends: Vec<String> = self.backends.iter().map(ToString::to_string).collect();
        let backends = match backends.as_slice() {
            _ if self.drop => "dropped".to_owned(),
            [] if self.left_to_nftables => "left to nftables".to_owned(),
            [] => "none: refused".to_owned(),
            some => some.join(" "),
        };
        [
            self.frontend.to_string(),
            self.protocol.clone(),
            or_dash(self.service.as_ref()),
            whom.to_owned(),
            from,
            by.to_owned(),
            masquerade.to_owned(),
            or_dash(affinity.map(|seconds| format!("{seconds}s"))),
            if self.maglev { "maglev" } else { "any" }.to_owned(),
            backends,
        ]
    }
}
