//! A packet at an interface, from its IP header on.
#![no_main]

#[path = "../../ebpf/core/tests/reading/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::packet(bytes));
