//! nf_tables in nft's own words, over netlink.
//!
//! It never runs `nft`, never touches a table other than those a [`Batch`] names, and never takes
//! an acknowledgement of one message for the success of a transaction: a [`Batch`] is committed by
//! the kernel whole or not at all, and every message of it that the kernel refused is reported with
//! the caller's tag.
//!
//! Sources: `linux/netfilter/nf_tables.h`, `nfnetlink.h`; user data as nft 1.0.6 reads it.

mod batch;
mod datatype;
mod dump;
mod error;
mod events;
mod expr;
mod find;
mod kernel;
mod object;
mod set;
mod socket;
mod userdata;
mod value;

pub use batch::Batch;
pub use datatype::{Datatype, Type};
pub use dump::{ChainInfo, HookedChain, RuleInfo, SetInfo, TableInfo};
pub use error::{Error, Failure};
pub use events::{adds_rules, events};
pub use expr::{
    BitwiseOperand, ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibResult, FibSource,
    LimitUnit, MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, Register, Reject,
};
pub use find::ElementPath;
pub use object::{BaseChain, Chain, ChainType, Family, Hook, Policy, Rule, Table};
pub use set::{Element, MapData, Set, SetFlags};
pub use socket::{NftSocket, TRANSACTION_LIMIT};
pub use value::{Data, Value, Verdict};
