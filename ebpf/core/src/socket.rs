//! Translation at the socket: once for a connection, instead of once for every packet.

use causeway_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Counter, Event, FlowKey, Frontend, FrontendKey,
    MemberKey, Original, ReverseKey, SlotKey, Traffic, UNSERVED_DROPPED, UNSERVED_REFUSED,
};

use crate::choice::{self, Client, has};
use crate::prefilter::{Prefilter, may_be_aimed};

/// The maps.
pub trait Tables {
    /// What happens at a frontend.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// What becomes of what aims there and at no frontend.
    fn unserved(&self, address: &Address) -> Option<u32>;
    /// A place of a set.
    fn backend(&self, key: &SlotKey) -> Option<Backend>;
    /// Whether a set whose clients are remembered has this backend.
    fn is_member(&self, key: &MemberKey) -> bool;
    /// Where a client belongs.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// A client belongs there from now on.
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity);
    /// The backend that a socket sends to.
    fn flow(&self, key: &FlowKey) -> Option<Backend>;
    /// A socket sends to that backend from now on.
    fn set_flow(&self, key: &FlowKey, value: &Backend);
    /// What a socket believes to talk to.
    fn original(&self, key: &ReverseKey) -> Option<Original>;
    /// A socket believes that from now on; whether it could be remembered.
    fn set_original(&self, key: &ReverseKey, value: &Original) -> bool;
    /// One more of these.
    fn count(&self, what: Counter);
    /// So much more went to a Service port, and to its backend, if that is one.
    fn add(&self, service: u32, backend: &Backend, more: &Traffic);
    /// Whoever watches hears of it. The time is not in there yet.
    fn tell(&self, event: &Event);
}

/// What the kernel knows at the moment of the call.
pub trait Kernel {
    /// A random number, every value equally likely.
    fn random(&self) -> u32;
    /// Nanoseconds of the monotonic clock, as of the last tick of the kernel's timer: some
    /// milliseconds ago at most.
    fn now(&self) -> u64;
    /// The cookie of the node's own network namespace.
    fn node(&self) -> u64;
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// `bpf_get_netns_cookie`.
    pub netns: u64,
}

/// The socket that calls, which is not asked who it is before that is needed: almost none concerns us.
pub trait Caller {
    /// See [`Socket::cookie`].
    fn cookie(&self) -> u64;
    /// See [`Socket::netns`].
    fn netns(&self) -> u64;

    /// Who it is.
    #[inline(always)]
    fn socket(&self) -> Socket {
        Socket {
            cookie: self.cookie(),
            netns: self.netns(),
        }
    }
}

/// What a call aims at.
pub type Aim = FrontendKey;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It goes where it aims at.
    NotOurs,
    /// It goes here instead.
    To(Backend),
    /// It fails with ECONNREFUSED.
    Refuse,
}

/// `sendto` and its like on a UDP socket that is not connected. A socket stays with its backend as
/// long as the set has it, as a flow does whose packets are tracked.
#[inline(always)]
pub fn send(
    tables: &(impl Tables + Prefilter),
    kernel: &impl Kernel,
    caller: &impl Caller,
    aim: &Aim,
) -> Answer {
    if !may_be_aimed(tables, aim) {
        return Answer::NotOurs;
    }
    let socket = caller.socket();
    let Some(frontend) = tables.frontend(aim) else {
        return unserved(tables, kernel, socket, aim);
    };
    if let Some(answer) = ends(tables, kernel, socket, aim, &frontend) {
        return answer;
    }
    let flow = FlowKey {
        socket: socket.cookie,
        frontend: *aim,
        zero: 0,
    };
    if let Some(backend) = tables.flow(&flow)
        && has(tables, &frontend, backend)
    {
        tables.count(Counter::Sent);
        return Answer::To(backend);
    }
    let Some(backend) = choose(tables, kernel, socket, &frontend) else {
        tables.count(Counter::Torn);
        return Answer::NotOurs;
    };
    tables.set_flow(&flow, &backend);
    tables.count(Counter::Sent);
    tables.add(frontend.service, &backend, &Traffic::CONNECTION);
    tables.tell(&Event {
        backend,
        ..Event::of_socket(Counter::Sent, socket.netns, *aim)
    });
    remember(tables, socket, aim, backend);
    Answer::To(backend)
}

/// A call aims where nobody is, be it at a Service port or at none (0).
#[inline(always)]
fn refuse(tables: &impl Tables, socket: Socket, aim: &Aim, service: u32) -> Answer {
    tables.count(Counter::Refused);
    tables.add(service, &Backend::NONE, &Traffic::REFUSAL);
    tables.tell(&Event::of_socket(Counter::Refused, socket.netns, *aim));
    Answer::Refuse
}

/// What a socket that is not connected believes to talk to when it hears of a backend.
#[inline(always)]
pub(crate) fn answered_by(
    tables: &impl Tables,
    socket: u64,
    backend: Backend,
    protocol: u8,
) -> Option<Original> {
    tables.original(&ReverseKey {
        socket,
        backend,
        protocol: u32::from(protocol),
    })
}

/// What becomes of a call that leads to none of the frontend's backends.
#[inline(always)]
pub(crate) fn ends(
    tables: &impl Tables,
    kernel: &impl Kernel,
    socket: Socket,
    aim: &Aim,
    frontend: &Frontend,
) -> Option<Answer> {
    const OF_NODE: u32 = Frontend::NODE_ONLY | Frontend::NODE_SOCKETS;
    let has = |flags| frontend.flags & flags != 0;
    let (all, of_node) = (has(Frontend::SOCKETS), has(OF_NODE));
    let from_node = socket.netns == kernel.node();
    // Packets of pods meet the program at an interface.
    let elsewhere = if from_node {
        !has(Frontend::SOCKETS | Frontend::PACKETS)
    } else {
        !all || of_node
    };
    if elsewhere {
        return Some(Answer::NotOurs);
    }
    let refused = frontend.count == 0 || !all && !of_node;
    refused.then(|| refuse(tables, socket, aim, frontend.service))
}

/// What becomes of a call that aims at no frontend.
#[inline(always)]
pub(crate) fn unserved(
    tables: &impl Tables,
    kernel: &impl Kernel,
    socket: Socket,
    aim: &Aim,
) -> Answer {
    match tables.unserved(&aim.address) {
        Some(UNSERVED_REFUSED) => refuse(tables, socket, aim, 0),
        // A pod's packets are dropped where they enter the node. The node's own meet no program.
        Some(UNSERVED_DROPPED) if socket.netns == kernel.node() => refuse(tables, socket, aim, 0),
        _ => Answer::NotOurs,
    }
}

#[inline(always)]
fn remember(tables: &impl Tables, socket: Socket, aim: &Aim, backend: Backend) {
    let key = ReverseKey {
        socket: socket.cookie,
        backend,
        protocol: u32::from(aim.protocol),
    };
    let original = Original {
        address: aim.address,
        port: aim.port,
        zero: 0,
    };
    if !tables.set_original(&key, &original) {
        tables.count(Counter::Forgotten);
    }
}

/// A network namespace, as a client of a set.
struct Namespace<'a, T> {
    tables: &'a T,
    key: AffinityKey,
}

impl<T: Tables> Client for Namespace<'_, T> {
    #[inline(always)]
    fn known(&self) -> Option<Affinity> {
        self.tables.affinity(&self.key)
    }
    #[inline(always)]
    fn remember(&self, value: &Affinity) {
        self.tables.set_affinity(&self.key, value);
    }
    /// A call's own port is not known yet.
    #[inline(always)]
    fn slot(&self, _: &Frontend) -> Option<u32> {
        None
    }
}

/// The backend of this socket's network namespace.
#[inline(always)]
pub(crate) fn choose(
    tables: &impl Tables,
    kernel: &impl Kernel,
    socket: Socket,
    frontend: &Frontend,
) -> Option<Backend> {
    let key = AffinityKey {
        netns: socket.netns,
        set: frontend.set,
        zero: 0,
    };
    let client = Namespace { tables, key };
    choice::choose(tables, kernel, &client, frontend).map(Backend::bare)
}
