//! The result of the plugin before, or of one that was delegated to.
#![no_main]

#[path = "../../crates/cni-types/tests/properties/check.rs"]
#[expect(dead_code, reason = "each target tries one of the properties")]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::prev_result(bytes));
