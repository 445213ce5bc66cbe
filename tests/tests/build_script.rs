//! What `proxy/build.rs` does about the eBPF programs. It is compiled by itself here and run as Cargo
//! runs it, so that nothing else is built.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use tempfile::TempDir;

/// Built once for all tests.
static SCRIPT: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("build-script");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-o"]).arg(&program);
    let status = rustc.arg(proxy().join("build.rs")).status().unwrap();
    assert!(status.success());
    (folder, program)
});

fn proxy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy")
}

/// A build that puts the object into a folder of its own, on a machine without any tool.
struct Build {
    folder: TempDir,
}

impl Build {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn run(&self, given: Option<&Path>) -> Output {
        let mut script = Command::new(&SCRIPT.1);
        script
            .current_dir(proxy())
            .env("OUT_DIR", self.folder.path())
            .env("PATH", self.folder.path())
            .env_remove("CAUSEWAY_EBPF_OBJECT");
        script.envs(given.map(|object| ("CAUSEWAY_EBPF_OBJECT", object)));
        script.output().unwrap()
    }

    fn object(&self) -> PathBuf {
        self.folder.path().join("causeway-ebpf")
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn without_the_toolchain_one_line_says_so_and_the_next_build_looks_again() {
    let build = Build::new();
    for _ in 0..2 {
        let output = build.run(None);
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stdout);
        let warnings = said.lines().filter(|line| line.contains("warning"));
        let expected = "cargo::warning=mode ebpf is left out: there is no bpf-linker on PATH; \
                        scripts/setup installs it";
        assert_eq!(warnings.collect::<Vec<_>>(), [expected]);
        assert_eq!(std::fs::read(build.object()).unwrap(), []);
        // For Cargo a watched file that isn't there has changed.
        let watched = said
            .lines()
            .filter_map(|line| line.strip_prefix("cargo::rerun-if-changed="));
        let missing = watched.filter(|path| !proxy().join(path).exists()).count();
        assert_eq!(missing, 1);
    }
}

#[test]
fn an_object_that_was_built_elsewhere_is_taken_as_it_is() {
    let build = Build::new();
    let given = build.folder.path().join("given");
    std::fs::write(&given, b"an object").unwrap();
    let output = build.run(Some(&given));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(build.object()).unwrap(), b"an object");
}

#[test]
fn an_object_that_cannot_be_taken_is_named() {
    for (given, why) in [
        ("some/object", "accepted is an absolute path"),
        ("/nowhere/object", "No such file or directory"),
    ] {
        let output = Build::new().run(Some(Path::new(given)));
        assert!(!output.status.success(), "{given}");
        let said = text(&output.stderr);
        let names = format!("CAUSEWAY_EBPF_OBJECT={given}");
        assert!(said.contains(&names) && said.contains(why), "{said}");
    }
}
