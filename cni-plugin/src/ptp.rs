//! The role `ptp`: each pod by a veth pair of its own, without a bridge. The node is the pod's only
//! neighbour, has the gateway's address on every pair, and a route to each pod.

mod add;
mod check;
mod config;
mod gc;

pub(crate) use add::add;
pub(crate) use check::{check, status};
pub(crate) use gc::gc;
