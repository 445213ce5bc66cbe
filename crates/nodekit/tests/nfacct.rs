//! Packet counters that rules of iptables count with.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::net::UdpSocket;

use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::nfacct::{Count, Counters, LONGEST_NAME};
use nodekit::route::Handle;
use nodekit::xtables::{Family, Variant, Xtables};

#[test]
fn a_counter_is_made_once_and_counts_what_rules_meet() {
    for variant in Variant::ALL {
        let netns = NetNs::anonymous().unwrap();
        Handle::open_in(&netns).unwrap().set_up(1).unwrap();
        netns.run(|| counts(variant)).unwrap();
    }
}

fn counts(variant: Variant) {
    let mut counters = Counters::open().unwrap();
    assert_eq!(counters.read("sent"), Ok(None));
    assert_eq!(counters.delete("sent"), Ok(false));
    counters.ensure("sent").unwrap();
    assert_eq!(counters.read("sent"), Ok(Some(Count::default())));
    let rule =
        |how: &str| format!("*filter\n{how} OUTPUT -p udp -m nfacct --nfacct-name sent\nCOMMIT\n");
    let xtables = Xtables::of(Family::Ip, variant).unwrap();
    xtables.restore(&rule("-A")).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        socket.send_to(b"12", socket.local_addr().unwrap()).unwrap();
    }
    let three = Count {
        packets: 3,
        bytes: 3 * (20 + 8 + 2),
    };
    assert_eq!(counters.read("sent"), Ok(Some(three)));
    // Made again, it goes on counting; and a rule holds it.
    counters.ensure("sent").unwrap();
    assert_eq!(counters.read("sent"), Ok(Some(three)));
    let held = counters.delete("sent").unwrap_err();
    assert_eq!(held.errno(), Some(Errno::EBUSY));
    xtables.restore(&rule("-D")).unwrap();
    assert_eq!(counters.delete("sent"), Ok(true));
    assert_eq!(counters.read("sent"), Ok(None));
}

#[test]
fn a_name_is_as_long_as_the_kernel_takes_it() {
    let netns = NetNs::anonymous().unwrap();
    let longest = "n".repeat(LONGEST_NAME);
    netns
        .run(|| {
            let mut counters = Counters::open().unwrap();
            counters.ensure(&longest).unwrap();
            assert!(counters.read(&longest).unwrap().is_some());
            let refused = counters.ensure(&format!("{longest}n")).unwrap_err();
            assert!(refused.to_string().contains("make the packet counter"));
        })
        .unwrap();
}
