//! Files that appear whole.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cni_types::{Code, Error};

pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> Error + use<'a> {
    move |error| {
        let message = format!("cannot {action} {}: {error}", path.display());
        Error::new(Code::IO, message)
    }
}

/// The name under which something is made before it is renamed. Runtimes read no hidden files.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Writes a file under another name, has it on the disk, and renames it.
pub(super) fn put(path: &Path, mode: u32, content: &mut impl Read) -> Result<(), Error> {
    let new = temporary(path);
    remove(&new)?;
    let mut write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        io::copy(content, &mut file)?;
        // Whatever the umask is, a runtime's folder is for all to read.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&new);
        failed("write", path)(error)
    })
}

/// Removes a file; false when there is none.
pub(super) fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}
