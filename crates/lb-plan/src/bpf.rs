//! The maps of the eBPF load balancer: operations on their entries.
//!
//! A frontend has a set of backends in slots. Whatever is changed is changed entry by entry, in an
//! order in which every slot that a frontend counts is filled at every moment: what is new is
//! written before it is counted, and what is gone is taken out after it stopped being counted.
//! One endpoint more or less is a few entries, whatever the number of endpoints.

mod aims;
mod applied;
mod maglev;
mod moves;
mod networks;
mod ports;
mod tracks;
mod wanted;

use causeway_ebpf_abi::{
    Backend, Frontend, FrontendKey, MemberKey, Row, RowKey, SlotKey, SourceRange,
};

pub use aims::{Aims, Word};
pub use applied::{Applied, Found, Step};
pub use maglev::{Maglev, SIZES as MAGLEV_SIZES};
pub use networks::{Change, Unserved, network};
pub use ports::Ports;
pub use tracks::{Lifetimes, is_answered};
pub use wanted::{Node, Wanted, address, is_taken, needs_hooks, wanted};

/// Of a key.
const UDP: u8 = lb_model::Protocol::Udp.number();

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write a slot.
    SetBackend(SlotKey, Backend),
    /// Take a slot away; it may be gone.
    DeleteBackend(SlotKey),
    /// A set whose clients are remembered has this backend.
    AddMember(MemberKey),
    /// It doesn't any more; it may be gone.
    DeleteMember(MemberKey),
    /// Write a row of a Maglev table.
    SetRow(RowKey, Box<Row>),
    /// Take a row away; it may be gone.
    DeleteRow(RowKey),
    /// Let a list of sources have this network.
    AddSource(SourceRange),
    /// It doesn't any more; it may be gone.
    DeleteSource(SourceRange),
    /// Write a frontend.
    SetFrontend(FrontendKey, Frontend),
    /// Take a frontend away; it may be gone.
    DeleteFrontend(FrontendKey),
}

#[cfg(test)]
mod tests;
