//! Where a packet goes on, and what becomes of it there.

use causeway_ebpf_abi::{Address, Backend, Counter, Hop, Track, Tuple};

use crate::packet::{Family, Flow};
use crate::{PacketTables, Tables};

/// The kernel's routes.
pub trait Routes {
    /// The way of a packet that came by the interface `ingress` and shall be one of `tuple`.
    fn way(&self, ingress: u32, family: Family, tuple: &Tuple, hop: &mut Hop) -> Way;
}

/// Whether a packet can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// There, as the hop says.
    Out,
    /// Nowhere, or it is the node's own.
    None,
    /// Nowhere, since it is larger than the link takes: [`Hop::mtu`].
    TooBig,
}

/// Whether the next node has this address, as far as addresses of this family tell.
#[inline(always)]
pub(crate) fn is_at(hop: &Hop, family: Family, address: &Address) -> bool {
    let ([first, ..], [.., last]) = (hop.address, words(address));
    match family {
        Family::V4 => first == last,
        Family::V6 => hop.address == words(address),
    }
}

/// An address as it stands in a packet; IPv4 is the last one.
#[inline(always)]
#[must_use]
pub fn words(address: &Address) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(address.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// What is being made of a packet. The kernel's stack has no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Work {
    /// What it becomes, here or at the endpoint's node.
    pub becomes: Tuple,
    /// Where it leaves.
    pub hop: Hop,
    /// The hop is that of the packet before, which is good for this one as well.
    pub(crate) knows_way: bool,
    /// The number of the Service port that a connection begins with; 0: unknown.
    pub(crate) service: u32,
    /// Of a packet of a known connection: a second is over since what was not counted yet was
    /// settled.
    pub(crate) due: bool,
    /// Of the same: what is known of this direction, [`Track::flags`].
    pub(crate) flags: u32,
    /// It is sent to the endpoint's node as it came.
    pub(crate) direct: bool,
    /// It was sent so before, and came back: that node doesn't know what to do with it.
    pub(crate) returned: bool,
    /// What was decided, if that is to be told.
    pub(crate) what: Option<Counter>,
    /// A direction that is about to be remembered, and its key.
    pub(crate) track: Track,
    pub(crate) answer: Tuple,
}

impl Work {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        becomes: Tuple::EMPTY,
        hop: Hop::NONE,
        knows_way: false,
        service: 0,
        due: false,
        flags: 0,
        direct: false,
        returned: false,
        what: None,
        track: Track {
            seen: 0,
            packets: 0,
            bytes: 0,
            counted_packets: 0,
            counted_bytes: 0,
            becomes: Tuple::EMPTY,
            flags: 0,
            service: 0,
            hop: Hop::NONE,
            zero: 0,
        },
        answer: Tuple::EMPTY,
    };

    /// Whether a packet of a known connection has its way already; if not, [`go_on`] finds it.
    #[inline(always)]
    #[must_use]
    pub const fn knows_way(&self) -> bool {
        self.knows_way
    }

    /// Whether it may be time to [`crate::settle`] what was not counted yet.
    #[inline(always)]
    #[must_use]
    pub const fn may_settle(&self) -> bool {
        self.due || self.flags & (Track::FINISHED | Track::RESET) != 0
    }

    /// The addresses and ports under which a packet leaves that came under these.
    #[inline(always)]
    #[must_use]
    pub const fn leaves_as<'a>(&'a self, came: &'a Tuple) -> &'a Tuple {
        if self.direct { came } else { &self.becomes }
    }

    /// The endpoint.
    #[inline(always)]
    pub(crate) const fn backend(&self) -> Backend {
        Backend {
            address: self.becomes.destination,
            port: self.becomes.destination_port,
            place: 0,
        }
    }

    /// The same of the answer to a packet that an ICMP error is about: see [`crate::answer_to`].
    #[inline(always)]
    #[must_use]
    pub const fn answer_leaves_as(&self) -> &Tuple {
        self.leaves_as(&self.answer)
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes up the stack as it is.
    Pass,
    /// It ends here.
    Drop,
    /// It ends here, and its sender is told so.
    Refuse,
    /// It ends here, and its sender is told how large it may be.
    TooBig,
    /// It becomes another one, and leaves.
    Translate,
    /// It becomes another one; its way is yet to be found.
    Follow,
}

/// What becomes of a packet that is to be another one: where there is no way for that, it ends here.
#[inline(always)]
pub fn find_way(
    tables: &impl Tables,
    routes: &impl Routes,
    ingress: u32,
    family: Family,
    work: &mut Work,
) -> Verdict {
    match routes.way(ingress, family, &work.becomes, &mut work.hop) {
        Way::Out => Verdict::Translate,
        Way::None => {
            tables.count(Counter::NotForwarded);
            Verdict::Drop
        }
        Way::TooBig => {
            tables.count(Counter::TooBig);
            Verdict::TooBig
        }
    }
}

/// What becomes of a packet of a known connection. The kernel is asked for its way once a second in each
/// direction, and whenever a packet may be too large for the way of the one before: that costs as much as
/// all the rest.
#[inline(always)]
pub fn go_on(
    tables: &impl PacketTables,
    routes: &impl Routes,
    ingress: u32,
    flow: &Flow,
    work: &mut Work,
) -> Verdict {
    let verdict = find_way(tables, routes, ingress, flow.family, work);
    if verdict == Verdict::Translate {
        tables.with_track(&flow.tuple, |track| track.hop = work.hop);
    }
    verdict
}
