//! The configuration on standard input, and the list on disk.
#![no_main]

#[path = "../../crates/cni-types/tests/properties/check.rs"]
#[expect(dead_code, reason = "each target tries one of the properties")]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::configuration(bytes));
