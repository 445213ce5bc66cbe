//! The program in the drivers of the node's ways out (XDP), or behind them, where that is wanted. Whatever it
//! can do the one at the ingress can as well, so nothing fails where it cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya_obj::programs::XdpAttachType;
use causeway_ebpf_abi::{HardwareAddress, Interface, maps};
use nodekit::route::{Handle, Link, Route, RouteFilter};

use super::attachment::{other, twin};
use super::entries::Entry;
use super::interfaces::Scene;
use super::load::Refusals;
use super::options::Frames as Choice;
use super::sockets::{failed, gone, take};
use super::trouble::Trouble;
use super::{Error, Options, pins};

pub(super) const PROGRAM: &str = "frames";
/// The beginnings of the pins' names, by the mode in which they are attached.
const PREFIXES: [(XdpMode, &str); 2] = [(XdpMode::Driver, "xdp-"), (XdpMode::Skb, "xdp-generic-")];
/// The kernel takes a program away in the background: so long one of ours in the other mode may keep this one
/// out, and so often it is looked whether it still does.
const LEAVES: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// Where the program is.
#[derive(Debug)]
pub(super) struct Frames {
    hook: Option<Hook>,
    pins: PathBuf,
    trouble: Trouble,
}

/// The program, where it is wanted.
#[derive(Debug)]
struct Hook {
    program: Xdp,
    addresses: HashMap<MapData, u32, Entry<HardwareAddress>>,
    choice: Choice,
    /// Where it should be: whether it is, or why it cannot, which was said.
    ways: BTreeMap<u32, State>,
}

/// What became of the program at a way out.
#[derive(Debug, PartialEq, Eq)]
enum State {
    There,
    Refused(String),
}

impl Frames {
    /// The program of `ebpf`, where it is wanted and the kernel took it.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        refusals: &mut Refusals,
        options: &Options,
    ) -> Result<Self, Error> {
        let hook = match options.frames {
            Choice::Off => None,
            choice => Hook::take_from(ebpf, refusals, choice, &options.pins)?,
        };
        Ok(Self {
            hook,
            pins: options.pins.clone(),
            trouble: Trouble::default(),
        })
    }

    /// Brings the program to every way out, and takes it away from wherever else an earlier daemon
    /// had it.
    pub(super) fn follow(&mut self, scene: &Scene) {
        let result = self.try_to_follow(scene);
        let lost = "XDP is not where it should be";
        self.trouble
            .note(result, lost, "XDP is where it should be again");
    }

    fn try_to_follow(&mut self, scene: &Scene) -> Result<(), Error> {
        let mut ways = match &self.hook {
            Some(hook) => look(scene, hook.choice)?,
            None => BTreeMap::new(),
        };
        let wanted = self.hook.as_ref().map(|hook| mode(hook.choice));
        for (mode, prefix) in PREFIXES {
            for index in pins::numbered(&self.pins, prefix)? {
                let way = ways.get_mut(&index);
                if way.is_some() && wanted == Some(mode) {
                    continue;
                }
                let pin = pin(&self.pins, mode, index);
                fs::remove_file(&pin).map_err(pins::failed("pin", &pin))?;
                if let Some(way) = way {
                    way.vacated = true;
                }
            }
        }
        match &mut self.hook {
            Some(hook) => hook.follow(&ways, &self.pins),
            None => Ok(()),
        }
    }

    /// Whether the program is wherever it can be, and its pins are there.
    pub(super) fn is_whole(&self) -> bool {
        self.hook.as_ref().is_none_or(|hook| {
            let pin = |index| pin(&self.pins, mode(hook.choice), index);
            let mut ways = hook.ways.iter();
            ways.all(|(index, state)| *state != State::There || pin(*index).exists())
        })
    }
}

impl Hook {
    fn take_from(
        ebpf: &mut Ebpf,
        refusals: &mut Refusals,
        choice: Choice,
        pins: &Path,
    ) -> Result<Option<Self>, Error> {
        let program = refusals.of(PROGRAM).and_then(|()| own(ebpf, pins));
        let program = match program {
            Ok(program) => program,
            Err(error) => {
                tracing::warn!(%error, "the kernel takes no XDP program; it goes without");
                return Ok(None);
            }
        };
        Ok(Some(Self {
            program,
            addresses: take(ebpf, maps::WAYS_OUT)?,
            choice,
            ways: BTreeMap::new(),
        }))
    }

    fn follow(&mut self, ways: &BTreeMap<u32, Way>, pins: &Path) -> Result<(), Error> {
        self.ways.retain(|index, _| ways.contains_key(index));
        for (index, way) in ways {
            self.set_address(*index, way.address)?;
            self.see_to(*index, way, pins);
        }
        self.forget_addresses()
    }

    /// What cannot be is tried again with every look, and said once.
    fn see_to(&mut self, index: u32, way: &Way, pins: &Path) {
        let pin = pin(pins, mode(self.choice), index);
        let before = self.ways.remove(&index);
        let state = if before == Some(State::There) && pin.exists() {
            State::There
        } else {
            match self.attach(index, way, &pin) {
                Ok(()) => State::There,
                Err(error) => State::Refused(reasons(&error)),
            }
        };
        if before.as_ref() != Some(&state) {
            self.say(&way.name, &state);
        }
        self.ways.insert(index, state);
    }

    fn say(&self, interface: &str, state: &State) {
        match state {
            State::Refused(why) if self.choice == Choice::Auto => {
                tracing::info!(interface, why, "goes without XDP");
            }
            State::Refused(why) => tracing::warn!(interface, why, "XDP cannot be had"),
            _ => tracing::info!(
                interface,
                "packets that leave by where they came turn by XDP"
            ),
        }
    }

    /// Puts the program in the place of an earlier daemon's, in one go, or on the interface.
    fn attach(&mut self, index: u32, way: &Way, pin: &Path) -> Result<(), ProgramError> {
        if let Ok(pinned) = PinnedLink::from_pin(pin) {
            let replaced = XdpLink::try_from(FdLink::from(pinned))
                .map_err(other)
                .and_then(|link| self.program.attach_to_link(link));
            if let Ok(id) = replaced {
                drop(self.program.take_link(id)?);
                return Ok(());
            }
            // It was of an interface that is gone.
            fs::remove_file(pin).map_err(ProgramError::IOError)?;
        }
        let until = Instant::now() + LEAVES;
        let id = loop {
            let attached = self.program.attach_to_if_index(index, mode(self.choice));
            if attached.is_ok() || !way.vacated || Instant::now() > until {
                break attached?;
            }
            thread::sleep(LOOK);
        };
        let link = FdLink::try_from(self.program.take_link(id)?).map_err(other)?;
        link.pin(pin).map_err(other)?;
        Ok(())
    }

    /// The address to which frames come there, before the program sees one.
    fn set_address(&mut self, index: u32, octets: [u8; 6]) -> Result<(), Error> {
        let address = HardwareAddress {
            octets,
            zero: [0; 2],
        };
        let written = self.addresses.insert(index, Entry(address), 0);
        written.map_err(failed(maps::WAYS_OUT))
    }

    fn forget_addresses(&mut self) -> Result<(), Error> {
        let found: Result<Vec<u32>, _> = self.addresses.keys().collect();
        for index in found.map_err(failed(maps::WAYS_OUT))? {
            if !self.ways.contains_key(&index) {
                gone(self.addresses.remove(&index)).map_err(failed(maps::WAYS_OUT))?;
            }
        }
        Ok(())
    }
}

fn own(ebpf: &mut Ebpf, folder: &Path) -> Result<Xdp, ProgramError> {
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()?;
    let own = |name: &Path| Xdp::from_pin(name, XdpAttachType::Interface);
    twin(folder, |name| program.pin(name).map_err(other), own)
}

const fn mode(choice: Choice) -> XdpMode {
    match choice {
        Choice::Generic => XdpMode::Skb,
        Choice::Off | Choice::Auto | Choice::Native => XdpMode::Driver,
    }
}

fn pin(pins: &Path, mode: XdpMode, index: u32) -> PathBuf {
    let [(_, native), (skb, generic)] = PREFIXES;
    let prefix = if mode == skb { generic } else { native };
    pins::link(pins, &format!("{prefix}{index}"))
}

/// An interface by which packets leave the node.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    name: String,
    address: [u8; 6],
    /// A program of ours in the other mode has just been taken away there.
    vacated: bool,
}

/// The ways out, as they are.
fn look(scene: &Scene, choice: Choice) -> Result<BTreeMap<u32, Way>, Error> {
    let mut handle = Handle::open().map_err(Error::Interfaces)?;
    let links = handle.links().map_err(Error::Interfaces)?;
    let routes = handle.routes(RouteFilter::default());
    Ok(ways(
        scene,
        choice,
        &links,
        &routes.map_err(Error::Interfaces)?,
    ))
}

/// Hardware, and of what else has Ethernet frames that by which a gateway is reached: neither bridges,
/// which have no driver, nor interfaces of pods. What a virtual pair's driver sends back does not arrive
/// unless its other end has a program as well, which can't be seen from here. Behind a driver, frames of a
/// VLAN look like others, and would leave with the tag with which they came (`vlan_tci`, linux/skbuff.h).
fn ways(scene: &Scene, choice: Choice, links: &[Link], routes: &[Route]) -> BTreeMap<u32, Way> {
    let gateways = routes.iter().filter(|route| route.gateway.is_some());
    let gateways: BTreeSet<u32> = gateways.filter_map(|route| route.link).collect();
    let tagged = links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("vlan"));
    let tagged: BTreeSet<u32> = tagged.filter_map(|link| link.peer).collect();
    let is_way = |link: &Link| match link.kind.as_deref() {
        _ if choice == Choice::Generic && tagged.contains(&link.index) => false,
        None => true,
        Some("bridge") => false,
        Some("veth") if choice == Choice::Auto => false,
        Some(_) => gateways.contains(&link.index),
    };
    let of_pods = |index| {
        let (_, interface) = scene.interfaces.get(&index)?;
        Some(interface.flags & Interface::PODS != 0)
    };
    let ways = links.iter().filter_map(|link| {
        let way = Way {
            name: link.name.clone(),
            address: link.mac?.0,
            vacated: false,
        };
        (of_pods(link.index) == Some(false) && is_way(link)).then_some((link.index, way))
    });
    ways.collect()
}

/// An error with its causes.
fn reasons(error: &ProgramError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| {
        error.source()
    });
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use nodekit::route::Mac;

    use super::*;

    fn link(index: u32, kind: Option<&str>, mac: bool) -> Link {
        Link {
            index,
            name: format!("link{index}"),
            alias: None,
            kind: kind.map(str::to_owned),
            mac: mac.then_some(Mac([2; 6])),
            mtu: 1500,
            up: true,
            carrier: true,
            promiscuous: false,
            all_multicast: false,
            qdisc: None,
            tx_queue_len: 0,
            master: None,
            peer: None,
            peer_netnsid: None,
            port: None,
            port_enabled: false,
            vlan_filtering: None,
            ipv6: None,
        }
    }

    fn interface(flags: u32) -> (String, Interface) {
        let interface = Interface {
            v4: [0; 16],
            v6: [0; 16],
            flags,
        };
        (String::new(), interface)
    }

    #[test]
    fn ways_out_are_hardware_and_what_a_gateway_is_behind() {
        let links = [
            link(2, None, true),
            link(3, Some("bridge"), true),
            link(4, Some("veth"), true),
            link(5, Some("veth"), true),
            link(6, Some("wireguard"), false),
            link(7, Some("bond"), true),
            // A port of another one.
            link(8, None, true),
            link(9, Some("veth"), true),
            Link {
                peer: Some(2),
                ..link(10, Some("vlan"), true)
            },
        ];
        let known = [2, 3, 4, 5, 6, 7, 10].map(|index| (index, interface(0)));
        let mut scene = Scene::default();
        scene.interfaces.extend(known);
        scene.interfaces.insert(9, interface(Interface::PODS));
        let routes = [3, 4, 6, 7, 8, 9, 10].map(|link| {
            let mut route = Route::default_by("192.0.2.1".parse().unwrap());
            route.link = Some(link);
            route
        });
        let found = |choice| {
            let ways = ways(&scene, choice, &links, &routes);
            ways.into_keys().collect::<Vec<u32>>()
        };
        assert_eq!(found(Choice::Native), [2, 4, 7, 10]);
        assert_eq!(found(Choice::Auto), [2, 7, 10]);
        assert_eq!(found(Choice::Generic), [4, 7, 10]);
    }
}
