//! Packets that no Service is concerned with, and that may be given to a pod of the node without the stack's
//! seeing them.

use causeway_ebpf_abi::Address;

use crate::packet::{Family, Flow, V4_HEADER, V6_HEADER};

/// Whether the stack has nothing to do with it but to send it on. What has options, what has come through too
/// many nodes, and what comes from where nothing can come from is left to it. `is_own` says whether an address
/// is the node's.
#[inline(always)]
#[must_use]
pub fn may_go_straight(flow: &Flow, is_own: impl Fn(&Address) -> bool) -> bool {
    let source = &flow.tuple.source;
    let (header, is_martian) = match flow.family {
        Family::V4 => (V4_HEADER, is_martian_v4(source)),
        Family::V6 => (V6_HEADER, is_martian_v6(source)),
    };
    flow.transport == header && flow.hops > 1 && !is_martian && !is_own(source)
}

/// Of "this network", of a loopback, of a group, or reserved (RFC 1812, section 5.3.7).
#[inline(always)]
const fn is_martian_v4(address: &Address) -> bool {
    let [.., first, _, _, _] = *address;
    first == 0 || first == 127 || first >= 224
}

/// Of a group, or reserved: unspecified, the loopback's, with an IPv4 address inside (RFC 4291, section 2).
#[inline(always)]
const fn is_martian_v6(address: &Address) -> bool {
    let [first, second, ..] = *address;
    first == 0xff || first | second == 0
}
