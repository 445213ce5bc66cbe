//! Who holds what, without reading every reservation: a folder inside the reservations' own,
//! which the reference plugin walks over without finding a reservation in it.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cni_types::Error;

use super::store::{Reservation, failed, replace};

/// The index of one network's reservations. A file for each holder, named `id:ifname`, lists its
/// addresses; the file `seen` has the modification time that the reservations' folder had when
/// the index was right. Whoever reserves or releases changes that time.
#[derive(Debug)]
pub(super) struct Index {
    reservations: PathBuf,
    folder: PathBuf,
}

impl Index {
    pub(super) fn new(reservations: &Path) -> Self {
        Self {
            reservations: reservations.to_owned(),
            folder: reservations.join(".causeway"),
        }
    }

    /// A file to write and then link or rename; the lock makes it ours alone.
    pub(super) fn scratch_file(&self) -> Result<PathBuf, Error> {
        fs::create_dir_all(&self.folder).map_err(failed("make the folder", &self.folder))?;
        Ok(self.folder.join("new"))
    }

    fn file_of(&self, container_id: &str, ifname: Option<&str>) -> PathBuf {
        self.folder
            .join(format!("{container_id}:{}", ifname.unwrap_or_default()))
    }

    /// Whether nobody changed the reservations since [`Self::seal`].
    pub(super) fn is_current(&self) -> Result<bool, Error> {
        let seen = fs::read_to_string(self.folder.join("seen")).unwrap_or_default();
        Ok(seen == self.modified()?)
    }

    /// Says that the index is right now.
    pub(super) fn seal(&self) -> Result<(), Error> {
        let scratch = self.scratch_file()?;
        // Making the folder was the last change to what is looked at here.
        replace(&self.folder.join("seen"), &scratch, &self.modified()?)
    }

    fn modified(&self) -> Result<String, Error> {
        let meta =
            fs::metadata(&self.reservations).map_err(failed("inspect", &self.reservations))?;
        Ok(format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()))
    }

    pub(super) fn read(&self, id: &str, ifname: Option<&str>) -> Result<Vec<IpAddr>, Error> {
        let path = self.file_of(id, ifname);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    pub(super) fn write(
        &self,
        id: &str,
        ifname: Option<&str>,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let lines: String = addresses
            .iter()
            .map(|address| format!("{address}\n"))
            .collect();
        replace(&self.file_of(id, ifname), &self.scratch_file()?, &lines)
    }

    pub(super) fn remove(&self, id: &str, ifname: Option<&str>) -> Result<(), Error> {
        let path = self.file_of(id, ifname);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes the index anew from the reservations themselves.
    pub(super) fn rebuild(&self, reservations: &[Reservation]) -> Result<(), Error> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove the folder", &self.folder)(error));
            }
            _ => {}
        }
        let mut sorted: Vec<_> = reservations.iter().collect();
        let holder = |r: &Reservation| (r.container_id.clone(), r.ifname.clone());
        sorted.sort_by_key(|reservation| holder(reservation));
        for held in sorted.chunk_by(|a, b| holder(a) == holder(b)) {
            let addresses: Vec<_> = held.iter().map(|reservation| reservation.address).collect();
            if let [first, ..] = held {
                self.write(&first.container_id, first.ifname.as_deref(), &addresses)?;
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
        assert!(index.is_current().unwrap());
        let address: IpAddr = "10.0.0.9".parse().unwrap();
        index.write("id", Some("eth0"), &[address]).unwrap();
        assert!(index.is_current().unwrap(), "our own notes are no change");
        assert_eq!(index.read("id", Some("eth0")).unwrap(), [address]);

        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(dir.path().join("10.0.0.2"), "x").unwrap();
        assert!(!index.is_current().unwrap());
    }
}
