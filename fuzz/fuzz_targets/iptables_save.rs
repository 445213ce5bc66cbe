//! A listing of iptables.
#![no_main]

#[path = "../../crates/lb-plan/tests/inputs/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::listing(bytes));
