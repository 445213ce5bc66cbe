//! What the programs do at the moment, as they tell it to whoever watches: one at a time. They do
//! so for some seconds after they were last told that somebody does, whether a daemon runs or not.

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use causeway_ebpf_abi::{Backend, Counter, Event, Frontend, FrontendKey, maps};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::counts::said;
use super::entries::{Entry, monotonic, read, socket_address};
use super::names::Names;
use super::pinned::{Opened, Pinned, protocol_name};
use super::sockets::failed;
use super::{Error, pins};

/// How long the programs tell what happens after they were last asked to.
const LEASE: Duration = Duration::from_secs(5);

/// Whoever watches. The programs stop telling when it is dropped, and some seconds after it was
/// killed.
pub struct Monitor {
    events: RingBuf<MapData>,
    watch: Array<MapData, u64>,
    lost: PerCpuArray<MapData, u64>,
    frontends: Opened<Entry<FrontendKey>, Entry<Frontend>>,
    names: Names,
    /// Those that are told already.
    lost_before: u64,
    /// The only one.
    _alone: Flock<File>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Happening {
    /// When, in nanoseconds since 1970.
    pub time_unix_nano: u64,
    /// `socket` or `packet`.
    pub hook: &'static str,
    /// As `causeway_ebpf_events_total` and `causeway_ebpf_drops_total` say it; `closed`: a socket
    /// that was connected is closed, or connects to something else.
    pub event: &'static str,
    /// That was the end of a call, or of a packet.
    pub dropped: bool,
    /// Its protocol.
    pub protocol: String,
    /// The cookie of the socket's network namespace (`SO_NETNS_COOKIE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// Who sent the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// The Service port that it belongs to, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What was aimed at.
    pub frontend: SocketAddr,
    /// Where it goes on to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
}

impl Monitor {
    /// Has the programs whose maps are pinned in `pins` tell what happens from now on.
    ///
    /// # Errors
    /// There are none of this layout, they may not be read, or somebody else watches already.
    pub fn open(pins: &Path) -> Result<Self, Error> {
        let pinned = Pinned::open(pins)?;
        let folder = pins::maps(pins);
        let failed_at = || pins::failed("the maps of mode ebpf in", &folder);
        let file = File::open(&folder).map_err(failed_at())?;
        let alone = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => alone,
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Watched),
            Err((_, error)) => return Err(failed_at()(error.into())),
        };
        let mut monitor = Self {
            events: pinned.any(maps::EVENTS)?,
            watch: pinned.any(maps::WATCH)?,
            lost: pinned.any(maps::EVENTS_LOST)?,
            frontends: pinned.map(maps::FRONTENDS)?,
            names: Names::open(&pinned)?,
            lost_before: 0,
            _alone: alone,
        };
        // What an earlier one was not there any more to hear.
        while monitor.events.next().is_some() {}
        monitor.lost_before = monitor.all_lost()?;
        monitor.renew()?;
        Ok(monitor)
    }

    /// To be called more often than once in a few seconds.
    ///
    /// # Errors
    /// The map is not to be written.
    pub fn renew(&mut self) -> Result<(), Error> {
        let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
        self.until(monotonic().saturating_add(lease))
    }

    /// The programs tell nothing any more; what they told is still to be had.
    ///
    /// # Errors
    /// As [`Monitor::renew`].
    pub fn stop(&mut self) -> Result<(), Error> {
        self.until(0)
    }

    /// What happened since, if anything did.
    pub fn take(&mut self) -> Option<Happening> {
        let event = read(&self.events.next()?)?;
        Some(happening(&event, self.service(&event)))
    }

    /// The Service port, as long as it is there.
    fn service(&self, event: &Event) -> Option<String> {
        let key = FrontendKey {
            view: FrontendKey::INSIDE,
            ..event.frontend
        };
        let Entry(frontend) = self.frontends.get(&Entry(key), 0).ok()?;
        let name = self.names.of(frontend.service).ok()??;
        Some(name.to_string())
    }

    /// How many more happened that there was no room for.
    ///
    /// # Errors
    /// The map is not to be read.
    pub fn lost(&mut self) -> Result<u64, Error> {
        let lost = self.all_lost()?;
        let more = lost.saturating_sub(self.lost_before);
        self.lost_before = lost;
        Ok(more)
    }

    fn all_lost(&self) -> Result<u64, Error> {
        let by_processor = self.lost.get(&0, 0).map_err(failed(maps::EVENTS_LOST))?;
        Ok(by_processor.iter().sum())
    }

    fn until(&mut self, time: u64) -> Result<(), Error> {
        self.watch.set(0, time, 0).map_err(failed(maps::WATCH))
    }
}

impl AsFd for Monitor {
    /// Readable when something happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // What can't be told lapses.
        drop(self.stop());
    }
}

fn happening(event: &Event, service: Option<String>) -> Happening {
    let age = Duration::from_nanos(monotonic().saturating_sub(event.time));
    let since = SystemTime::now().checked_sub(age);
    let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let counter = Counter::ALL
        .into_iter()
        .find(|one| *one as u32 == event.what);
    let (hook, what, dropped) = counter.map_or(("socket", "closed", false), said);
    let there = |backend: Backend| {
        let there = backend != Backend::NONE;
        there.then(|| socket_address(backend.address, backend.port))
    };
    Happening {
        time_unix_nano: since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        hook,
        event: what,
        dropped,
        protocol: protocol_name(event.frontend.protocol),
        netns_cookie: Some(event.netns).filter(|netns| *netns != 0),
        client: there(event.client),
        service,
        frontend: socket_address(event.frontend.address, event.frontend.port),
        backend: there(event.backend),
    }
}

/// A line: the time of the day (UTC), the hook, what happened, who, to what, and to whom.
impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.time_unix_nano / 1_000;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let (hours, minutes) = (seconds / 3_600 % 24, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}.{micros:06}", seconds % 60)?;
        write!(f, "  {}  {}  {}", self.hook, self.event, self.protocol)?;
        if let Some(netns) = self.netns_cookie {
            write!(f, "  netns {netns}")?;
        }
        if let Some(client) = self.client {
            write!(f, "  {client}")?;
        }
        write!(f, " > {}", self.frontend)?;
        if let Some(backend) = self.backend {
            write!(f, " > {backend}")?;
        }
        match &self.service {
            Some(service) => write!(f, "  {service}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_went_where() {
        let happening = Happening {
            time_unix_nano: (86_400 + 3_661) * 1_000_000_000 + 5_000,
            hook: "socket",
            event: "connected_tcp",
            dropped: false,
            protocol: "tcp".to_owned(),
            netns_cookie: Some(7),
            client: None,
            service: Some("default/web:http".to_owned()),
            frontend: "10.96.0.1:80".parse().unwrap(),
            backend: Some("10.244.1.2:8080".parse().unwrap()),
        };
        assert_eq!(
            happening.to_string(),
            "01:01:01.000005  socket  connected_tcp  tcp  netns 7 > 10.96.0.1:80 > 10.244.1.2:8080  \
             default/web:http"
        );
        let refused = Happening {
            netns_cookie: None,
            client: Some("192.0.2.2:40000".parse().unwrap()),
            backend: None,
            service: None,
            ..happening
        };
        let line = refused.to_string();
        assert!(
            line.ends_with("tcp  192.0.2.2:40000 > 10.96.0.1:80"),
            "{line}"
        );
    }
}
