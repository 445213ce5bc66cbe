//! What a data plane has in the kernel, and what may be left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use causeway_ebpf_abi::maps;
use causeway_proxy::backend::DataPlane;
use causeway_proxy::backend::ebpf::{Counts, Tracked};
use causeway_proxy::backend::ipvs::DEVICE;
use causeway_proxy::config::Mode;
use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::wait_until;
use causeway_tests::tcx;
use nodekit::conntrack::{self, ConntrackSocket};
use nodekit::ipvs::IpvsSocket;
use nodekit::route::{Handle, index_of};
use nodekit::xtables::{self, Variant, Xtables};

use super::PATIENCE;

/// Maps of clients, connections and counts, each of which stays for its time, or until another entry
/// needs the room.
const REMEMBERED: [&str; 8] = [
    maps::AFFINITY,
    maps::CLIENTS,
    maps::FLOWS,
    maps::FRAGMENTS,
    maps::REVERSE,
    maps::SETTLED,
    maps::TRACKS,
    maps::TRAFFIC,
];

/// Entries of each map of mode ebpf, but for those that remember; empty in other modes.
pub(super) fn entries(plane: &dyn DataPlane) -> BTreeMap<&'static str, u64> {
    let counts = plane.ebpf_counts();
    let fills = counts.iter().flat_map(Counts::maps);
    let lasting = fills.filter(|fill| !REMEMBERED.contains(&fill.map));
    lasting.map(|fill| (fill.map, fill.entries)).collect()
}

/// UDP flows that mode ebpf translates at interfaces.
pub(super) fn tracked_flows(cell: &Cell) -> usize {
    let tracked = Tracked::read(&cell.options().pins).unwrap();
    tracked.iter().filter(|one| one.protocol == "udp").count()
}

/// Neither pins nor programs at interfaces of this thread's namespace are left.
#[track_caller]
pub(super) fn nothing_attached(cell: &Cell) {
    let pins = cell.options().pins;
    assert!(!pins.exists(), "{} left behind", pins.display());
    let mut handle = Handle::open().unwrap();
    assert_eq!(handle.hooked_links().unwrap(), [0; 0], "clsact left behind");
    let links = handle.links().unwrap();
    // The kernel detaches in the background.
    let is_free = |name: &str| tcx::programs_at(name).unwrap() == 0;
    let free = || links.iter().all(|link| is_free(&link.name));
    wait_until("interfaces free of programs", 6 * PATIENCE, free).unwrap();
}

/// All rules that the data plane of `mode` has in this thread's namespace.
pub(super) fn ruleset(mode: Mode) -> String {
    match mode {
        Mode::Nftables | Mode::Ebpf => tables(),
        Mode::Ipvs => tables() + &virtual_services(),
        Mode::Iptables => {
            let mut ours = String::new();
            for variant in Variant::ALL {
                for family in [xtables::Family::Ip, xtables::Family::Ip6] {
                    let programs = Xtables::of(family, variant).unwrap();
                    let mut keep = |line: &str| {
                        // Without counters.
                        let line = line.split(" [").next().unwrap_or(line);
                        if line.contains("KUBE-") {
                            ours.push_str(&format!("{variant} {family:?} {line}\n"));
                        }
                    };
                    programs.save(None, &mut keep).unwrap();
                }
            }
            ours
        }
    }
}

fn tables() -> String {
    let output = Command::new("nft").args(["-s", "list", "ruleset"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A line for each virtual service that takes connections, or has no destination, and each address of
/// the device that has none. (What drains stays as long as IPVS remembers one of its connections.)
fn virtual_services() -> String {
    let mut all = String::new();
    let mut socket = IpvsSocket::open().unwrap();
    let mut served = BTreeSet::new();
    for service in socket.services().unwrap() {
        served.insert(service.key.ip);
        let known = socket.destinations(&service.key).unwrap();
        let drains = known.iter().all(|state| state.destination.weight == 0);
        if known.is_empty() || !drains {
            all.push_str(&format!("{service:?} {known:?}\n"));
        }
    }
    if let Some(device) = index_of(DEVICE).unwrap() {
        let addresses = Handle::open().unwrap().addresses(Some(device)).unwrap();
        let idle = addresses
            .iter()
            .filter(|one| !served.contains(&one.address.ip()));
        all.extend(idle.map(|one| format!("{}\n", one.address)));
    }
    all
}

/// Has the kernel forget what it tracks.
pub(super) fn forget_connections() {
    let mut socket = ConntrackSocket::open().unwrap();
    for family in [conntrack::Family::Ip, conntrack::Family::Ip6] {
        for entry in socket.list(family, None, |_| true).unwrap() {
            socket.delete(&entry).unwrap();
        }
    }
}

/// UDP flows that are translated to somewhere else.
pub(super) fn translated_flows() -> usize {
    let mut socket = ConntrackSocket::open().unwrap();
    let mut count = |family| {
        let translated = |entry: &conntrack::Entry| entry.is_destination_translated();
        socket.list(family, Some(17), translated).unwrap().len()
    };
    count(conntrack::Family::Ip) + count(conntrack::Family::Ip6)
}
