//! Fragments. Only the first one of a datagram has ports: the others go where it went.

use causeway_ebpf_abi::{Counter, Datagram, Ports};

use crate::packet::Flow;
use crate::{PacketTables, Verdict};

/// The first fragment of a datagram was one for us, or was left to the stack. What came before of
/// another datagram with the same number is forgotten, so that a datagram goes one way as a whole.
#[inline(always)]
pub fn first_fragment(tables: &impl PacketTables, flow: &Flow, ours: bool) {
    let datagram = datagram(flow);
    if ours {
        let ports = Ports {
            source: flow.tuple.source_port,
            destination: flow.tuple.destination_port,
        };
        tables.set_ports(&datagram, &ports);
    } else {
        tables.forget_ports(&datagram);
    }
}

/// Gives a later fragment the ports of the first one; whether that came, and was one for us.
#[inline(always)]
pub fn later_fragment(tables: &impl PacketTables, flow: &mut Flow) -> bool {
    let ports = tables.ports(&datagram(flow));
    if let Some(Ports {
        source,
        destination,
    }) = ports
    {
        flow.tuple.source_port = source;
        flow.tuple.destination_port = destination;
    }
    ports.is_some()
}

/// What becomes of a packet of no connection that is known, and which begins none. A later fragment
/// goes where the first one went, which was one for us: it ended here.
#[inline(always)]
pub fn stray(tables: &impl PacketTables, flow: &Flow) -> Verdict {
    if flow.has_ports() {
        return Verdict::Pass;
    }
    tables.count(Counter::FragmentDropped);
    Verdict::Drop
}

#[inline(always)]
const fn datagram(flow: &Flow) -> Datagram {
    Datagram {
        source: flow.tuple.source,
        destination: flow.tuple.destination,
        identification: flow.identification,
        protocol: flow.tuple.protocol,
        zero: [0; 3],
    }
}
