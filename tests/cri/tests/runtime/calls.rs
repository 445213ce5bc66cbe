//! What containerd really asks of the plugin.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use causeway_cri_tests::bed::Bed;
use causeway_cri_tests::containerd::PLUGINS;
use causeway_cri_tests::network;

/// Notes each call, then does it.
const RECORDER: &str = r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_IFNAME netns=$CNI_NETNS" >>/run/cni/calls
exec /run/cni/plugin/causeway-cni
"#;

#[test]
fn the_second_deletion_comes_without_a_namespace_and_succeeds() {
    let bed = Bed::new(&network::combined(&["10.1.0.0/24"])).unwrap();
    network::install(&bed.node, "/run/cni/plugin").unwrap();
    // It is replaced as an upgrade must: a new file under the old name.
    let name = format!("{PLUGINS}/causeway-cni");
    let new = format!("{name}.new");
    bed.node.write(&new, RECORDER).unwrap();
    let new = bed.node.file(&new);
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, bed.node.file(&name)).unwrap();

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
