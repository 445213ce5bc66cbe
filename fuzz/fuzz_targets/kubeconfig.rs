//! The proxy's kubeconfig.
#![no_main]

#[path = "../../proxy/tests/inputs/check.rs"]
#[expect(dead_code, reason = "each target tries one of the properties")]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::kubeconfig(bytes));
