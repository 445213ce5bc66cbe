//! What the tests that need namespaces share. It never runs in production.

pub mod arguments;
mod attempt;
pub mod bars;
pub mod cell;
pub mod figures;
pub mod packet_bed;
pub mod proxy_bed;
mod settled;
pub mod tcx;

use std::path::{Path, PathBuf};

pub use attempt::attempt;
pub use settled::settle;

/// One of the workspace's binaries, built beside the running test.
///
/// # Panics
///
/// When it isn't there: `scripts/test` builds all binaries before it runs a test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|p| p.is_file());
    let Some(found) = found else {
        missing(name, &test)
    };
    found
}

#[expect(clippy::panic, reason = "a test without its binary has nothing to say")]
fn missing(name: &str, test: &Path) -> ! {
    panic!(
        "no binary {name} beside {}: run `cargo build --workspace --bins` first",
        test.display()
    )
}
