//! Sets that rules of iptables ask. Not among the tests that `cargo test` runs: they need a kernel
//! with ipset, and `scripts/vm` runs them under one.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::time::{Duration, Instant};

use nodekit::ipset::{IpSets, Set};
use nodekit::netlink::{AttrWriter, NLM_F_CREATE, NLM_F_EXCL, Protocol, Socket};
use nodekit::netns::NetNs;
use nodekit::xtables::{Family, Variant, Xtables};

/// An emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a set of addresses, as `ipset create NAME hash:ip`.
fn create(name: &str) {
    let mut request = AttrWriter::onto(vec![0; 4]);
    request
        .u8(1, 6)
        .string(2, name)
        .string(3, "hash:ip")
        .u8(4, 0)
        .u8(5, 2)
        .nested(7, |_| {});
    let request = request.finish().unwrap();
    let mut socket = Socket::open(Protocol::Netfilter).unwrap();
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    socket
        .request(&"make a set", 6 << 8 | 2, flags, &request)
        .unwrap();
}

fn set(name: &str, references: u32) -> Set {
    Set {
        name: name.to_owned(),
        references,
    }
}

#[test]
fn sets_are_listed_and_destroyed() {
    let netns = NetNs::anonymous().unwrap();
    netns
        .run(|| {
            let mut sets = IpSets::open().unwrap();
            assert_eq!(sets.list(), Ok(vec![]));
            assert_eq!(sets.destroy("one"), Ok(false));
            let names: Vec<_> = (0..500).map(|number| format!("set-{number}")).collect();
            for name in &names {
                create(name);
            }
            let all: Vec<_> = names.iter().map(|name| set(name, 0)).collect();
            assert_eq!(sets.list().unwrap(), all);
            for name in &names[1..] {
                assert_eq!(sets.destroy(name), Ok(true));
            }
            assert_eq!(sets.list().unwrap(), all[..1]);
        })
        .unwrap();
}

#[test]
fn a_set_that_a_rule_asks_stays() {
    for variant in Variant::ALL {
        let netns = NetNs::anonymous().unwrap();
        netns.run(|| held(variant)).unwrap();
    }
}

fn held(variant: Variant) {
    create("asked");
    let rule = |how: &str| {
        format!("*filter\n{how} OUTPUT -m set --match-set asked dst -j ACCEPT\nCOMMIT\n")
    };
    let xtables = Xtables::of(Family::Ip, variant).unwrap();
    xtables.restore(&rule("-A")).unwrap();
    let mut sets = IpSets::open().unwrap();
    assert_eq!(sets.list().unwrap(), [set("asked", 1)]);
    let refused = sets.destroy("asked").unwrap_err();
    assert!(
        refused.to_string().starts_with("destroy the ipset asked: "),
        "{refused}"
    );
    xtables.restore(&rule("-D")).unwrap();
    // nf_tables lets go of it a moment later.
    let begin = Instant::now();
    while sets.list().unwrap()[0].references > 0 {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(sets.destroy("asked"), Ok(true));
}
