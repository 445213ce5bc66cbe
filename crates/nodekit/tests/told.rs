//! What the kernel tells of rules, filters and policies, and what is there of IPsec.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use nodekit::netlink::{Events, Told};
use nodekit::netns::NetNs;
use nodekit::nft::{self, BaseChain, Batch, Chain, ChainType, Family, Hook, NftSocket, Table};
use nodekit::route::{self, Handle};
use nodekit::sysctl::{self, Key};
use nodekit::xfrm::{self, Xfrm, XfrmSocket};

const PATIENCE: Duration = Duration::from_secs(30);

fn in_namespace(test: impl FnOnce() + Send) {
    NetNs::anonymous().unwrap().run(test).unwrap();
}

/// Whether anything was told that may concern packets; what is to be told is waited for.
fn heard(events: &Events, adds: fn(Told) -> bool) -> bool {
    let mut heard = false;
    events.take(&mut |told| heard |= adds(told)).unwrap();
    heard
}

fn wait_for(events: &Events, adds: fn(Told) -> bool, what: &str) {
    let until = Instant::now() + PATIENCE;
    while !heard(events, adds) {
        assert!(Instant::now() < until, "nothing was told of {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

#[test]
fn rules_are_told_of_and_dumps_are_not() {
    in_namespace(|| {
        let events = nft::events().unwrap();
        let mut socket = NftSocket::open().unwrap();
        assert_eq!(socket.hooked_chains(Family::Inet).unwrap(), []);
        let adds = nft::adds_rules;
        let mut anything = false;
        events.take(&mut |_| anything = true).unwrap();
        assert!(!anything, "a look is no news");
        let mut batch = Batch::new(Family::Inet, "t");
        batch.add_table(0, &Table::default());
        let forward = BaseChain::new(ChainType::Filter, Hook::Forward, 0);
        batch.add_chain(0, &Chain::base("sees", forward));
        socket.commit(&batch).unwrap();
        wait_for(&events, adds, "a chain");
        let mut batch = Batch::new(Family::Inet, "t");
        batch.delete_table(0);
        socket.commit(&batch).unwrap();
        assert!(!heard(&events, adds), "less is no more");
    });
}

#[test]
fn filters_and_strict_sources_are_told_of() {
    in_namespace(|| {
        let events = route::way_in_events().unwrap();
        let mut links = Handle::open().unwrap();
        assert!(!heard(&events, route::adds_filters));
        links.add_clsact(1).unwrap();
        wait_for(&events, route::adds_filters, "a place for filters");
        let strict = Key::ipv4_conf("lo", "rp_filter").unwrap();
        let other = ["1", "2"]
            .into_iter()
            .find(|value| sysctl::read(&strict).unwrap() != *value);
        sysctl::write(&strict, other.unwrap()).unwrap();
        wait_for(&events, route::adds_filters, "rp_filter");
    });
}

#[test]
fn policies_are_counted_and_told_of() {
    in_namespace(|| {
        let events = xfrm::events().unwrap();
        let mut socket = XfrmSocket::open().unwrap();
        assert_eq!(socket.look().unwrap(), Xfrm::default());
        assert!(!heard(&events, xfrm::adds));
        for (number, direction) in [(1, "in"), (2, "out"), (3, "fwd")] {
            let policy = format!("src 192.0.2.0/24 dst 198.51.100.0/24 dir {direction}");
            ip(&format!("xfrm policy add {policy} action block"));
            wait_for(&events, xfrm::adds, direction);
            let found = socket.look().unwrap();
            assert_eq!((found.policies, found.is_idle()), (number, false));
        }
        ip("xfrm policy flush");
        assert!(!heard(&events, xfrm::adds), "less is no more");
        ip("xfrm policy setdefault fwd block");
        wait_for(&events, xfrm::adds, "what happens without a policy");
        assert!(socket.look().unwrap().blocks);
        ip("xfrm policy setdefault fwd accept");
        assert_eq!(socket.look().unwrap(), Xfrm::default());
        // The begin of one, for which the kernel needs no algorithm.
        ip("xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp");
        let found = socket.look().unwrap();
        assert_eq!((found.states, found.is_idle()), (1, false));
    });
}
