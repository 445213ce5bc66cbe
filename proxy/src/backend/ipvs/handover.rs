//! Connections that IPVS translates, when another data plane takes over: connection tracking, which
//! knows them, goes on to translate them.
//!
//! An entry's translation cannot be changed, so it is made anew; and IPVS, when it forgets a connection,
//! has connection tracking forget it as well (`ip_vs_conn_drop_conntrack`). So the virtual services go
//! first, by which IPVS forgets theirs (`expire_nodest_conn`, Linux 5.9), and then the entries come. A packet that
//! came in between would begin a connection of its own, to another endpoint or to none. So for that
//! long, some hundredths of a second, nobody begins a TCP connection with anything but a SYN: by a
//! table that is gone with its socket, whatever becomes of this process. TCP sends again what is lost.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodekit::conntrack::{self, ConntrackSocket, Entry, NewEntry, TcpState, Transport};
use nodekit::netlink::Error;
use nodekit::nft::{
    self, BaseChain, Batch, BitwiseOperand, Chain, ChainType, CtKey, Expr, Hook, NftSocket,
    PayloadBase, Register, Rule, Table, Value, Verdict,
};

use crate::backend::BackendError;

/// The table that keeps others waiting.
const TABLE: &str = "causeway-handover";
/// After connection tracking (`NF_IP_PRI_CONNTRACK`, -200), before whoever translates destinations.
const PRIORITY: i32 = -150;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// Flags of a TCP header, and the bit of SYN.
const FLAGS_OFFSET: u32 = 13;
const SYN: u8 = 0x02;
/// `NF_CT_STATE_BIT(IP_CT_NEW)` (`nf_conntrack_tuple_common.h`).
const NEW: u32 = 1 << 3;
/// `IPS_SEEN_REPLY` (`nf_conntrack_common.h`).
const SEEN_REPLY: u32 = 1 << 1;

const FAMILIES: [conntrack::Family; 2] = [conntrack::Family::Ip, conntrack::Family::Ip6];

/// How long IPVS may take to forget connections.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// What became of connections.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// Those that go on.
    pub(super) over: usize,
    /// Those that end, with the first one's reason.
    pub(super) refused: usize,
    pub(super) reason: Option<Error>,
}

/// Has connection tracking translate what IPVS translates at `served`, whose virtual services `remove`
/// takes away. Another data plane, with chains that translate, is in place.
///
/// # Errors
/// Connection tracking, nf_tables or IPVS cannot be asked.
pub(super) fn hand_over(
    served: &BTreeSet<IpAddr>,
    remove: impl FnOnce() -> Result<(), Error>,
) -> Result<Handed, BackendError> {
    let mut socket = ConntrackSocket::open().map_err(BackendError::Conntrack)?;
    let mut entries = Vec::new();
    let mut waiting = Vec::new();
    for family in FAMILIES {
        let by_ipvs =
            |entry: &Entry| is_by_ipvs(entry) && served.contains(&entry.original.destination);
        let listed = socket.list(family, None, by_ipvs);
        let listed = listed.map_err(BackendError::Conntrack)?;
        if !listed.is_empty() {
            waiting.push(keep_waiting(family)?);
        }
        entries.extend(listed);
    }
    remove().map_err(BackendError::Ipvs)?;
    forgotten(&mut socket, &entries).map_err(BackendError::Conntrack)?;
    let new: Vec<NewEntry> = entries.iter().map(renewed).collect();
    let refused = socket.create(&new).map_err(BackendError::Conntrack)?;
    drop(waiting);
    Ok(Handed {
        over: new.len() - refused.len(),
        refused: refused.len(),
        reason: refused.into_iter().next().map(|(_, error)| error),
    })
}

/// Waits until nobody knows these connections any more.
fn forgotten(socket: &mut ConntrackSocket, entries: &[Entry]) -> Result<(), Error> {
    let ids: HashSet<u32> = entries.iter().map(|entry| entry.id).collect();
    let until = Instant::now() + PATIENCE;
    let mut known = entries.to_vec();
    while !known.is_empty() && Instant::now() < until {
        sleep(PAUSE);
        known.clear();
        for family in FAMILIES {
            known.extend(socket.list(family, None, |entry| ids.contains(&entry.id))?);
        }
    }
    // Those that IPVS did not let go of, since they are not its own any more.
    for entry in &known {
        socket.delete(entry)?;
    }
    Ok(())
}

/// Answers come from elsewhere than the client aims at, and connection tracking does not do it: IPVS
/// told it so (`ip_vs_update_conntrack`).
fn is_by_ipvs(entry: &Entry) -> bool {
    let (original, reply) = (&entry.original, &entry.reply);
    let aimed_at = match original.transport {
        Transport::Ports { destination, .. } => (original.destination, destination),
        Transport::Icmp { .. } | Transport::None => return false,
    };
    let answers = match reply.transport {
        Transport::Ports { source, .. } => (reply.source, source),
        Transport::Icmp { .. } | Transport::None => return false,
    };
    entry.zone == 0 && !entry.is_destination_translated() && answers != aimed_at
}

/// The same connection, translated by connection tracking.
fn renewed(entry: &Entry) -> NewEntry {
    let answered = entry.status & SEEN_REPLY != 0;
    let tcp = (entry.original.protocol == TCP).then_some(if answered {
        TcpState::Established
    } else {
        TcpState::SynSent
    });
    NewEntry {
        original: entry.original,
        reply: entry.reply,
        answered,
        tcp,
        timeout: entry.timeout.max(Duration::from_secs(1)),
    }
}

/// Until the socket is dropped.
fn keep_waiting(family: conntrack::Family) -> Result<NftSocket, BackendError> {
    let family = match family {
        conntrack::Family::Ip => nft::Family::Ip,
        conntrack::Family::Ip6 => nft::Family::Ip6,
    };
    let mut batch = Batch::new(family, TABLE);
    let owned = Table {
        owned: true,
        ..Table::default()
    };
    batch.create_table(0, &owned);
    for (name, hook) in [("in", Hook::Prerouting), ("out", Hook::Output)] {
        let base = BaseChain::new(ChainType::Filter, hook, PRIORITY);
        batch.create_chain(0, &Chain::base(name, base));
        batch.add_rule(0, &Rule::new(name, begins_without_syn()));
    }
    let mut socket = NftSocket::open()?;
    socket.commit(&batch)?;
    Ok(socket)
}

/// `ct state new tcp flags & syn == 0 drop`
fn begins_without_syn() -> Vec<Expr> {
    let first = Register::word(0);
    vec![
        Expr::l4proto(first),
        Expr::equal(first, Value::new(&[TCP])),
        Expr::Ct {
            key: CtKey::State,
            direction: None,
            to: first,
        },
        Expr::mask_xor(first, NEW, 0),
        Expr::differs(first, Value::host_u32(0)),
        Expr::Payload {
            base: PayloadBase::Transport,
            offset: FLAGS_OFFSET,
            len: 1,
            to: first,
        },
        Expr::Bitwise {
            from: first,
            to: first,
            operand: BitwiseOperand {
                mask: Value::new(&[SYN]),
                xor: Value::new(&[0]),
            },
        },
        Expr::equal(first, Value::new(&[0])),
        Expr::Verdict(Verdict::Drop),
    ]
}
