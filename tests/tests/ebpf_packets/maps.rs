//! The program and its maps, filled by hand.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie};
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use causeway_ebpf_abi::prefilter::{FIRST_GENERATION, Folded, aim};
use causeway_ebpf_abi::{
    Address, Backend, Counter, Frontend, FrontendKey, HardwareAddress, Interface, MemberKey, Plain,
    Settings, SlotKey, Track, Tuple, maps,
};
use causeway_proxy::backend::ebpf;
use causeway_tests::cell::Cell;
use nodekit::route::Handle;

use crate::bed::Bed;

/// An entry as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Entry<T: Plain>(T);

// SAFETY: `Plain` promises integers without padding.
#[expect(unsafe_code, reason = "the two promises are the same")]
unsafe impl<T: Plain> aya::Pod for Entry<T> {}

/// The program, attached nowhere yet.
pub(crate) struct Plane {
    ebpf: Ebpf,
    // After the maps that are pinned in it.
    _cell: Cell,
}

pub(crate) fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

impl Plane {
    /// Loads it; on a thread of its own, whose mounts it changes.
    pub(crate) fn load() -> Self {
        let cell = Cell::new();
        let pins = cell.options().pins;
        fs::create_dir_all(&pins).unwrap();
        let ebpf = EbpfLoader::new()
            .default_map_pin_directory(&pins)
            .map_max_entries(maps::TRACKS, 4_096)
            .load(ebpf::OBJECT)
            .unwrap();
        let mut plane = Self { ebpf, _cell: cell };
        plane.program().load().unwrap();
        plane.frames().load().unwrap();
        let mut settings: Array<_, Entry<Settings>> = plane.map(maps::SETTINGS);
        settings.set(0, Entry(Settings::DEFAULT), 0).unwrap();
        let mut generation: Array<_, u32> = plane.map(maps::GENERATION);
        generation.set(0, FIRST_GENERATION, 0).unwrap();
        plane
    }

    pub(crate) fn program(&mut self) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut("packets").unwrap();
        program.try_into().unwrap()
    }

    /// The program in the driver.
    pub(crate) fn frames(&mut self) -> &mut Xdp {
        let program = self.ebpf.program_mut("frames").unwrap();
        program.try_into().unwrap()
    }

    /// Frames that come by a link of the node may turn there.
    pub(crate) fn know_way_out(&mut self, bed: &Bed, link: &str) {
        let link = Handle::open_in(&bed.node).unwrap().link_by_name(link);
        let link = link.unwrap();
        let address = HardwareAddress {
            octets: link.mac.unwrap().0,
            zero: [0; 2],
        };
        let mut map: HashMap<&mut MapData, u32, Entry<HardwareAddress>> = self.map(maps::WAYS_OUT);
        map.insert(link.index, Entry(address), 0).unwrap();
    }

    /// Attaches the program in the driver, or behind it, to such a link.
    pub(crate) fn turn_at(&mut self, bed: &Bed, link: &str, mode: XdpMode) {
        self.know_way_out(bed, link);
        self.see_frames(bed, link, mode);
    }

    /// The same to any link.
    pub(crate) fn see_frames(&mut self, bed: &Bed, link: &str, mode: XdpMode) {
        let index = bed.link(link);
        let program = self.frames();
        let attach = || program.attach_to_if_index(index, mode).unwrap();
        bed.node.run(attach).unwrap();
    }

    /// The ports that masqueraded connections get.
    pub(crate) fn masquerade_with(&mut self, ports: RangeInclusive<u16>) {
        let mut settings: Array<_, Entry<Settings>> = self.map(maps::SETTINGS);
        let written = Settings {
            first_port: *ports.start(),
            last_port: *ports.end(),
            ..Settings::DEFAULT
        };
        settings.set(0, Entry(written), 0).unwrap();
    }

    fn map<'a, M: TryFrom<&'a mut Map>>(&'a mut self, name: &str) -> M
    where
        M::Error: std::fmt::Debug,
    {
        M::try_from(self.ebpf.map_mut(name).unwrap()).unwrap()
    }

    fn insert<K: Plain, V: Plain>(&mut self, name: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, Entry<K>, Entry<V>> = self.map(name);
        map.insert(Entry(key), Entry(value), 0).unwrap();
    }

    /// Attaches it to a link of the node, which masquerades with these addresses there.
    pub(crate) fn attach(&mut self, bed: &Bed, link: &str, v4: &str, v6: &str) {
        self.attach_as(bed, link, 0, v4, v6);
    }

    /// The same to a link whose packets begin with the IP header.
    pub(crate) fn attach_without_ethernet(&mut self, bed: &Bed, link: &str, v4: &str, v6: &str) {
        let (upper, bit) = Settings::bit(bed.link(link));
        let mut no_ethernet = [0; 2];
        no_ethernet[usize::from(upper)] = bit;
        let mut settings: Array<_, Entry<Settings>> = self.map(maps::SETTINGS);
        let written = Settings {
            no_ethernet,
            ..Settings::DEFAULT
        };
        settings.set(0, Entry(written), 0).unwrap();
        self.attach_as(bed, link, Interface::NO_ETHERNET, v4, v6);
    }

    fn attach_as(&mut self, bed: &Bed, link: &str, flags: u32, v4: &str, v6: &str) {
        let interface = Interface {
            v4: address(v4.parse().unwrap()),
            v6: address(v6.parse().unwrap()),
            flags,
        };
        let index = bed.link(link);
        let mut map: HashMap<&mut MapData, u32, Entry<Interface>> = self.map(maps::INTERFACES);
        map.insert(index, Entry(interface), 0).unwrap();
        let program = self.program();
        let attach = || program.attach(link, TcAttachType::Ingress).unwrap();
        bed.node.run(attach).unwrap();
    }

    /// Attaches it everywhere.
    pub(crate) fn over(bed: &Bed) -> Self {
        let mut plane = Self::load();
        plane.attach(bed, "eth0", "192.0.2.1", "2001:db8:2::1");
        plane.attach(bed, "eth1", "198.51.100.1", "2001:db8:51::1");
        plane.attach(bed, "cni0", "10.244.1.1", "fd00:244:1::1");
        for (length, network) in [(96 + 16, "10.244.0.0"), (32, "fd00:244::")] {
            let mut pods: LpmTrie<&mut MapData, Address, u32> = plane.map(maps::PODS);
            let key = lpm_trie::Key::new(length, address(network.parse().unwrap()));
            pods.insert(&key, 1, 0).unwrap();
        }
        plane
    }

    /// A frontend with these backends, for both protocols.
    pub(crate) fn serve(&mut self, at: SocketAddr, set: u32, flags: u32, to: &[SocketAddr]) {
        self.serve_clients(at, set, flags, 0, to);
    }

    /// The same, with affinity.
    pub(crate) fn serve_clients(
        &mut self,
        at: SocketAddr,
        set: u32,
        flags: u32,
        affinity_seconds: u32,
        to: &[SocketAddr],
    ) {
        for (slot, backend) in (0..).zip(to) {
            let backend = Backend {
                address: address(backend.ip()),
                port: backend.port(),
                place: 0,
            };
            self.insert(maps::BACKENDS, SlotKey { set, slot }, backend);
            let mut members: HashMap<&mut MapData, Entry<MemberKey>, u32> = self.map(maps::MEMBERS);
            members
                .insert(Entry(MemberKey { set, backend }), 1, 0)
                .unwrap();
        }
        let frontend = Frontend {
            service: 0,
            sources: 0,
            set,
            count: u32::try_from(to.len()).unwrap(),
            affinity_seconds,
            flags: flags | Frontend::PACKETS,
            table: 0,
            places: 0,
        };
        for protocol in [TCP, UDP] {
            let key = FrontendKey {
                address: address(at.ip()),
                port: at.port(),
                protocol,
                view: FrontendKey::INSIDE,
            };
            let (word, bit) = aim(Folded::of(&key.address), key.port, key.protocol);
            let mut aims: Array<_, u64> = self.map(maps::AIMS);
            let before = aims.get(&word, 0).unwrap();
            aims.set(word, before | bit, 0).unwrap();
            self.insert(maps::FRONTENDS, key, frontend);
        }
    }

    /// How often what happened.
    pub(crate) fn counted(&mut self, what: Counter) -> u64 {
        let counters: PerCpuArray<&mut MapData, u64> = self.map(maps::COUNTERS);
        let by_processor = counters.get(&(what as u32), 0).unwrap();
        by_processor.iter().sum()
    }

    /// All that is tracked.
    pub(crate) fn tracks(&mut self) -> Vec<(Tuple, Track)> {
        let tracks: HashMap<&mut MapData, Entry<Tuple>, Entry<Track>> = self.map(maps::TRACKS);
        let all = tracks.iter().map(|entry| entry.unwrap());
        all.map(|(key, value)| (key.0, value.0)).collect()
    }
}
