//! Sockets that `connect` sent to an endpoint. A packet that was translated can be sent elsewhere;
//! such a socket cannot. When its endpoint is gone it is ended, so that its owner hears of it at
//! once instead of talking into the void.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aya::maps::{HashMap, MapData};
use causeway_ebpf_abi::{Connected, maps};
use lb_model::Protocol;
use nodekit::netns::NetNs;
use nodekit::sock_diag::SockDiag;

use super::Error;
use super::counts::Counts;
use super::entries::{Entry, socket_address};
use super::namespaces::Namespaces;
use super::sockets::{failed, gone};

/// Only where there is an entry (`BPF_EXIST`, linux/bpf.h).
const EXISTING: u64 = 2;

/// So often a socket is looked for that is not found: its call may be under way.
const LOOKS: u8 = 2;

type Map = HashMap<MapData, u64, Entry<Connected>>;

/// Sockets by their cookies.
type Stale = BTreeMap<u64, Connected>;

/// All connected sockets of this node that were translated.
pub(super) struct Connections {
    udp: Map,
    tcp: Map,
    namespaces: Namespaces,
    /// Those that should have been ended, with how often they were not found.
    missed: BTreeMap<(u8, u64, Connected), u8>,
    counts: Counts,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(udp: Map, tcp: Map, counts: Counts) -> Self {
        Self {
            udp,
            tcp,
            namespaces: Namespaces::default(),
            missed: BTreeMap::new(),
            counts,
        }
    }

    /// Whether a look is due, whatever changed.
    pub(super) fn is_due(&self) -> bool {
        !self.missed.is_empty()
    }

    /// Ends the sockets of `protocol` that may not `stay` where they are. To do it twice is
    /// harmless.
    pub(super) fn end(
        &mut self,
        protocol: Protocol,
        mut stay: impl FnMut(&Connected) -> bool,
    ) -> Result<(), Error> {
        let (map, name) = match protocol {
            Protocol::Udp => (&mut self.udp, maps::CONNECTED_UDP),
            _ => (&mut self.tcp, maps::CONNECTED_TCP),
        };
        let mut stale: BTreeMap<u64, Stale> = BTreeMap::new();
        let mut netns = BTreeSet::new();
        for entry in map.iter() {
            let (cookie, Entry(connected)) = entry.map_err(failed(name))?;
            if connected == Connected::ENDED {
                continue;
            }
            netns.insert(connected.netns);
            if !stay(&connected) {
                let there = stale.entry(connected.netns).or_default();
                there.insert(cookie, connected);
            }
        }
        let of_protocol = |one: &(u8, u64, Connected), _: &mut u8| one.0 == protocol.number();
        let missed: BTreeMap<_, _> = self.missed.extract_if(.., of_protocol).collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.namespaces.retain(|cookie| netns.contains(&cookie));
        let mut ender = Ender {
            protocol,
            map,
            name,
            stale,
            ended: 0,
            failed: None,
        };
        let namespaces = &mut self.namespaces;
        // On a thread of its own, since it visits namespaces.
        NetNs::current()?.run(|| {
            let wanted = ender.stale.keys().copied().collect();
            namespaces.visit(wanted, &mut |netns| ender.end_in(netns));
        })?;
        self.counts.add_ended(ender.ended);
        let failed = ender.failed.take();
        let left = std::mem::take(&mut ender.stale);
        for (cookie, connected) in left.into_values().flatten() {
            let one = (protocol.number(), cookie, connected);
            let looks = missed.get(&one).copied().unwrap_or_default();
            let looks = looks + u8::from(failed.is_none());
            if looks == LOOKS {
                // The socket is gone without us, or in a namespace that is not to be found.
                ender.forget(cookie, &connected)?;
            } else {
                self.missed.insert(one, looks);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// What ends sockets, one namespace after the other.
struct Ender<'a> {
    protocol: Protocol,
    map: &'a mut Map,
    name: &'static str,
    /// By namespace; what is done with is taken out.
    stale: BTreeMap<u64, Stale>,
    ended: u64,
    failed: Option<Error>,
}

impl Ender<'_> {
    /// In the calling thread's namespace, whose cookie that is.
    fn end_in(&mut self, netns: u64) {
        let mut stale = self.stale.remove(&netns).unwrap_or_default();
        if let Err(error) = self.end_all(&mut stale) {
            self.failed.get_or_insert(error);
        }
        if !stale.is_empty() {
            self.stale.insert(netns, stale);
        }
    }

    fn end_all(&mut self, stale: &mut Stale) -> Result<(), Error> {
        let mut diag = SockDiag::open().map_err(Error::Sockets)?;
        let found = diag.peered(self.protocol.number(), |one| {
            let known = stale.get(&one.cookie).map(|known| known.backend);
            known.is_some_and(|known| socket_address(known.address, known.port) == one.peer)
        });
        for one in &found.map_err(Error::Sockets)? {
            let Some(connected) = stale.get(&one.cookie).copied() else {
                continue;
            };
            // First: its owner may connect it anew as soon as it is ended.
            self.ended(one.cookie)?;
            match diag.end(one) {
                Ok(ended) => self.ended += u64::from(ended),
                Err(error) => {
                    let back = self.map.insert(one.cookie, Entry(connected), 0);
                    back.map_err(failed(self.name))?;
                    return Err(Error::Sockets(error));
                }
            }
            stale.remove(&one.cookie);
        }
        Ok(())
    }

    /// What was known of a socket is known no more. (If it closed meanwhile, its entry is gone.)
    fn ended(&mut self, cookie: u64) -> Result<(), Error> {
        let ended = self.map.insert(cookie, Entry(Connected::ENDED), EXISTING);
        gone(ended).map_err(failed(self.name))
    }

    /// Takes an entry away if it is still that one.
    fn forget(&mut self, cookie: u64, connected: &Connected) -> Result<(), Error> {
        match self.map.get(&cookie, 0) {
            Ok(Entry(now)) if now == *connected => {
                gone(self.map.remove(&cookie)).map_err(failed(self.name))
            }
            _ => Ok(()),
        }
    }
}
