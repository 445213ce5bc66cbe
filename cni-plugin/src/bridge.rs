//! The role `bridge`: pods on a bridge, each by a veth pair, with addresses from `host-local`.

mod add;
mod check;
mod config;
mod del;
mod device;
mod gc;
mod vlans;
mod wanted;

pub(crate) use add::add;
pub(crate) use check::{check, status};
pub(crate) use del::del;
pub(crate) use gc::gc;
