//! A folder of named namespaces, as `/run/netns`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::{Error, NetNs};

/// A folder in which namespaces are bound to names.
///
/// The folder is a shared mount of its own, as ip-netns(8) makes `/run/netns`: a namespace
/// deleted here disappears in the mount namespaces of other processes, too, instead of
/// living on in every one that copied the mount table meanwhile.
#[derive(Debug, Clone)]
pub struct NetNsDir {
    path: PathBuf,
}

impl NetNsDir {
    /// Makes the folder (and those above it) if it is missing and its mount shared. Opening
    /// the same folder again is fine.
    ///
    /// # Errors
    /// [`Error::Path`], with `EPERM` without `CAP_SYS_ADMIN`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        fs::create_dir_all(path).map_err(|error| Error::io(path, "create the folder", &error))?;
        match share(path) {
            Ok(()) => {}
            // Not a mount point yet: bind it onto itself, then it can be shared.
            Err(Errno::EINVAL) => {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                nix::mount::mount(Some(path), path, None::<&str>, flags, None::<&str>)
                    .and_then(|()| share(path))
                    .map_err(|errno| Error::path(path, "make it a shared mount", errno))?;
            }
            Err(errno) => return Err(Error::path(path, "make it a shared mount", errno)),
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where the namespace of a name is.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new namespace with a name.
    ///
    /// # Errors
    /// [`Error::Path`]: `EINVAL` for a name that is no plain file name, `EEXIST` for one in use.
    pub fn create(&self, name: &str) -> Result<NetNs, Error> {
        let path = self.path_of(name);
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Error::path(&path, "use this name", Errno::EINVAL));
        }
        NetNs::create_at(path)
    }

    /// Opens a namespace by its name.
    ///
    /// # Errors
    /// As [`NetNs::open`].
    pub fn get(&self, name: &str) -> Result<NetNs, Error> {
        NetNs::open(self.path_of(name))
    }

    /// Deletes a namespace by its name.
    ///
    /// # Errors
    /// As [`NetNs::delete`].
    pub fn delete(&self, name: &str) -> Result<(), Error> {
        NetNs::delete(self.path_of(name))
    }

    /// The names in the folder, in order; also those whose creation ended half-done.
    ///
    /// # Errors
    /// [`Error::Path`] when the folder can't be read.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(&self.path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|error| Error::io(&self.path, "list the folder", &error))?;
        let mut names: Vec<String> = entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Deletes the folder with every namespace in it.
    ///
    /// # Errors
    /// The first [`Error::Path`] met; what could be removed is removed.
    pub fn remove(self) -> Result<(), Error> {
        let mut first = None;
        for name in self.names()? {
            if let Err(error) = self.delete(&name) {
                first.get_or_insert(error);
            }
        }
        // Opened several times, it was still mounted once; a loop clears older leftovers.
        let detach =
            || nix::mount::umount2(&self.path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        while detach().is_ok() {}
        if let Err(error) = fs::remove_dir(&self.path) {
            first.get_or_insert(Error::io(&self.path, "remove the folder", &error));
        }
        first.map_or(Ok(()), Err)
    }
}

fn share(path: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}
