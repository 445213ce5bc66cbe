//! Connections whose packets are translated at interfaces, when another data plane takes over: they
//! are entered in the kernel's connection tracking, which goes on to translate them.
//!
//! While a program is at an interface, it takes their packets before the stack sees them. So every
//! entry is there before the programs go, and no packet meets neither. That new connections do not
//! come in between, the other data plane must be in place by then: it gets them as soon as the
//! programs know no frontend any more.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::maps::{Map, MapData};
use causeway_ebpf_abi::{Frontend, FrontendKey, Stage, Track, Tuple, maps};
use lb_model::Protocol;
use lb_plan::bpf::{Lifetimes, is_answered};
use nodekit::Errno;
use nodekit::conntrack::{self, ConntrackSocket, NewEntry, TcpState, Transport};
use nodekit::netlink;

use super::entries::{Entry, ip, monotonic};
use super::packets::clear;
use super::pinned::{Opened, Pinned, read};
use super::sockets::{failed, gone};
use super::{Error, Options, pins};

/// By then no packet is under way any more that met the programs as they were before, and the kernel
/// has detached what is not pinned any more, which it does in the background.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// What is handed over. See the module.
pub struct Handover {
    tracks: Opened<Entry<Tuple>, Entry<Track>>,
    lifetimes: Lifetimes,
    socket: ConntrackSocket,
    /// Those that are known to connection tracking, by their originals.
    entered: HashMap<conntrack::Tuple, NewEntry>,
    /// Those that are not, at the last look, each with why.
    refused: Vec<(NewEntry, netlink::Error)>,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover")
            .field("entered", &self.entered.len())
            .field("refused", &self.refused.len())
            .finish_non_exhaustive()
    }
}

impl Handover {
    /// Enters all connections, and has the programs begin no new ones. The other data plane is
    /// complete, and the programs of this one are yet to be removed. `None`: mode ebpf left nothing
    /// here, or only what this version can't read, of which the log then warns.
    ///
    /// To do it once more, after a crash, is harmless.
    ///
    /// # Errors
    /// The maps cannot be read, or connection tracking cannot be asked: connections may end with
    /// the programs.
    pub fn begin(options: &Options) -> Result<Option<Self>, Error> {
        let pin = pins::map_pin(&options.pins, maps::TRACKS);
        if !pin.exists() {
            warn_of_other_layouts(&options.pins);
            return Ok(None);
        }
        let tracks = MapData::from_pin(pin).and_then(Map::from_map_data);
        let tracks = tracks.and_then(Opened::try_from);
        let mut handover = Self {
            tracks: tracks.map_err(failed(maps::TRACKS))?,
            lifetimes: options.lifetimes,
            socket: ConntrackSocket::open().map_err(Error::Handover)?,
            entered: HashMap::new(),
            refused: Vec::new(),
        };
        // Most of them while the programs still serve everybody, so that connection tracking knows
        // which ports are taken before it serves the first.
        handover.look()?;
        forget_frontends(&options.pins)?;
        thread::sleep(UNDER_WAY);
        handover.look()?;
        Ok(Some(handover))
    }

    /// The programs are gone: has connections that ended meanwhile not last as if they had not, and
    /// says what became of all.
    ///
    /// # Errors
    /// As [`Handover::begin`].
    pub fn finish(mut self) -> Result<(), Error> {
        thread::sleep(UNDER_WAY);
        self.look()?;
        let connections = self.entered.len();
        if let Some((first, reason)) = self.refused.first() {
            tracing::warn!(
                connections,
                refused = self.refused.len(),
                first = %first.original,
                %reason,
                "not all connections from outside are known to connection tracking: those that \
                 were refused end"
            );
        } else if connections > 0 {
            tracing::info!(
                connections,
                "connections from outside go on by connection tracking"
            );
        }
        Ok(())
    }

    /// Brings connection tracking to what the map says now.
    fn look(&mut self) -> Result<(), Error> {
        let tracks = read(&self.tracks).map_err(failed(maps::TRACKS))?;
        let now = monotonic();
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        for (tuple, track) in &tracks {
            let Some(entry) = self.entry(&tracks, tuple, track, now) else {
                continue;
            };
            match self.entered.get(&entry.original) {
                // Also the client's next one from the same port.
                Some(before) if before.reply != entry.reply => new.push(entry),
                Some(before) if progress(before) == progress(&entry) => {}
                Some(_) => changed.push(entry),
                None => new.push(entry),
            }
        }
        self.refused.clear();
        self.create(new)
            .and_then(|()| self.change(&changed))
            .map_err(Error::Handover)
    }

    /// What connection tracking is to know of the connection whose way there is this. `None`: it is
    /// a way back, or over.
    fn entry(
        &self,
        tracks: &BTreeMap<Tuple, Track>,
        tuple: &Tuple,
        track: &Track,
        now: u64,
    ) -> Option<NewEntry> {
        let back = track.partner().and_then(|partner| tracks.get(&partner));
        if track.is_answer() || (back.is_none() && !track.is_direct()) {
            return None;
        }
        let protocol = tuple.protocol;
        let timeout = self.lifetimes.left(protocol, track, back, now)?;
        let answered = is_answered(protocol, track, back);
        let tcp = (protocol == Protocol::Tcp.number()).then(|| {
            match Stage::of(track.flags, back.map_or(0, |back| back.flags)) {
                Stage::Open if answered => TcpState::Established,
                Stage::Open => TcpState::SynSent,
                Stage::Closing => TcpState::FinWait,
                Stage::Closed => TcpState::TimeWait,
            }
        });
        Some(NewEntry {
            original: words(tuple),
            // One that is sent on as it came goes to the same endpoint so, whose node translates
            // answers as before.
            reply: words(&track.becomes.reversed()),
            answered,
            tcp,
            timeout: timeout.max(Duration::from_secs(1)),
        })
    }
}

impl Handover {
    /// Enters connections. One that is there already may be from before a crash; if it leads
    /// elsewhere, it is of packets that no program met, and those that one does meet count.
    fn create(&mut self, entries: Vec<NewEntry>) -> Result<(), netlink::Error> {
        let exists = |error: &netlink::Error| error.errno() == Some(Errno::EEXIST);
        let refused = self.socket.create(&entries)?;
        let there = refused.iter().any(|(_, error)| exists(error));
        let there = if there { self.there()? } else { HashMap::new() };
        let mut refused: HashMap<usize, netlink::Error> = refused.into_iter().collect();
        for (place, entry) in entries.into_iter().enumerate() {
            let refusal = match refused.remove(&place) {
                Some(error) if exists(&error) => match there.get(&entry.original) {
                    Some(found) if found.reply == entry.reply => None,
                    Some(found) => {
                        self.socket.delete(found)?;
                        let again = self.socket.create(&[entry])?;
                        again.into_iter().next().map(|(_, error)| error)
                    }
                    None => Some(error),
                },
                other => other,
            };
            match refusal {
                Some(error) => self.refused.push((entry, error)),
                None => drop(self.entered.insert(entry.original, entry)),
            }
        }
        Ok(())
    }

    /// What connection tracking has of them, by originals.
    fn there(&mut self) -> Result<HashMap<conntrack::Tuple, conntrack::Entry>, netlink::Error> {
        let mut found = HashMap::new();
        for family in [conntrack::Family::Ip, conntrack::Family::Ip6] {
            let listed = self.socket.list(family, None, |entry| entry.zone == 0)?;
            found.extend(listed.into_iter().map(|entry| (entry.original, entry)));
        }
        Ok(found)
    }

    /// Says how far connections are by now. One that has gone by itself is over.
    fn change(&mut self, entries: &[NewEntry]) -> Result<(), netlink::Error> {
        self.socket.change(entries)?;
        let changed = entries.iter().map(|entry| (entry.original, *entry));
        self.entered.extend(changed);
        Ok(())
    }
}

/// How far a connection is.
const fn progress(entry: &NewEntry) -> (bool, Option<TcpState>) {
    (entry.answered, entry.tcp)
}

fn words(tuple: &Tuple) -> conntrack::Tuple {
    conntrack::Tuple {
        source: ip(tuple.source),
        destination: ip(tuple.destination),
        protocol: tuple.protocol,
        transport: Transport::Ports {
            source: tuple.source_port,
            destination: tuple.destination_port,
        },
    }
}

/// Connections whose map another version laid out end with the programs, whose pins are removed.
fn warn_of_other_layouts(pins: &Path) {
    let others = match pins::other_layouts(pins) {
        Ok(others) => others,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(
                pins = %pins.display(),
                %error,
                "it cannot be seen whether mode ebpf translates connections from outside here: if it \
                 does, they end"
            );
            return;
        }
    };
    let tracks = others.iter().map(|folder| folder.join(maps::TRACKS));
    if let Some(pin) = tracks.into_iter().find(|pin| pin.exists()) {
        tracing::warn!(
            pin = %pin.display(),
            "connections from outside that another version translated end: this one can't read \
             its map; leave mode ebpf with that version first, or update within mode ebpf"
        );
    }
}

/// Has the programs know no frontend, and no address of the Services': what begins is left to the
/// stack.
fn forget_frontends(pins: &Path) -> Result<(), Error> {
    // Of a version whose maps look different; the programs go on with them until they are removed.
    let Ok(pinned) = Pinned::open(pins) else {
        return Ok(());
    };
    // First: they say that nobody serves where there is no frontend.
    clear(&mut pinned.any(maps::UNSERVED)?).map_err(failed(maps::UNSERVED))?;
    let mut frontends: Opened<Entry<FrontendKey>, Entry<Frontend>> = pinned.map(maps::FRONTENDS)?;
    let keys = frontends.keys().collect::<Result<Vec<_>, _>>();
    for key in keys.map_err(failed(maps::FRONTENDS))? {
        gone(frontends.remove(&key)).map_err(failed(maps::FRONTENDS))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// What is logged.
    fn said(act: impl FnOnce()) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = std::sync::Mutex::new(writer);
        let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, act);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn nothing_there_is_told_from_what_cannot_be_seen() {
        assert_eq!(said(|| warn_of_other_layouts(Path::new("/none"))), "");
        let said = said(|| warn_of_other_layouts(Path::new("/dev/null")));
        assert!(
            said.contains("WARN") && said.contains("/dev/null"),
            "{said}"
        );
    }
}
