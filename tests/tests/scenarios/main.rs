//! What a Service does, shown the same in every data plane: each file of `tests/scenarios` against
//! the oracle and the walkers, without a kernel, and over real packets for each data plane.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail the test"
)]

mod decide;
mod file;
mod packets;
mod world;

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Where the scenarios are.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// One module for each scenario. Another data plane is one more line here.
macro_rules! scenarios {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            mod $name {
                use crate::packets::Plane;
                use nodekit::xtables::Variant;
                #[test]
                fn without_a_kernel() { crate::decide::agree(stringify!($name)); }
                #[test]
                fn nftables() { crate::packets::send(stringify!($name), Plane::Nftables); }
                #[test]
                fn ebpf() { crate::packets::send(stringify!($name), Plane::Ebpf); }
                #[test]
                fn iptables() {
                    crate::packets::send(stringify!($name), Plane::Iptables(Variant::Nft));
                }
                #[test]
                fn iptables_legacy() {
                    crate::packets::send(stringify!($name), Plane::Iptables(Variant::Legacy));
                }
            }
        )*
    };
}

scenarios! {
    claims
    cluster_ip
    detect_bridge_interface
    detect_interface_prefix
    detect_node_cidr
    detect_nothing
    dual_stack
    duplicate_endpoints
    endpoints_move
    external_ips
    external_traffic_policy_local
    flows_address_added
    flows_endpoint_left
    flows_service_after_slice
    flows_service_gone
    flows_tcp
    flows_without_endpoints
    hairpin
    headless
    internal_traffic_policy_local
    large_datagrams
    load_balancer
    localhost_node_port
    masquerade_all
    named_ports
    no_endpoints
    no_node_ports
    node_hints
    node_port
    node_port_addresses
    other_proxy
    ping
    protocols
    publish_not_ready
    sctp
    service_cidr
    service_recreated
    session_affinity
    session_affinity_expires
    several_ports
    source_ranges
    terminating_endpoints
    type_changes
    undefined_port
    zone_hints
}

#[test]
fn every_file_is_run() {
    let files = std::fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let yaml: BTreeSet<String> = names
        .filter_map(|name| Some(name.strip_suffix(".yaml")?.replace('-', "_")))
        .collect();
    let run: BTreeSet<String> = NAMES.iter().map(ToString::to_string).collect();
    assert_eq!(yaml, run);
}
