//! Inputs made of good ones, for the properties of every crate that reads some.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What is likely to be taken for something else.
const WORDS: &[&str] = &[
    "",
    "null",
    "-1",
    "0",
    "65536",
    "4294967296",
    "1e9",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "true",
    "\"10.0.0.0/8\"",
    "\"::/0\"",
    "\"0.1.0\"",
    "\"1.1.0\"",
    "::ffff:1.2.3.4/129",
    "\0",
    "\u{fffd}",
    "=",
    ";",
    ":",
    "\n",
    "/",
    "..",
];

/// What goes in at a place instead of some bytes.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..8),
    ]
}

/// A good input with a few places changed.
pub(crate) fn changed(good: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), 0_usize..12, piece());
    (select(good), vec(change, 0..5)).prop_map(|(text, changes)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, length, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        bytes
    })
}
