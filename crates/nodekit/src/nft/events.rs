//! Hearing of what others commit.

use super::kernel::{NEW_CHAIN, NEW_RULE, NEW_TABLE};
use crate::netlink::{Error, Events, Protocol, Told};

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;

/// Hears of every commit to nf_tables, in the calling thread's network namespace.
///
/// # Errors
/// As [`Events::open`].
pub fn events() -> Result<Events, Error> {
    Events::open(Protocol::Netfilter, &[GROUP])
}

/// Whether what was told may mean that packets meet rules that they did not meet before: a table (which may
/// have been dormant), a chain or a rule. Elements and objects do nothing without a rule.
#[must_use]
pub const fn adds_rules(told: Told) -> bool {
    matches!(
        told,
        Told::Lost | Told::Kind(NEW_TABLE | NEW_CHAIN | NEW_RULE)
    )
}
