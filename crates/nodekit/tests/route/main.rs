//! Route netlink against this kernel, each test in namespaces of its own, compared with what
//! ip(8) says. Needs root.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

mod links;
mod shaping;
mod tables;
mod vlans;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;

use ipnetwork::IpNetwork;
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Mac, VethEnd, VethPair};
use serde_json::Value;

const NEAR: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
const FAR: Mac = Mac([0x02, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// What `ip -j …` says inside a namespace.
fn ip_json(netns: &NetNs, arguments: &str) -> Vec<Value> {
    let output = netns
        .run(|| {
            Command::new("ip")
                .arg("-d")
                .arg("-j")
                .args(arguments.split(' '))
                .output()
                .unwrap()
        })
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    // For an empty table it prints nothing, or one empty object.
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    found
        .into_iter()
        .filter(|value| value.as_object().is_some_and(|o| !o.is_empty()))
        .collect()
}

/// A namespace with one end of a veth pair that is up, the other end in a second namespace.
struct Pair {
    here: NetNs,
    there: NetNs,
    handle: Handle,
    link: u32,
}

fn pair() -> Pair {
    let (here, there) = (NetNs::anonymous().unwrap(), NetNs::anonymous().unwrap());
    let mut handle = Handle::open_in(&here).unwrap();
    let near = VethEnd {
        mac: Some(NEAR),
        mtu: Some(1400),
        ..VethEnd::named("near")
    };
    let far = VethEnd {
        netns: Some(there.as_fd()),
        mac: Some(FAR),
        mtu: Some(1400),
        ..VethEnd::named("eth0")
    };
    handle
        .create_veth(&VethPair {
            near,
            far,
            near_up: true,
            near_master: None,
        })
        .unwrap();
    let mut inside = Handle::open_in(&there).unwrap();
    let far = inside.link_by_name("eth0").unwrap();
    assert!(!far.up);
    inside.set_up(far.index).unwrap();
    let link = handle.link_by_name("near").unwrap().index;
    Pair {
        here,
        there,
        handle,
        link,
    }
}
