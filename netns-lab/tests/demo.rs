//! The demonstration, as a newcomer runs it.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

#[path = "lab/bed.rs"]
#[expect(dead_code, reason = "tests/lab.rs uses the rest")]
mod bed;

use std::process::{Command, Output};

use bed::{Bed, PROGRAM};

fn demo(bed: &Bed, words: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .arg("demo")
        .args(words)
        .arg("--run-dir")
        .arg(bed.run_dir());
    command.output().unwrap()
}

#[test]
fn every_claim_of_the_demo_holds_and_nothing_is_left() {
    let chosen = "the kernel turned the ClusterIP into a Redis pod's address";
    every_claim_holds_in("nftables", chosen);
}

#[test]
fn every_claim_holds_in_mode_ebpf_too() {
    let chosen = "the kernel connected the socket to a Redis pod's address";
    every_claim_holds_in("ebpf", chosen);
}

fn every_claim_holds_in(mode: &str, chosen: &str) {
    let bed = Bed::new();
    let output = demo(&bed, &["--mode", mode]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        !text.contains("WRONG") && !text.contains('\x1b'),
        "plain lines only:\n{text}"
    );
    for claim in [
        chosen,
        "all 300 requests were answered",
        "every Redis pod had its share",
        "after the endpoint had left, nothing failed",
        "the new pod is used",
        "no process, no namespace, no cgroup, no mount and no file of the lab is left",
        "Every claim held",
    ] {
        assert!(text.contains(claim), "{claim:?} in:\n{text}");
    }
    bed.nothing_left();
}

#[test]
fn kept_the_lab_is_there_to_play_with() {
    let bed = Bed::new();
    let output = demo(&bed, &["--keep"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut ping = Command::new(PROGRAM);
    ping.args(["exec", "--run-dir"]).arg(bed.run_dir());
    ping.args(["frontend", "redis-cli", "-h", "redis-service", "ping"]);
    assert_eq!(ping.output().unwrap().stdout, b"PONG\n");
    let down = Command::new(PROGRAM)
        .arg("down")
        .arg("--run-dir")
        .arg(bed.run_dir())
        .output();
    assert!(down.unwrap().status.success());
    bed.nothing_left();
}
