//! Builds the eBPF programs and hands their object to the library as a file in `OUT_DIR`.
//!
//! They are for another machine, the kernel's, and need another compiler: one that has `core` for
//! it, and `bpf-linker`. Where there is none, everything else is built, and the daemon says in
//! mode `ebpf` what is missing. `CAUSEWAY_EBPF_OBJECT` names an object that was built elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The machine that they are for (little endian, as every machine this is tried on).
const TARGET: &str = "bpfel-unknown-none";

/// Where Debian's rustc is, which the package libstd-rust-web-dev-bpf gives a `core` for it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

fn main() -> io::Result<()> {
    let sources = Path::new("../ebpf");
    for part in [
        "abi/src",
        "abi/Cargo.toml",
        "core/src",
        "core/Cargo.toml",
        "prog/src",
        "prog/Cargo.toml",
        "prog/Cargo.lock",
    ] {
        watch(&sources.join(part));
    }
    watch(Path::new("build.rs"));
    println!("cargo::rerun-if-env-changed=CAUSEWAY_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=PATH");
    let folder = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let object = folder.join("causeway-ebpf");
    if let Some(given) = env::var_os("CAUSEWAY_EBPF_OBJECT") {
        return take(Path::new(&given), &object);
    }
    match Toolchain::find() {
        Ok(toolchain) => {
            // Another version of either makes another object.
            watch(&toolchain.linker);
            toolchain.rustc.as_deref().map(watch);
            let built = toolchain.build(&sources.join("prog"), &folder.join("bpf"))?;
            fs::copy(built, &object)?;
        }
        Err(missing) => {
            println!("cargo::warning=mode ebpf is left out: {missing}; scripts/setup installs it");
            // Cargo asks again with every build whether there is one meanwhile.
            watch(&folder.join("never-there"));
            if fs::read(&object).is_ok_and(|object| object.is_empty()) {
                return Ok(());
            }
            fs::write(&object, [])?;
        }
    }
    Ok(())
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// Copies an object that was built elsewhere.
fn take(given: &Path, object: &Path) -> io::Result<()> {
    watch(given);
    // Cargo doesn't tell where it was called.
    if !given.is_absolute() {
        return Err(io::Error::other(format!(
            "CAUSEWAY_EBPF_OBJECT={}: accepted is an absolute path",
            given.display()
        )));
    }
    fs::copy(given, object).map_err(|error| {
        let given = given.display();
        io::Error::other(format!("CAUSEWAY_EBPF_OBJECT={given}: {error}"))
    })?;
    Ok(())
}

/// A compiler and a linker for [`TARGET`].
struct Toolchain {
    /// Debian's compiler, or none where rustup's nightly builds `core` itself.
    rustc: Option<PathBuf>,
    linker: PathBuf,
}

impl Toolchain {
    fn find() -> Result<Self, &'static str> {
        let path = env::var_os("PATH").unwrap_or_default();
        let linker = env::split_paths(&path)
            .map(|folder| folder.join("bpf-linker"))
            .find(|file| file.is_file())
            .ok_or("there is no bpf-linker on PATH")?;
        let prints = |rustc: &mut Command, what: &[&str]| {
            let output = rustc.args(what).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| PathBuf::from(text.trim()))
        };
        let core = ["--print", "target-libdir", "--target", TARGET];
        let debian = prints(&mut Command::new(DEBIAN_RUSTC), &core);
        if debian.is_some_and(|folder| folder.is_dir()) {
            let rustc = Some(DEBIAN_RUSTC.into());
            return Ok(Self { rustc, linker });
        }
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc"]);
        let source = "lib/rustlib/src/rust/library/core";
        match prints(&mut nightly, &["--print", "sysroot"]) {
            Some(sysroot) if sysroot.join(source).is_dir() => Ok(Self {
                rustc: None,
                linker,
            }),
            _ => Err(
                "there is neither Debian's libstd-rust-web-dev-bpf nor rustup's nightly with rust-src",
            ),
        }
    }

    /// Builds the object; the name of its file.
    fn build(&self, package: &Path, folder: &Path) -> io::Result<PathBuf> {
        let mut cargo = match &self.rustc {
            Some(rustc) => {
                let mut cargo =
                    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                // The stable compiler takes the features that these crates need of it.
                cargo
                    .env("RUSTC", rustc)
                    .env("RUSTC_BOOTSTRAP", "aya_ebpf,causeway_ebpf");
                cargo
            }
            None => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
                rustup.env_remove("RUSTC");
                rustup
            }
        };
        let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        let flags = [
            // Types and lines for the kernel (BTF), which the verifier's messages show.
            "-Cdebuginfo=2".to_owned(),
            "-Ctarget-cpu=v3".to_owned(),
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            // What is set to zero is so by words; in the linker's own order it is done byte by byte, in a
            // loop that the verifier follows each time.
            "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
            format!("--cfg=bpf_target_arch=\"{architecture}\""),
        ];
        cargo
            .args(["build", "--release", "--locked", "--target", TARGET])
            .arg("--target-dir")
            .arg(folder)
            .current_dir(package)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        for set_for_the_other_machine in [
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
            "CARGO_BUILD_TARGET",
        ] {
            cargo.env_remove(set_for_the_other_machine);
        }
        let status = cargo.status()?;
        if !status.success() {
            return Err(io::Error::other(format!(
                "building the eBPF programs: {status}"
            )));
        }
        Ok(folder.join(TARGET).join("release/causeway-ebpf"))
    }
}
