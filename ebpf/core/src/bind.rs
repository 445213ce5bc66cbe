//! `bind`: nobody on the node gets a port that is a Service's, whose connections would pass them
//! by.

use causeway_ebpf_abi::{Address, Counter, Event, Frontend, FrontendKey, SocketRules, mapped};

use crate::connect::Sockets;
use crate::socket::{Aim, Kernel, Socket};

/// Every address of both families, unless the socket says otherwise, which nobody tells us.
const ANY: Address = [0; 16];
/// Every IPv4 address.
const ANY_V4: Address = mapped([0; 4]);

/// Whether a socket may be bound there: unless it is one of the node itself, and a node port is
/// served there. Port 0 leaves the choice to the kernel, which keeps to its own range.
#[inline(always)]
pub fn may_bind(tables: &impl Sockets, kernel: &impl Kernel, socket: Socket, aim: &Aim) -> bool {
    let Some(rules) = tables.rules() else {
        return true;
    };
    let guarded = rules.flags & SocketRules::GUARD_PORTS != 0;
    if !guarded || aim.port == 0 || socket.netns != kernel.node() {
        return true;
    }
    let taken = match aim.address {
        ANY => is_node_port(tables, aim, rules.v4) || is_node_port(tables, aim, rules.v6),
        ANY_V4 => is_node_port(tables, aim, rules.v4),
        address => is_node_port(tables, aim, address),
    };
    if taken {
        tables.count(Counter::BindRefused);
        tables.tell(&Event::of_socket(Counter::BindRefused, socket.netns, *aim));
    }
    !taken
}

#[inline(always)]
fn is_node_port(tables: &impl Sockets, aim: &Aim, address: Address) -> bool {
    const KINDS: u32 = Frontend::NODE_PORT | Frontend::NODE_ONLY;
    let key = FrontendKey { address, ..*aim };
    let frontend = tables.frontend(&key);
    address != ANY && frontend.is_some_and(|frontend| frontend.flags & KINDS != 0)
}
