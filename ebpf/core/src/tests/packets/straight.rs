//! Packets that no Service is concerned with.

use std::net::Ipv6Addr;
use std::vec::Vec;

use causeway_ebpf_abi::{Address, Tuple, mapped};

use super::{CLIENT, NODE, TCP, VIP, std};
use crate::may_go_straight;
use crate::packet::{Family, Flow, V4_HEADER, V6_HEADER};

fn from(source: Address, family: Family) -> Flow {
    let transport = match family {
        Family::V4 => V4_HEADER,
        Family::V6 => V6_HEADER,
    };
    Flow {
        tuple: Tuple {
            source,
            destination: VIP,
            protocol: TCP,
            ..Tuple::EMPTY
        },
        family,
        transport,
        hops: 64,
        ..Flow::EMPTY
    }
}

fn may(flow: &Flow) -> bool {
    may_go_straight(flow, |address| *address == NODE)
}

#[test]
fn what_the_stack_would_only_send_on_may_go_straight() {
    let packet = from(CLIENT, Family::V4);
    assert!(may(&packet) && may(&Flow { hops: 2, ..packet }));
    assert!(
        !may(&Flow { hops: 1, ..packet }),
        "the stack tells who sent it"
    );
    let options = Flow {
        transport: V4_HEADER + 4,
        ..packet
    };
    assert!(!may(&options));
    assert!(
        !may(&from(NODE, Family::V4)),
        "nobody else has this address"
    );
}

#[test]
fn what_comes_from_where_nothing_can_come_may_not() {
    let v4 = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 1, 2, 3],
        [255; 4],
    ];
    for address in v4.map(mapped) {
        assert!(!may(&from(address, Family::V4)), "{address:?}");
    }
    for address in [
        [1, 0, 0, 1],
        [126, 1, 1, 1],
        [128, 0, 0, 1],
        [223, 255, 255, 255],
    ]
    .map(mapped)
    {
        assert!(may(&from(address, Family::V4)), "{address:?}");
    }
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    for address in ["::", "::1", "::ffff:192.0.2.1", "ff02::1"].map(v6) {
        assert!(!may(&from(address, Family::V6)), "{address:?}");
    }
    let good: Vec<_> = ["2001:db8::1", "fd00::1", "fe80::1", "64:ff9b::1"]
        .map(v6)
        .into();
    for address in good {
        assert!(may(&from(address, Family::V6)), "{address:?}");
    }
}
