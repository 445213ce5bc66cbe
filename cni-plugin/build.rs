//! Links the plugin statically, by a plain `cargo build`: it is executed once per pod, in whatever
//! image the node has, and a dynamic loader would cost it a third of its start-up time.
//!
//! `-C target-feature=+crt-static` would do the same, but Cargo can only set it for the whole
//! build, where it forbids the procedural macros that other crates of the workspace use. Here the
//! libraries that rustc asks for dynamically are found as linker scripts that name the static ones.

use std::path::Path;
use std::{env, fs, io};

/// The libraries of a GNU/Linux program and where their code comes from (ld, "Implicit Linker
/// Scripts").
const SCRIPTS: [(&str, &str); 3] = [
    ("libc.so", "GROUP ( -l:libc.a -l:libgcc_eh.a -l:libgcc.a )"),
    ("libgcc_s.so", "GROUP ( -l:libgcc_eh.a -l:libgcc.a )"),
    ("libm.so", "GROUP ( -l:libm.a )"),
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "linux" || variable("CARGO_CFG_TARGET_ENV") != "gnu" {
        return Ok(());
    }
    let folder = variable("OUT_DIR");
    for (name, script) in SCRIPTS {
        fs::write(Path::new(&folder).join(name), script)?;
    }
    if variable("PROFILE") == "release" {
        // The names of functions are a third of the file, and nobody debugs it on a node.
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
        // Functions of the same code become one. Here rustc links by its own lld, which can.
        if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
            println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        }
    }
    // Not position-independent: every page with an address in it would be copied and changed at
    // each start, a sixteenth of an ADD. Stack, heap and mappings are at random places all the same,
    // and what is read from outside is read by code that the compiler checked.
    // Not as a search path for the whole package: the tests beside the binary stay dynamic.
    let arguments = ["-static", "-no-pie", &format!("-L{folder}")];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    Ok(())
}
