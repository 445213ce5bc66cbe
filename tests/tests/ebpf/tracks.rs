//! What is remembered of connections, as time goes by.

use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use causeway_ebpf_abi::prefilter::GENERATIONS;
use causeway_ebpf_abi::{Track, Tuple, maps};
use causeway_proxy::backend::DataPlane as _;
use causeway_proxy::backend::ebpf::{Options, map_pin};
use causeway_tests::packet_bed::ask;
use causeway_tests::proxy_bed::wait_until;
use lb_model::Family;
use lb_plan::bpf::Lifetimes;

use crate::node::{Node, PATIENCE, on_a_node};
use crate::world::{World, at, node_port, node_port_service};

/// What is over is forgotten soon, and looked for all the time.
pub(crate) fn hurried(node: &Node<'_>) -> Options {
    // Not so soon that an answer on a busy machine comes too late.
    let soon = Duration::from_secs(2);
    Options {
        lifetimes: Lifetimes {
            closed: soon,
            udp: soon,
            udp_unanswered: soon,
            ..Lifetimes::default()
        },
        sweep: Duration::from_millis(20),
        ..node.cell.options()
    }
}

/// How often tracks were looked at.
pub(crate) fn generation(node: &Node<'_>) -> u32 {
    let pin = map_pin(&node.cell.options().pins, maps::GENERATION);
    let data = MapData::from_pin(pin).and_then(Map::from_map_data);
    let map: Array<_, u32> = data.and_then(Array::try_from).unwrap();
    map.get(&0, 0).unwrap()
}

#[test]
fn what_is_over_is_forgotten_and_an_idle_connection_is_not() {
    on_a_node(|node| {
        let mut world = World::empty();
        world.serve(node.bed, &node_port_service(1), &[2, 3]);
        let mut proxy = node.start_with(&world, &hurried(node));
        proxy.sync(&mut world);
        let client = &node.bed.client;
        let mut idle = Family::ALL.map(|family| {
            let to = node_port(node.bed, family, 1);
            client.connect(to).unwrap()
        });
        let pods = idle.each_mut().map(|stream| ask(stream).unwrap().pod);
        for family in Family::ALL {
            for _ in 0..5 {
                client.tcp(at(family, 1)).unwrap();
                client.udp(at(family, 1)).unwrap();
            }
        }
        let counts = proxy.backend.ebpf_counts().unwrap();
        let tracks = || {
            let tracks = counts.maps().find(|fill| fill.map == maps::TRACKS);
            tracks.unwrap().entries
        };
        // Two directions each.
        wait_until("forgotten", 6 * PATIENCE, || tracks() == 4).unwrap();
        // Long after their marks were made, they are known.
        let then = generation(node) + 3 * GENERATIONS;
        wait_until("generations", PATIENCE, || generation(node) > then).unwrap();
        assert_eq!(idle.each_mut().map(|stream| ask(stream).unwrap().pod), pods);
        assert_eq!(tracks(), 4);
    });
}

/// The map of tracks, whatever an entry means.
type Raw = HashMap<MapData, [u8; size_of::<Tuple>()], [u8; size_of::<Track>()]>;

fn raw(node: &Node<'_>) -> Raw {
    let pin = map_pin(&node.cell.options().pins, maps::TRACKS);
    let data = MapData::from_pin(pin).and_then(Map::from_map_data);
    data.and_then(HashMap::try_from).unwrap()
}

#[test]
fn a_flow_that_began_after_the_first_look_is_found_by_the_second() {
    on_a_node(|node| {
        let mut world = World::empty();
        let service = node_port_service(1);
        world.serve(node.bed, &service, &[2]);
        let mut proxy = node.start(&world);
        proxy.sync(&mut world);
        node.bed.client.udp(at(Family::V4, 1)).unwrap();
        let mut tracks = raw(node);
        let flow: Result<Vec<_>, _> = tracks.iter().collect();
        let flow = flow.unwrap();
        assert_eq!(flow.len(), 2);
        world.endpoints(node.bed, &service, &[3]);
        let again = proxy.sync(&mut world).look_again().unwrap();
        assert_eq!(tracks.keys().count(), 0);
        // A packet was under way that had met the maps as they were before.
        for (tuple, track) in &flow {
            tracks.insert(tuple, track, 0).unwrap();
        }
        thread::sleep(again.saturating_duration_since(Instant::now()));
        let report = proxy.sync(&mut world);
        assert_eq!(report.look_again(), None);
        assert_eq!(tracks.keys().count(), 0);
    });
}
