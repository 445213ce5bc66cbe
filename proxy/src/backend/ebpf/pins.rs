//! Files on a bpffs that keep maps and attached programs alive.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use causeway_ebpf_abi::LAYOUT;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Error;

/// The folder unless another one is named.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/causeway";

/// The folder of the maps of this layout.
pub(super) fn maps(pins: &Path) -> PathBuf {
    pins.join(format!("maps-{LAYOUT}"))
}

/// The pin of a program's attachment.
pub(super) fn link(pins: &Path, program: &str) -> PathBuf {
    pins.join("links").join(program)
}

/// The numbers in the names of what is beside the attachments' pins and begins with `prefix`.
pub(super) fn numbered(pins: &Path, prefix: &str) -> Result<Vec<u32>, Error> {
    let folder = pins.join("links");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("folder", &folder))?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("folder", &folder))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// Makes the folders.
///
/// # Errors
/// It is on no bpffs, or may not be written.
pub(super) fn prepare(pins: &Path) -> Result<(), Error> {
    let existing = pins.ancestors().find(|folder| folder.exists());
    let magic = existing.map(statfs).transpose();
    let on_bpffs = matches!(magic, Ok(Some(fs)) if fs.filesystem_type() == BPF_FS_MAGIC);
    if !on_bpffs {
        return Err(Error::NoBpffs(pins.to_owned()));
    }
    for folder in [maps(pins), pins.join("links")] {
        fs::create_dir_all(&folder).map_err(failed("folder", &folder))?;
    }
    Ok(())
}

/// Removes the maps of other layouts, which nothing is attached to any more.
pub(super) fn forget_other_layouts(pins: &Path) -> io::Result<()> {
    for entry in fs::read_dir(pins)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("maps-")) && path != maps(pins) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Takes away all pins, and by that the attachments and the maps.
///
/// # Errors
/// Something is left.
pub(super) fn remove(pins: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failed("--ebpf-pin-dir", pins)(error))
        }
        _ => Ok(()),
    }
}

/// An error that names a file.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}
