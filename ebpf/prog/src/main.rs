//! The eBPF programs: hooks and maps, and nothing that decides: that is `causeway-ebpf-core`.
//! They never read what a packet carries: nothing behind its ports but what an ICMP error quotes.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connections;
mod maps;
mod packets;
mod socket;
mod traffic;
mod watch;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing panics: the verifier refuses a program from which this can be reached.
    loop {}
}

/// The kernel gives some helpers to programs of a compatible license only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
