//! nf_tables over netlink against the kernel and against nft itself, each test in a network
//! namespace of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what these helpers can't do fails the test"
)]

mod commit;
mod dump;
mod faults;
mod find;
mod golden;

use std::process::Command;

use nodekit::netns::NetNs;

/// Runs `test` in a fresh network namespace, on a thread of its own.
fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let namespace = NetNs::anonymous().expect("a network namespace needs CAP_SYS_ADMIN");
    namespace.run(test).expect("the test panicked")
}

/// Runs nft in the calling thread's network namespace and gives what it prints.
fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft")
        .args(arguments)
        .output()
        .expect("nft is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "nft {arguments:?}: {} {errors}",
        output.status
    );
    String::from_utf8(output.stdout).expect("nft prints UTF-8")
}
