//! Inside: the first process, which makes the machine usable, runs the program and ends the machine.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nodekit::route::Handle;

/// Where the modules are, named in the order in which they are loaded.
pub(crate) const MODULES: &str = "/vm/modules";
/// The programs and their arguments, each word ended by a NUL, each program by [`END`].
pub(crate) const COMMANDS: &str = "/vm/commands";
/// Ends a program with its arguments.
pub(crate) const END: &str = "--";
/// What the last line begins with; the exit code follows.
pub(crate) const VERDICT: &str = "causeway-vm: exit code ";

/// Lives and dies: returning would have the kernel panic.
pub(crate) fn live() -> ExitCode {
    let code = work().unwrap_or_else(|error| {
        println!("causeway-vm: {error:#}");
        125
    });
    println!("{VERDICT}{code}");
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(_) => ExitCode::FAILURE,
    }
}

fn work() -> anyhow::Result<i32> {
    let none = None::<&str>;
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
    ] {
        fs::create_dir_all(target)?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("mount {target}"))?;
    }
    let mut modules: Vec<_> = fs::read_dir(MODULES)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    modules.sort();
    for module in modules {
        load(&module)?;
    }
    Handle::open()?.set_up(1)?;
    let words = fs::read_to_string(COMMANDS)?;
    let words: Vec<_> = words.split_terminator('\0').collect();
    for command in words.split(|word| *word == END) {
        let Some((program, arguments)) = command.split_first() else {
            continue;
        };
        let code = run(program, arguments)?;
        if code != 0 {
            return Ok(code);
        }
    }
    Ok(0)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<i32> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("causeway-vm: {program} under Linux {}", release.trim_end());
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/tmp")
        .current_dir("/tmp")
        .status()
        .with_context(|| program.to_owned())?;
    Ok(status.code().unwrap_or(124))
}

fn load(module: &Path) -> anyhow::Result<()> {
    let file = File::open(module)?;
    nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty())
        .with_context(|| format!("load {}", module.display()))
}
