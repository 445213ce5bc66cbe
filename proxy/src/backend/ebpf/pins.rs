//! Files on a bpffs that keep maps and attached programs alive.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use causeway_ebpf_abi::{LASTING, LAYOUT};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::{AccessFlags, eaccess};

use super::Error;

/// The folder unless another one is named.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/causeway";

/// The folder of the maps of this layout, but for the lasting ones.
pub(super) fn maps(pins: &Path) -> PathBuf {
    pins.join(format!("maps-{LAYOUT}"))
}

/// The pins of the maps that have a layout of their own, by their names.
pub(super) fn lasting(pins: &Path) -> impl Iterator<Item = (&'static str, PathBuf)> {
    LASTING.into_iter().flat_map(move |(group, layout, maps)| {
        let folder = pins.join(format!("{group}-{layout}"));
        maps.iter().map(move |map| (*map, folder.join(map)))
    })
}

/// The pin of a map.
pub fn map_pin(pins: &Path, name: &str) -> PathBuf {
    let own = lasting(pins).find(|(map, _)| *map == name);
    own.map_or_else(|| maps(pins).join(name), |(_, pin)| pin)
}

/// The folders of maps of all groups, in their layouts of now.
fn folders(pins: &Path) -> impl Iterator<Item = PathBuf> {
    let lasting = LASTING.into_iter();
    let lasting = lasting.map(|(group, layout, _)| format!("{group}-{layout}"));
    let names = lasting.chain([format!("maps-{LAYOUT}")]);
    names.map(|name| pins.join(name))
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

/// Looks whether the folders can be made.
///
/// # Errors
/// It is on no bpffs, or may not be written.
pub(super) fn look(pins: &Path) -> Result<(), Error> {
    let existing = pins.ancestors().find(|folder| folder.exists());
    let magic = existing.map(statfs).transpose();
    let on_bpffs = matches!(magic, Ok(Some(fs)) if fs.filesystem_type() == BPF_FS_MAGIC);
    let Some(folder) = existing.filter(|_| on_bpffs) else {
        return Err(Error::NoBpffs(pins.to_owned()));
    };
    let may_write = eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK);
    may_write.map_err(|error| failed("--ebpf-pin-dir", folder)(error.into()))
}

/// Makes the folders.
///
/// # Errors
/// As [`look`].
pub(super) fn prepare(pins: &Path) -> Result<(), Error> {
    look(pins)?;
    for folder in folders(pins).chain([pins.join("links")]) {
        fs::create_dir_all(&folder).map_err(failed("folder", &folder))?;
    }
    Ok(())
}

/// Removes the maps of other layouts, which nothing is attached to any more.
pub(super) fn forget_other_layouts(pins: &Path) -> io::Result<()> {
    other_layouts(pins)?.iter().try_for_each(fs::remove_dir_all)
}

/// The folders of maps in other layouts than this version's.
pub(super) fn other_layouts(pins: &Path) -> io::Result<Vec<PathBuf>> {
    let current: Vec<PathBuf> = folders(pins).collect();
    let groups = LASTING.map(|(group, ..)| group);
    let mut others = Vec::new();
    for entry in fs::read_dir(pins)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let group = name.and_then(|name| Some(name.rsplit_once('-')?.0));
        let of_ours = group.is_some_and(|group| group == "maps" || groups.contains(&group));
        if of_ours && !current.contains(&path) {
            others.push(path);
        }
    }
    Ok(others)
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
