//! Runs a program under another Linux kernel. It never installs a kernel, never needs KVM, and
//! leaves nothing behind: the machine lives in memory and has the given files, no others.
//!
//! ```text
//! causeway-vm --kernel DIR [--module NAME]... [--with FILE]... {-- PROGRAM [ARGUMENT]...}...
//! ```
//!
//! `DIR` is an unpacked kernel package (`dpkg -x linux-image-….deb DIR`). The program and the files
//! stand in the machine where they stand outside, with the libraries they are linked to; the modules
//! are loaded with what they need. Programs run one after the other, until one fails; the exit code
//! is the last one's.
//!
//! The same binary is the machine's first process.

mod archive;
mod guest;
mod host;
mod modules;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return guest::live();
    }
    match host::run(std::env::args().skip(1)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("causeway-vm: {error:#}");
            ExitCode::from(125)
        }
    }
}
