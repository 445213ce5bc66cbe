//! `connect`: the socket is sent to a backend once and for all, and remembered as long as it is
//! there. When the backend leaves, the daemon finds by that whom to tell.

use causeway_ebpf_abi::{
    Backend, Connected, Counter, Event, FrontendKey, Original, SocketRules, Traffic,
};

use crate::choice::has;
use crate::prefilter::{Prefilter, may_be_aimed};
use crate::socket::{
    Aim, Answer, Caller, Kernel, Socket, Tables, answered_by, choose, ends, unserved,
};

const UDP: u8 = 17;

/// What hooks on sockets have besides.
pub trait Sockets: Tables {
    /// Whether there may be something of a socket in the three below, told without a look into a map
    /// that is larger than a processor's cache. It says yes too often, and never no where yes is right.
    fn may_be_connected(&self, cookie: u64) -> bool;
    /// Where a socket was sent.
    fn connected(&self, protocol: u8, cookie: u64) -> Option<Connected>;
    /// A socket was sent there; whether that could be remembered.
    fn set_connected(&self, protocol: u8, cookie: u64, value: &Connected) -> bool;
    /// A socket was sent nowhere, or is gone.
    fn forget(&self, protocol: u8, cookie: u64);
    /// What they heed.
    fn rules(&self) -> Option<SocketRules>;
}

/// `connect` of TCP or UDP.
#[inline(always)]
pub fn connect(
    tables: &(impl Sockets + Prefilter),
    kernel: &impl Kernel,
    caller: &impl Caller,
    aim: &Aim,
) -> Answer {
    let answer = if may_be_aimed(tables, aim) && is_translated(tables, aim.protocol) {
        aimed(tables, kernel, caller, aim)
    } else {
        Answer::NotOurs
    };
    if !matches!(answer, Answer::To(_)) {
        // It may have been sent somewhere before.
        close(tables, aim.protocol, caller.cookie());
    }
    answer
}

#[inline(always)]
fn is_translated(tables: &impl Sockets, protocol: u8) -> bool {
    let says = |rules: SocketRules| rules.flags & SocketRules::UDP_CONNECT != 0;
    protocol != UDP || tables.rules().is_some_and(says)
}

/// How often a set may change under us.
const TRIES: u32 = 2;

#[inline(always)]
fn aimed(tables: &impl Sockets, kernel: &impl Kernel, caller: &impl Caller, aim: &Aim) -> Answer {
    let socket = caller.socket();
    let mut sent = None;
    for _ in 0..TRIES {
        let Some(frontend) = tables.frontend(aim) else {
            return match aim.protocol {
                // Nothing is sent yet: `ping` connects only to learn its own address by that.
                UDP => Answer::NotOurs,
                _ => unserved(tables, kernel, socket, aim),
            };
        };
        if let Some(answer) = ends(tables, kernel, socket, aim, &frontend) {
            return answer;
        }
        let Some(backend) = choose(tables, kernel, socket, &frontend) else {
            tables.count(Counter::Torn);
            return Answer::NotOurs;
        };
        remember(tables, socket, aim, backend);
        sent = Some((backend, frontend.service));
        // The daemon takes a backend out of its set before it looks who is connected to it. So
        // either it finds this socket, or we find the set without the backend.
        if aim.protocol != UDP || has(tables, &frontend, backend) {
            break;
        }
    }
    let Some((backend, service)) = sent else {
        return Answer::NotOurs;
    };
    let what = match aim.protocol {
        UDP => Counter::ConnectedUdp,
        _ => Counter::Connected,
    };
    tables.count(what);
    tables.add(service, &backend, &Traffic::CONNECTION);
    tables.tell(&Event {
        backend,
        ..Event::of_socket(what, socket.netns, *aim)
    });
    Answer::To(backend)
}

#[inline(always)]
fn remember(tables: &impl Sockets, socket: Socket, aim: &Aim, backend: Backend) {
    let value = Connected {
        netns: socket.netns,
        frontend: FrontendKey { ..*aim },
        backend,
    };
    if !tables.set_connected(aim.protocol, socket.cookie, &value) {
        tables.count(Counter::Forgotten);
    }
}

/// A socket is gone, or goes elsewhere.
#[inline(always)]
pub fn close(tables: &impl Sockets, protocol: u8, cookie: u64) {
    if !tables.may_be_connected(cookie) {
        return;
    }
    // To look is cheaper than to delete what is not there.
    let Some(connected) = tables.connected(protocol, cookie) else {
        return;
    };
    tables.forget(protocol, cookie);
    // That of one that was ended is told by whoever did it.
    if connected != Connected::ENDED {
        tables.tell(&Event {
            what: Event::CLOSED,
            backend: connected.backend,
            ..Event::of_socket(Counter::Connected, connected.netns, connected.frontend)
        });
    }
}

/// What a socket believes to talk to when it hears of a backend: for `recvfrom` and `getpeername`.
#[inline(always)]
pub fn believed(
    tables: &impl Sockets,
    caller: &impl Caller,
    backend: Backend,
    protocol: u8,
) -> Option<Original> {
    let cookie = caller.cookie();
    let connected = if tables.may_be_connected(cookie) {
        tables.connected(protocol, cookie)
    } else {
        None
    };
    match connected.filter(|connected| connected.backend == backend) {
        Some(connected) => Some(Original {
            address: connected.frontend.address,
            port: connected.frontend.port,
            zero: 0,
        }),
        None if protocol == UDP => answered_by(tables, cookie, backend, protocol),
        None => None,
    }
}
