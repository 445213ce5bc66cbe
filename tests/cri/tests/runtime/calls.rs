//! What containerd really asks of the plugin.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use causeway_cri_tests::bed::Bed;
use causeway_cri_tests::containerd::PLUGINS;
use causeway_cri_tests::network::{self, Network};

/// Notes each call, then does it.
const RECORDER: &str = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_IFNAME netns=$CNI_NETNS" >>/run/cni/calls
exec "$(dirname "$0")/recorded"
"#;

#[test]
fn the_second_deletion_comes_without_a_namespace_and_succeeds() {
    let bed = Bed::new(Network::Installed("10.1.0.0/24")).unwrap();
    let plugin = bed.node.file(&format!("{PLUGINS}/causeway-cni"));
    let behind = plugin.with_file_name("recorded");
    fs::rename(&plugin, &behind).unwrap();
    fs::write(&plugin, RECORDER).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();

    bed.pod(&bed.wanted("pod")).unwrap();
    bed.empty().unwrap();
    let calls = fs::read_to_string(bed.node.file("/run/cni/calls")).unwrap();
    let of = |kind: &str| calls.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!(of("ADD eth0 netns=/var/run/netns/"), 1, "{calls}");
    assert_eq!(of("ADD lo netns=/var/run/netns/"), 1, "{calls}");
    assert_eq!(of("DEL eth0 netns=/var/run/netns/"), 1, "{calls}");
    let last = calls.lines().rfind(|line| line.starts_with("DEL eth0"));
    assert_eq!(last, Some("DEL eth0 netns="), "{calls}");
    network::nothing_left(&bed.node).unwrap();
}
