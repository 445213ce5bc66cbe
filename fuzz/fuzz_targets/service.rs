//! A Service, as an API server writes it.
#![no_main]

#[path = "../../proxy/tests/inputs/objects.rs"]
#[expect(dead_code, reason = "each target tries one of the kinds")]
mod objects;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| objects::service(bytes));
