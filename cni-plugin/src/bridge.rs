//! The role `bridge`: pods on a bridge, each by a veth pair, with addresses from `host-local`.

mod add;
mod check;
mod config;
mod del;
mod device;
mod gc;
mod leaving;
mod vlans;
mod wanted;

pub(crate) use add::add;
pub(crate) use check::{check, status};
pub(crate) use del::del;
pub(crate) use gc::gc;

/// Sees whether ADD would take a configuration, without asking the kernel.
///
/// # Errors
/// As ADD, for the configuration.
pub(crate) fn check_config(call: &crate::call::Call) -> Result<(), cni_types::Error> {
    config::Network::read(call).map(drop)
}
