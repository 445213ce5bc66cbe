//! UDP flows that conntrack still sends to endpoints that are gone.
//!
//! An established flow is translated by its conntrack entry, whatever the rules say by now, and a
//! client that goes on sending keeps the entry alive for ever. So such entries are deleted, and the
//! next packet is looked at anew. To do it twice is harmless.
//!
//! It is done twice: a packet that was translated before the rules changed enters its entry only when
//! it leaves the host or is delivered, and a queue or a busy processor may keep it until after the
//! first look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_model::{Family, FrontendAddress, Model, Protocol};
use nodekit::conntrack::{self, ConntrackSocket, Entry, Transport};
use nodekit::netlink;

use super::{BackendError, FlowReport};

/// By then no packet is under way any more that met the rules as they were before.
pub(super) const UNDER_WAY: Duration = Duration::from_secs(1);

/// The flows of Services that are to be looked at.
#[derive(Debug)]
pub(super) struct Flows {
    socket: Option<ConntrackSocket>,
    due: BTreeMap<Family, Due>,
    /// What was looked at once, and when it is to be looked at again.
    again: BTreeMap<Family, (Instant, Due)>,
}

/// What is to be looked at in one family.
#[derive(Clone, Debug, Default)]
struct Due {
    /// Every UDP frontend.
    all: bool,
    /// These, some of which may be gone.
    touched: BTreeSet<FrontendAddress>,
}

impl Due {
    fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.touched.extend(other.touched);
    }
}

impl Flows {
    /// # Errors
    /// [`BackendError::Conntrack`].
    pub(super) fn open() -> Result<Self, BackendError> {
        let socket = ConntrackSocket::open().map_err(BackendError::Conntrack)?;
        Ok(Self {
            socket: Some(socket),
            due: BTreeMap::new(),
            again: BTreeMap::new(),
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

    /// Somebody else entered flows: all of these families are to be looked at.
    pub(super) fn touch_all(&mut self, families: impl Iterator<Item = Family>) {
        for family in families {
            self.touch(family, true, Vec::new());
        }
    }

    /// What is to be looked at by `now`, and what of it once more later.
    fn take(&mut self, family: Family, now: Instant) -> Option<(Due, Option<Due>)> {
        let fresh = self.due.remove(&family);
        let ripe = matches!(self.again.get(&family), Some((at, _)) if *at <= now);
        if fresh.is_none() && !ripe {
            return None;
        }
        let mut due = fresh.clone().unwrap_or_default();
        if let Some((_, looked_at)) = self.again.remove(&family) {
            due.add(looked_at);
        }
        let again = fresh.map(|fresh| if ripe { fresh } else { due.clone() });
        Some((due, again))
    }

    /// Deletes what leads nowhere, by family, and says for each family whose flows were looked at
    /// what became of it. `node_ports`: the addresses on which each family's node ports are served.
    pub(super) fn reconcile<'a>(
        &mut self,
        model: &Model,
        node_ports: impl Iterator<Item = (Family, &'a BTreeSet<IpAddr>)>,
    ) -> BTreeMap<Family, FlowReport> {
        let mut reports = BTreeMap::new();
        for (family, node_ports) in node_ports {
            let started = Instant::now();
            let Some((due, again)) = self.take(family, started) else {
                continue;
            };
            let mut look = Look {
                serving: Serving::new(model, node_ports),
                due: &due,
            };
            let result = connected(&mut self.socket)
                .and_then(|socket| delete_stale(socket, family, &mut look));
            let mut report = FlowReport::default();
            match result {
                Ok(deleted) => {
                    report.deleted = deleted;
                    report.look_again = again.map(|again| {
                        let at = Instant::now() + UNDER_WAY;
                        self.again.insert(family, (at, again));
                        at
                    });
                }
                Err(error) => {
                    report.failed = Some(BackendError::Conntrack(error));
                    self.socket = None;
                    self.due.insert(family, due);
                }
            }
            report.duration = started.elapsed();
            reports.insert(family, report);
        }
        reports
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
    look: &mut Look<'_>,
) -> Result<usize, netlink::Error> {
    let kind = match family {
        Family::V4 => conntrack::Family::Ip,
        Family::V6 => conntrack::Family::Ip6,
    };
    let udp = Some(Protocol::Udp.number());
    let stale = socket.list(kind, udp, |entry| look.leads_nowhere(entry))?;
    let mut deleted = 0;
    for entry in &stale {
        deleted += usize::from(socket.delete(entry)?);
    }
    Ok(deleted)
}

/// Who serves at an address, asked many times.
#[derive(Debug)]
pub(super) struct Serving<'a> {
    model: &'a Model,
    node_ports: &'a BTreeSet<IpAddr>,
    /// The endpoints that serve, by frontend; `None`: there is no such frontend (any more).
    known: HashMap<FrontendAddress, Option<Vec<IpAddr>>>,
}

impl<'a> Serving<'a> {
    /// `node_ports`: the addresses on which node ports are served.
    pub(super) fn new(model: &'a Model, node_ports: &'a BTreeSet<IpAddr>) -> Self {
        Self {
            model,
            node_ports,
            known: HashMap::new(),
        }
    }

    /// The frontend that a packet to there means, and the endpoints that serve it, sorted.
    pub(super) fn at(
        &mut self,
        protocol: Protocol,
        ip: IpAddr,
        port: u16,
    ) -> Option<(FrontendAddress, &[IpAddr])> {
        // The first that there is counts, as for packets.
        let found = self
            .candidates(protocol, ip, port)
            .find(|address| self.by_frontend(*address).is_some())?;
        let serving = self.by_frontend(found)?;
        Some((found, serving))
    }

    /// The frontends that a packet to there may mean.
    fn candidates(
        &self,
        protocol: Protocol,
        ip: IpAddr,
        port: u16,
    ) -> impl Iterator<Item = FrontendAddress> + use<> {
        let vip = FrontendAddress::Vip { ip, protocol, port };
        let node_port = FrontendAddress::NodePort {
            family: Family::of(ip),
            protocol,
            port,
        };
        let served = self.node_ports.contains(&ip);
        [Some(vip), served.then_some(node_port)]
            .into_iter()
            .flatten()
    }

    fn by_frontend(&mut self, address: FrontendAddress) -> Option<&[IpAddr]> {
        let model = self.model;
        let serving = self.known.entry(address);
        let serving = serving.or_insert_with(|| model.serving(&address));
        serving.as_deref()
    }
}

/// One look at the flows of a family.
struct Look<'a> {
    serving: Serving<'a>,
    due: &'a Due,
}

impl Look<'_> {
    fn leads_nowhere(&mut self, entry: &Entry) -> bool {
        let Transport::Ports { destination, .. } = entry.original.transport else {
            return false;
        };
        let ip = entry.original.destination;
        if let Some((address, serving)) = self.serving.at(Protocol::Udp, ip, destination) {
            let serves = serving.binary_search(&entry.reply.source).is_ok();
            return !serves && (self.due.all || self.due.touched.contains(&address));
        }
        // What we did not translate is not ours.
        let mut gone = self.serving.candidates(Protocol::Udp, ip, destination);
        entry.is_destination_translated() && gone.any(|a| self.due.touched.contains(&a))
    }
}
