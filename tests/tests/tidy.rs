//! House rules that no compiler lint covers, over the files that git knows.
#![expect(clippy::expect_used, reason = "what can't be done fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest Rust file; longer ones hold more than one concept.
const LONGEST: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn files(pattern: &str) -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--", pattern])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listing = String::from_utf8(output.stdout).expect("UTF-8 names");
    let files: Vec<(String, String)> = listing
        .lines()
        .filter_map(|name| {
            Some((
                name.to_owned(),
                std::fs::read_to_string(root().join(name)).ok()?,
            ))
        })
        .collect();
    assert!(!files.is_empty(), "no file matches {pattern}");
    files
}

#[test]
fn rust_files_are_short_and_named_after_their_module() {
    for (name, text) in files("*.rs") {
        assert!(!name.ends_with("/mod.rs"), "{name}: use foo.rs beside foo/");
        assert!(
            !name.ends_with("utils.rs") && !name.ends_with("util.rs"),
            "{name}: name the concept"
        );
        let lines = text.lines().count();
        assert!(
            lines <= LONGEST,
            "{name} has {lines} lines, at most {LONGEST}"
        );
    }
}

#[test]
fn tests_are_never_skipped() {
    let ignore = concat!("#[", "ignore");
    for (name, text) in files("*.rs") {
        assert!(!text.contains(ignore), "{name}: a skip looks like a pass");
    }
}

#[test]
fn every_crate_says_what_it_never_does() {
    for (name, text) in files("*/src/lib.rs") {
        let head: String = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        assert!(
            head.contains("never") || head.contains("Never"),
            "{name}: begin with what it never does"
        );
    }
}

#[test]
fn shell_scripts_stop_at_the_first_error() {
    for (name, text) in files("scripts/*").into_iter().chain(files(".ci/run")) {
        assert!(
            text.contains("set -euo pipefail"),
            "{name}: set -euo pipefail"
        );
    }
}
