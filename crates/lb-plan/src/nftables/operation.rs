//! What is asked of the kernel.

use super::element::{Element, Set};
use super::rule::{Chain, Rule};

/// One thing to do in the table of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make the table, which must not be there.
    AddTable {
        /// What it says about itself ([`super::Settings::signature`]).
        signature: String,
    },
    /// Remove the table with all that is in it.
    DeleteTable,
    /// Make a set or map.
    AddSet(Set),
    /// Make a chain.
    AddChain(Chain),
    /// Append a rule to a chain.
    AddRule {
        /// The chain.
        chain: Chain,
        /// The rule.
        rule: Rule,
    },
    /// Remove a chain with its rules. Nothing may go to it any more.
    DeleteChain(Chain),
    /// Add an element. Nothing happens if the same is there, data included.
    AddElement(Element),
    /// Remove an element, which must be there.
    DeleteElement(Element),
}
