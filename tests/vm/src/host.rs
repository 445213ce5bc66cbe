//! Outside: the machine put together, started, listened to.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::archive::Archive;
use crate::guest::{COMMANDS, END, MODULES, VERDICT};
use crate::modules::Modules;

/// What the command line says.
#[derive(Default)]
struct Options {
    kernel: PathBuf,
    modules: Vec<String>,
    files: Vec<PathBuf>,
    /// Each program with its arguments, apart by [`END`].
    commands: Vec<String>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            if name == END {
                options.commands = arguments.collect();
                break;
            }
            let value = arguments
                .next()
                .with_context(|| format!("{name}: a value belongs to it"))?;
            match name.as_str() {
                "--kernel" => options.kernel = value.into(),
                "--module" => options.modules.push(value),
                "--with" => options.files.push(value.into()),
                _ => bail!("{name} is unknown; there are --kernel, --module, --with and --"),
            }
        }
        if options.commands.is_empty() || options.kernel.as_os_str().is_empty() {
            bail!("--kernel DIR and -- PROGRAM are needed");
        }
        Ok(options)
    }
}

/// Runs the program in a machine; gives its exit code.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<u8> {
    let options = Options::read(arguments)?;
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("initramfs");
    fs::write(&archive, assemble(&options)?)?;
    start(&image(&options.kernel)?, &archive)
}

fn assemble(options: &Options) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["/dev", "/proc", "/sys", "/tmp", "/run", "/var/lib", MODULES] {
        archive.add_folder(Path::new(folder))?;
    }
    let own = std::env::current_exe()?;
    archive.copy(&own)?;
    archive.add(Path::new("/init"), 0o755, &fs::read(&own)?)?;
    for command in options.commands.split(|word| word == END) {
        let program = command.first().context("-- without a program")?;
        archive.copy(Path::new(program))?;
    }
    for file in &options.files {
        archive.copy(file)?;
    }
    let commands: String = options
        .commands
        .iter()
        .map(|word| format!("{word}\0"))
        .collect();
    archive.add(Path::new(COMMANDS), 0o644, commands.as_bytes())?;
    let modules = Modules::find(&options.kernel)?;
    for (number, file) in modules.in_order(&options.modules)?.into_iter().enumerate() {
        let path = format!("{MODULES}/{number:03}");
        archive.add(Path::new(&path), 0o644, &fs::read(file)?)?;
    }
    archive.finish()
}

/// The kernel of an unpacked package.
fn image(package: &Path) -> anyhow::Result<PathBuf> {
    let folder = package.join("boot");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("{}: no kernel", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with("vmlinuz-") {
            return Ok(path);
        }
    }
    bail!("{} has no vmlinuz", folder.display())
}

/// Starts the machine, passes on what it says, and waits for its end.
fn start(kernel: &Path, archive: &Path) -> anyhow::Result<u8> {
    let machine = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "2048",
    ];
    let mut process = Command::new("qemu-system-x86_64")
        .args(machine)
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args([
            "-append",
            "console=ttyS0 loglevel=3 panic=-1 no_timer_check mitigations=off",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64 does not start")?;
    let mut code = None;
    let said = process.stdout.take().context("no output")?;
    for line in BufReader::new(said).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\r');
        match text.split_once(VERDICT) {
            Some((_, number)) => code = number.trim().parse().ok(),
            None => writeln!(std::io::stdout(), "{text}")?,
        }
    }
    process.wait()?;
    code.context("the machine ended without a verdict")
}
