//! UDP flows that conntrack still sends to endpoints that are gone.
//!
//! An established flow is translated by its conntrack entry, whatever the rules say by now, and a
//! client that goes on sending keeps the entry alive for ever. So such entries are deleted, and the
//! next packet is looked at anew. To do it twice is harmless.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use lb_model::{Family, FrontendAddress, Model, Protocol};
use lb_plan::nftables::Applied;
use nodekit::conntrack::{self, ConntrackSocket, Entry, Transport};
use nodekit::netlink;

use super::{BackendError, FlowReport};

/// The flows of Services that are to be looked at.
#[derive(Debug)]
pub(super) struct Flows {
    socket: Option<ConntrackSocket>,
    due: BTreeMap<Family, Due>,
}

/// What is to be looked at in one family.
#[derive(Debug, Default)]
struct Due {
    /// Every UDP frontend.
    all: bool,
    /// These, some of which may be gone.
    touched: BTreeSet<FrontendAddress>,
}

impl Flows {
    /// # Errors
    /// [`BackendError::Conntrack`].
    pub(super) fn open() -> Result<Self, BackendError> {
        let socket = ConntrackSocket::open().map_err(BackendError::Conntrack)?;
        Ok(Self {
            socket: Some(socket),
            due: BTreeMap::new(),
        })
    }

    /// Notes what a pass touched.
    pub(super) fn touch(&mut self, family: Family, all: bool, udp: Vec<FrontendAddress>) {
        if all || !udp.is_empty() {
            let due = self.due.entry(family).or_default();
            due.all |= all;
            due.touched.extend(udp);
        }
    }

    /// Deletes what leads nowhere. `None`: nothing was to be looked at.
    pub(super) fn reconcile<'a>(
        &mut self,
        model: &Model,
        tables: impl Iterator<Item = (Family, &'a Applied)>,
    ) -> Option<FlowReport> {
        let started = Instant::now();
        let mut report = None;
        for (family, applied) in tables {
            let Some(due) = self.due.remove(&family) else {
                continue;
            };
            let report: &mut FlowReport = report.get_or_insert_default();
            let result = connected(&mut self.socket)
                .and_then(|socket| delete_stale(socket, family, model, applied, &due));
            match result {
                Ok(deleted) => report.deleted += deleted,
                Err(error) => {
                    report.failed = Some(BackendError::Conntrack(error));
                    self.socket = None;
                    self.due.insert(family, due);
                }
            }
        }
        if let Some(report) = &mut report {
            report.duration = started.elapsed();
        }
        report
    }
}

fn connected(socket: &mut Option<ConntrackSocket>) -> Result<&mut ConntrackSocket, netlink::Error> {
    match socket {
        Some(socket) => Ok(socket),
        none => Ok(none.insert(ConntrackSocket::open()?)),
    }
}

fn delete_stale(
    socket: &mut ConntrackSocket,
    family: Family,
    model: &Model,
    applied: &Applied,
    due: &Due,
) -> Result<usize, netlink::Error> {
    let mut serving: HashMap<FrontendAddress, Option<Vec<IpAddr>>> = HashMap::new();
    let mut leads_nowhere = |entry: &Entry| {
        let Some(address) = aim(entry, applied, due) else {
            return false;
        };
        let serving = serving
            .entry(address)
            .or_insert_with(|| model.serving(&address));
        match serving {
            Some(serving) => serving.binary_search(&entry.reply.source).is_err(),
            // No frontend any more: what we did not translate is not ours.
            None => entry.is_destination_translated(),
        }
    };
    let kind = match family {
        Family::V4 => conntrack::Family::Ip,
        Family::V6 => conntrack::Family::Ip6,
    };
    let udp = Some(Protocol::Udp.number());
    let stale = socket.list(kind, udp, &mut leads_nowhere)?;
    let mut deleted = 0;
    for entry in &stale {
        deleted += usize::from(socket.delete(entry)?);
    }
    Ok(deleted)
}

/// The frontend that the flow was aimed at, if it is to be looked at.
fn aim(entry: &Entry, applied: &Applied, due: &Due) -> Option<FrontendAddress> {
    let (ip, protocol) = (entry.original.destination, Protocol::Udp);
    let Transport::Ports {
        destination: port, ..
    } = entry.original.transport
    else {
        return None;
    };
    let now = applied.frontend_of(ip, protocol, port);
    let gone = || {
        let vip = FrontendAddress::Vip { ip, protocol, port };
        let family = Family::of(ip);
        let node_port = FrontendAddress::NodePort {
            family,
            protocol,
            port,
        };
        let served = applied.node_port_addresses().contains(&ip);
        let candidates = [Some(vip), served.then_some(node_port)];
        let mut candidates = candidates.into_iter().flatten();
        candidates.find(|address| due.touched.contains(address))
    };
    now.filter(|address| due.all || due.touched.contains(address))
        .or_else(gone)
}
