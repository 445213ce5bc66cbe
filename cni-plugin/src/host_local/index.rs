//! Who holds what, without reading every reservation: a folder inside the reservations' own,
//! which the reference plugin walks over without finding an address in it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cni_types::Error;

use super::store::{Reservation, failed};

/// The index of one network's reservations.
///
/// A holder's entry, named `id:ifname`, is a hard link to its reservations, which makes it cheap:
/// no file of its own, and the reservations are those names in the folder that have its inode
/// number. Reservations that the reference made have a file each; the second and further ones are
/// at `id:ifname:1` and so on.
///
/// The file `seen` has the modification time that the reservations' folder had when the index was
/// right. Whoever reserves or releases changes that time.
#[derive(Debug)]
pub(super) struct Index {
    reservations: PathBuf,
    folder: PathBuf,
}

/// An entry: the inode of reservations, and how many names in the reservations' folder it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) inode: u64,
    pub(super) names: u64,
}

impl Index {
    pub(super) fn new(reservations: &Path) -> Self {
        Self {
            reservations: reservations.to_owned(),
            folder: reservations.join(".causeway"),
        }
    }

    /// A file that is nobody's entry yet; the lock makes it ours alone.
    pub(super) fn scratch(&self) -> PathBuf {
        self.folder.join("new")
    }

    /// Opens a file of the index for writing, and makes the folder for it where needed.
    pub(super) fn open(&self, path: &Path) -> Result<File, Error> {
        // Not truncated: ext4 writes a truncated file to the disk as it is closed.
        let open = || {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
        };
        let opened = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.folder)
                    .map_err(failed("make the folder", &self.folder))?;
                open()
            }
            other => other,
        };
        opened.map_err(failed("write", path))
    }

    fn path_of(&self, container_id: &str, ifname: Option<&str>, number: usize) -> PathBuf {
        let ifname = ifname.unwrap_or_default();
        let number = if number == 0 {
            String::new()
        } else {
            format!(":{number}")
        };
        self.folder.join(format!("{container_id}:{ifname}{number}"))
    }

    /// Whether nobody changed the reservations since [`Self::seal`].
    pub(super) fn is_current(&self) -> Result<bool, Error> {
        let seen = fs::read_to_string(self.folder.join("seen")).unwrap_or_default();
        Ok(seen == self.modified()?)
    }

    /// Says that the index is right now.
    pub(super) fn seal(&self) -> Result<(), Error> {
        let path = self.folder.join("seen");
        let mut file = self.open(&path)?;
        // Always as long as before, and taken for wrong if half of it is written.
        file.write_all(self.modified()?.as_bytes())
            .map_err(failed("write", &path))
    }

    fn modified(&self) -> Result<String, Error> {
        let meta =
            fs::metadata(&self.reservations).map_err(failed("inspect", &self.reservations))?;
        Ok(format!("{:020}.{:09}", meta.mtime(), meta.mtime_nsec()))
    }

    /// Everything that a holder has an entry for.
    pub(super) fn entries(&self, id: &str, ifname: Option<&str>) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        loop {
            let path = self.path_of(id, ifname, entries.len());
            match fs::symlink_metadata(&path) {
                // One of its names is the entry itself.
                Ok(meta) => entries.push(Entry {
                    inode: meta.ino(),
                    names: meta.nlink() - 1,
                }),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(entries),
                Err(error) => return Err(failed("inspect", &path)(error)),
            }
        }
    }

    /// Makes the scratch file the entry of a holder.
    pub(super) fn enter_scratch(&self, id: &str, ifname: &str) -> Result<(), Error> {
        let path = self.path_of(id, Some(ifname), 0);
        fs::rename(self.scratch(), &path).map_err(failed("make", &path))
    }

    /// Forgets a holder.
    pub(super) fn remove(&self, id: &str, ifname: Option<&str>) -> Result<(), Error> {
        for number in 0.. {
            let path = self.path_of(id, ifname, number);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(failed("remove", &path)(error)),
            }
        }
        Ok(())
    }

    /// Makes the index anew from the reservations themselves.
    pub(super) fn rebuild(&self, reservations: &[Reservation]) -> Result<(), Error> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove the folder", &self.folder)(error));
            }
            _ => {}
        }
        // The seal is of a time before the folder came back, and so wrong until all is done.
        fs::create_dir_all(&self.folder).map_err(failed("make the folder", &self.folder))?;
        let mut inodes: BTreeMap<(&str, Option<&str>), Vec<u64>> = BTreeMap::new();
        for held in reservations {
            let known = inodes
                .entry((&held.container_id, held.ifname.as_deref()))
                .or_default();
            let file = self.reservations.join(held.address.to_string());
            let inode = fs::metadata(&file).map_err(failed("inspect", &file))?.ino();
            if !known.contains(&inode) {
                let path = self.path_of(&held.container_id, held.ifname.as_deref(), known.len());
                fs::hard_link(&file, &path).map_err(failed("make", &path))?;
                known.push(inode);
            }
        }
        self.seal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_by_others_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::new(dir.path());
        assert!(!index.is_current().unwrap(), "never sealed");
        index.seal().unwrap();
        // The first seal made the folder, which is a change.
        index.seal().unwrap();
        assert!(index.is_current().unwrap());
        drop(index.open(&index.scratch()).unwrap());
        index.enter_scratch("id", "eth0").unwrap();
        assert!(index.is_current().unwrap(), "our own notes are no change");
        assert_eq!(index.entries("id", Some("eth0")).unwrap().len(), 1);

        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(dir.path().join("10.0.0.2"), "x").unwrap();
        assert!(!index.is_current().unwrap());
    }

    #[test]
    fn a_half_written_seal_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::new(dir.path());
        index.seal().unwrap();
        index.seal().unwrap();
        let seen = dir.path().join(".causeway/seen");
        let text = fs::read_to_string(&seen).unwrap();
        fs::write(&seen, &text[..text.len() / 2]).unwrap();
        assert!(!index.is_current().unwrap());
    }
}
