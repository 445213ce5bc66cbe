//! Token buckets and redirection: what was asked for is what tc(8) says, and packets obey.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{
    Address, Handle, LinkChange, Mac, NewIfb, Qdisc, Side, Ticks, TokenBucket, index_of,
};
use serde_json::Value;

use super::{Pair, net, pair};

const LATENCY: Duration = Duration::from_millis(25);

/// What `tc -j …` says inside a namespace.
fn tc_json(netns: &NetNs, arguments: &str) -> Vec<Value> {
    let output = netns
        .run(|| {
            Command::new("tc")
                .arg("-j")
                .args(arguments.split(' '))
                .output()
                .unwrap()
        })
        .unwrap();
    assert!(output.status.success(), "tc {arguments}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn bucket(rate: u64, burst: u64) -> TokenBucket {
    TokenBucket::new(Ticks::of_kernel().unwrap(), rate, burst, LATENCY)
}

#[test]
fn a_token_bucket_is_kept_as_it_was_given() {
    let Pair {
        here,
        mut handle,
        link,
        there: _there,
        ..
    } = pair();
    for wanted in [
        bucket(1_250_000, 100_000),
        bucket(1 << 33, 1 << 30),
        bucket(125_000, u64::from(u32::MAX) / 8),
    ] {
        handle.add_token_bucket(link, &wanted).unwrap();
        let held = handle.qdisc(link, Side::Outgoing).unwrap().unwrap();
        assert_eq!((held.kind.as_str(), held.bucket), ("tbf", Some(wanted)));
        let said = &tc_json(&here, "qdisc show dev near")[0];
        assert_eq!(said["handle"], "1:");
        assert_eq!(said["options"]["rate"], wanted.rate);
        let again = handle.add_token_bucket(link, &wanted).unwrap_err();
        assert_eq!(again.errno(), Some(Errno::EEXIST), "{again}");
        handle.delete_qdisc(link, Side::Outgoing).unwrap();
    }
    let kernels_own = handle.qdisc(link, Side::Outgoing).unwrap();
    assert_eq!(kernels_own.map(|q| q.kind), Some("noqueue".to_owned()));
    assert!(handle.delete_qdisc(link, Side::Outgoing).is_err());
    assert_eq!(handle.qdisc(link, Side::Incoming).unwrap(), None);
    let nobody = handle.qdisc(9999, Side::Outgoing).unwrap_err();
    assert_eq!(nobody.errno(), Some(Errno::ENODEV));
}

/// A pair whose outer end has what it receives redirected to an `ifb` with a bucket.
fn redirected(bucket: &TokenBucket) -> (Pair, u32) {
    let mut pair = pair();
    let handle = &mut pair.handle;
    let ifb = NewIfb {
        name: "ifb-of-near",
        mac: Some(Mac([2, 0, 0, 0, 0, 7])),
        mtu: Some(1400),
        up: true,
    };
    handle.create_ifb(&ifb).unwrap();
    let again = handle.create_ifb(&ifb).unwrap_err();
    assert_eq!(again.errno(), Some(Errno::EEXIST));
    let made = handle.link_by_name("ifb-of-near").unwrap();
    assert_eq!(
        (made.kind.as_deref(), made.mtu, made.mac, made.up),
        (Some("ifb"), 1400, ifb.mac, true)
    );
    handle.add_ingress(pair.link).unwrap();
    handle.redirect_received(pair.link, made.index).unwrap();
    handle.add_token_bucket(made.index, bucket).unwrap();
    (pair, made.index)
}

#[test]
fn what_is_received_passes_the_others_queue_and_its_limit() {
    const PACKETS: u64 = 1000;
    const PAYLOAD: usize = 1000;
    // 20 packets at once, then one in a second, and one that waits.
    let (mut pair, ifb) = redirected(&bucket(1000, 20_000));
    for (netns, name, address) in [
        (&pair.here, "near", "10.9.0.1/24"),
        (&pair.there, "eth0", "10.9.0.2/24"),
    ] {
        let mut handle = Handle::open_in(netns).unwrap();
        let link = handle.link_by_name(name).unwrap().index;
        handle
            .add_address(&Address::new(link, net(address)))
            .unwrap();
        handle.set_up(link).unwrap();
    }
    let receiver = pair
        .here
        .run(|| UdpSocket::bind("10.9.0.1:0").unwrap())
        .unwrap();
    let sender = pair
        .there
        .run(|| UdpSocket::bind("10.9.0.2:0").unwrap())
        .unwrap();
    let to = receiver.local_addr().unwrap();
    let arrives = |patience| {
        receiver.set_read_timeout(Some(patience)).unwrap();
        receiver.recv_from(&mut [0; PAYLOAD]).is_ok()
    };
    // Those after the first one find the neighbour known, and wait for nothing but the queue.
    sender.send_to(&[0; PAYLOAD], to).unwrap();
    assert!(arrives(Duration::from_secs(60)));
    for _ in 1..PACKETS {
        sender.send_to(&[0; PAYLOAD], to).unwrap();
    }
    let mut arrived = 1;
    while arrives(Duration::from_millis(50)) {
        arrived += 1;
    }
    assert!(
        (1..100).contains(&arrived),
        "{arrived} of {PACKETS} arrived"
    );
    let Qdisc { bytes, drops, .. } = pair.handle.qdisc(ifb, Side::Outgoing).unwrap().unwrap();
    assert!(
        bytes >= arrived * 1000 && u64::from(drops) >= PACKETS - 100,
        "{bytes} {drops}"
    );
}

#[test]
fn a_redirection_is_listed_and_ends_with_its_hook() {
    let (mut pair, ifb) = redirected(&bucket(1_000_000, 100_000));
    let handle = &mut pair.handle;
    assert_eq!(handle.redirects_of_received(pair.link).unwrap(), [ifb]);
    let said = tc_json(&pair.here, "filter show dev near ingress");
    assert!(
        said.iter().any(|filter| filter["kind"] == "u32"),
        "{said:?}"
    );
    let hook = handle.qdisc(pair.link, Side::Incoming).unwrap().unwrap();
    assert_eq!(hook.kind, "ingress");
    let again = handle.add_ingress(pair.link).unwrap_err();
    assert_eq!(again.errno(), Some(Errno::EEXIST));
    handle.delete_qdisc(pair.link, Side::Incoming).unwrap();
    assert!(handle.redirects_of_received(pair.link).unwrap().is_empty());
    assert!(handle.redirect_received(pair.link, ifb).is_err());
}

#[test]
fn a_link_takes_all_groups_and_a_longer_queue() {
    let Pair {
        mut handle,
        link,
        here: _here,
        there: _there,
        ..
    } = pair();
    let before = handle.link_by_index(link).unwrap();
    assert!(!before.all_multicast);
    let change = LinkChange {
        all_multicast: Some(true),
        tx_queue_len: Some(before.tx_queue_len + 5),
        ..LinkChange::default()
    };
    handle.change_link(link, &change).unwrap();
    let after = handle.link_by_index(link).unwrap();
    assert!(after.all_multicast);
    assert_eq!(after.tx_queue_len, before.tx_queue_len + 5);
}

#[test]
fn links_are_deleted_together() {
    let (mut pair, ifb) = redirected(&bucket(1_000_000, 100_000));
    let other = NewIfb {
        name: "other",
        mac: None,
        mtu: None,
        up: false,
    };
    pair.handle.create_ifb(&other).unwrap();
    let links = [pair.link, ifb];
    pair.handle.delete_links_together(&links).unwrap();
    let index = |name| pair.here.run(|| index_of(name).unwrap()).unwrap();
    let other = index("other").unwrap();
    assert_eq!(index("ifb-of-near"), None);
    // One alone, and none.
    pair.handle.delete_links_together(&[]).unwrap();
    pair.handle.delete_links_together(&[other]).unwrap();
    let left = pair.handle.links().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    let inside = Handle::open_in(&pair.there).unwrap().links().unwrap();
    assert_eq!(inside.len(), 1, "the other end is gone, too");
    let again = pair.handle.delete_links_together(&links).unwrap_err();
    assert_eq!(again.errno(), Some(Errno::ENODEV));
    // What can't be deleted keeps the others.
    let (mut pair, ifb) = redirected(&bucket(1_000_000, 100_000));
    let error = pair.handle.delete_links_together(&[1, ifb]).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP));
    pair.handle.delete_links_together(&[9999, ifb]).unwrap();
    assert!(pair.handle.link_by_index(ifb).is_err());
}
