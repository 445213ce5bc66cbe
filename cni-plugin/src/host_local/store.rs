//! Reservations on disk: one file for each address, named by it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use cni_types::{Attachment, Code, Error};

use super::index::{Entry, Index};

/// The separator between container id and interface name, as the reference writes it.
pub(super) const LINE_BREAK: &str = "\r\n";

/// More than this in a file is no reservation, in bytes.
const LONGEST_RESERVATION: u64 = 4096;

/// A network's folder of reservations, locked against every other process as long as it lives.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    pub(super) index: Index,
    _lock: File,
}

/// An address and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) address: IpAddr,
    pub(crate) container_id: String,
    /// Absent in files of old versions of the reference, which then count for any interface.
    pub(crate) ifname: Option<String>,
}

impl Reservation {
    pub(super) fn is_of(&self, attachment: &Attachment) -> bool {
        self.container_id == attachment.container_id
            && self
                .ifname
                .as_ref()
                .is_none_or(|ifname| *ifname == attachment.ifname)
    }
}

pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> Error + use<'a> {
    move |error| {
        Error::new(
            Code::IO,
            format!("cannot {action} {}: {error}", path.display()),
        )
    }
}

impl Store {
    /// Opens the folder, making it where needed, and waits for its lock.
    pub(crate) fn create(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        Self::lock(folder)
    }

    /// Opens the folder and waits for its lock; `None` where there never was a reservation.
    pub(crate) fn open(folder: &Path) -> Result<Option<Self>, Error> {
        if folder.is_dir() {
            Self::lock(folder).map(Some)
        } else {
            Ok(None)
        }
    }

    fn lock(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("lock");
        // The reference takes flock(2) on the same file, and File::lock is flock(2).
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(Self {
            folder: folder.to_owned(),
            index: Index::new(folder),
            _lock: lock,
        })
    }

    pub(super) fn file_of(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// The address that was given last out of a set.
    pub(super) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.last_reserved_file(set))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    pub(super) fn set_last_reserved(&self, set: usize, address: IpAddr) -> Result<(), Error> {
        let path = self.last_reserved_file(set);
        let text = address.to_string();
        // Not truncated first: ext4 writes a truncated file to the disk as it is closed.
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let written = open.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            let length = u64::try_from(text.len()).unwrap_or_default();
            if file.metadata()?.len() > length {
                file.set_len(length)
            } else {
                Ok(())
            }
        });
        written.map_err(failed("write", &path))
    }

    fn last_reserved_file(&self, set: usize) -> PathBuf {
        self.folder.join(format!("last_reserved_ip.{set}"))
    }

    /// What an attachment holds. Looked up by the index, unless another program changed the
    /// folder since: then every reservation is read once.
    pub(crate) fn held_by(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        if !self.index.is_current()? {
            self.index.rebuild(&self.all()?)?;
        }
        let Attachment {
            container_id,
            ifname,
        } = attachment;
        let mut entries = self.index.entries(container_id, Some(ifname))?;
        entries.extend(self.index.entries(container_id, None)?);
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut addresses = self.names_of(&entries)?;
        let of_attachment = |held: &Reservation| held.is_of(attachment);
        addresses.retain(|address| self.read(*address).as_ref().is_some_and(of_attachment));
        let expected: u64 = entries.iter().map(|entry| entry.names).sum();
        if u64::try_from(addresses.len()).is_ok_and(|found| found == expected) {
            return Ok(addresses);
        }
        // A file system whose folders tell other inode numbers than its files, or somebody made
        // further links: the reservations themselves decide.
        Ok(self
            .all()?
            .iter()
            .filter(|held| of_attachment(held))
            .map(|h| h.address)
            .collect())
    }

    /// The addresses whose files have these inodes. Reads names only.
    fn names_of(&self, entries: &[Entry]) -> Result<Vec<IpAddr>, Error> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let file = file.map_err(failed("list", &self.folder))?;
            let inode = file.ino();
            if entries.iter().any(|entry| entry.inode == inode) {
                found.extend(
                    file.file_name()
                        .to_str()
                        .and_then(|name| name.parse::<IpAddr>().ok()),
                );
            }
        }
        Ok(found)
    }

    /// Every reservation. What cannot be read or understood is reported on standard error and
    /// left as it is: its address stays taken.
    pub(crate) fn all(&self) -> Result<Vec<Reservation>, Error> {
        let entries = fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.folder))?;
            let Some(address) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            match self.read(address) {
                Some(reservation) => found.push(reservation),
                None => eprintln!(
                    "causeway-cni: {} is no reservation; its address stays taken",
                    entry.path().display()
                ),
            }
        }
        Ok(found)
    }

    fn read(&self, address: IpAddr) -> Option<Reservation> {
        let mut content = String::new();
        let file = File::open(self.file_of(address)).ok()?;
        file.take(LONGEST_RESERVATION)
            .read_to_string(&mut content)
            .ok()?;
        let mut lines = content.trim().lines();
        let container_id = lines.next()?.trim_end().to_owned();
        let ifname = lines.next().map(str::to_owned);
        // An old file has an id only; the name of an interface that could be one stands in for it.
        let plausible = Attachment::new(&container_id, ifname.as_deref().unwrap_or("eth0"));
        if plausible.is_err() || lines.next().is_some() {
            return None;
        }
        Some(Reservation {
            address,
            container_id,
            ifname,
        })
    }

    /// Gives back everything an attachment holds, and says what that was.
    pub(crate) fn release(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        let held = self.held_by(attachment)?;
        for address in &held {
            self.remove(*address)?;
        }
        self.index
            .remove(&attachment.container_id, Some(&attachment.ifname))?;
        self.index.remove(&attachment.container_id, None)?;
        self.index.seal()?;
        Ok(held)
    }

    /// Gives back one reservation, whoever holds it.
    pub(crate) fn release_one(&self, reservation: &Reservation) -> Result<(), Error> {
        self.remove(reservation.address)?;
        self.index
            .remove(&reservation.container_id, reservation.ifname.as_deref())?;
        self.index.seal()
    }

    fn remove(&self, address: IpAddr) -> Result<(), Error> {
        let path = self.file_of(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_local::claim::Claim;

    fn attachment(id: &str) -> Attachment {
        Attachment::new(id, "eth0").unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whether all of the addresses could be reserved.
    fn reserve(store: &Store, id: &str, addresses: &[&str]) -> bool {
        let by = attachment(id);
        let mut claim = Claim::new(store, &by).unwrap();
        let all = addresses
            .iter()
            .all(|address| claim.take(ip(address)).unwrap());
        if all {
            claim.keep().unwrap();
        }
        all
    }

    #[test]
    fn several_addresses_of_one_holder_come_and_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        assert!(reserve(&store, "a", &["10.0.0.2", "fd00::2"]));
        assert!(
            !reserve(&store, "b", &["10.0.0.3", "fd00::2"]),
            "the second is taken"
        );
        assert!(!dir.path().join("10.0.0.3").exists(), "the first stayed");
        let mut held = store.held_by(&attachment("a")).unwrap();
        held.sort();
        assert_eq!(held, [ip("10.0.0.2"), ip("fd00::2")]);
        // A copy that keeps hard links must not hide anything.
        fs::hard_link(dir.path().join("10.0.0.2"), dir.path().join("copy")).unwrap();
        assert_eq!(store.release(&attachment("a")).unwrap().len(), 2);
        assert_eq!(store.all().unwrap(), []);
    }

    #[test]
    fn a_killed_reservation_stays_its_holders() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let killed = attachment("killed");
        let mut claim = Claim::new(&store, &killed).unwrap();
        assert!(claim.take(ip("10.0.0.2")).unwrap());
        // Neither kept nor dropped, as when the process is killed here.
        std::mem::forget(claim);
        assert!(reserve(&store, "next", &["10.0.0.3"]));
        let content = fs::read_to_string(dir.path().join("10.0.0.2")).unwrap();
        assert_eq!(content, "killed\r\neth0");
    }

    #[test]
    fn files_are_as_the_reference_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("net");
        assert!(Store::open(&folder).unwrap().is_none());
        let store = Store::create(&folder).unwrap();
        assert!(reserve(&store, "a", &["10.0.0.2"]));
        assert!(!reserve(&store, "b", &["10.0.0.2"]));
        store.set_last_reserved(0, ip("10.0.0.2")).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join("10.0.0.2")).unwrap(),
            "a\r\neth0"
        );
        assert_eq!(
            fs::read_to_string(folder.join("last_reserved_ip.0")).unwrap(),
            "10.0.0.2"
        );
        assert_eq!(store.last_reserved(0), Some(ip("10.0.0.2")));
        assert_eq!(store.last_reserved(1), None);
    }

    #[test]
    fn the_reference_may_change_the_folder_between_our_calls() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let store = Store::create(folder).unwrap();
        assert!(reserve(&store, "ours", &["10.0.0.2"]));

        // Another program reserves, in the new and in the old form, and releases ours.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(folder.join("10.0.0.3"), "theirs\r\neth0").unwrap();
        fs::write(folder.join("fd00::3"), "theirs\r\neth0").unwrap();
        fs::write(folder.join("10.0.0.4"), "old\n").unwrap();
        fs::remove_file(folder.join("10.0.0.2")).unwrap();

        assert_eq!(
            store.held_by(&attachment("ours")).unwrap(),
            Vec::<IpAddr>::new()
        );
        let mut theirs = store.release(&attachment("theirs")).unwrap();
        theirs.sort();
        assert_eq!(theirs, [ip("10.0.0.3"), ip("fd00::3")]);
        assert_eq!(store.release(&attachment("old")).unwrap(), [ip("10.0.0.4")]);
        assert_eq!(store.all().unwrap(), []);
    }

    #[test]
    fn an_address_that_went_to_somebody_else_is_not_released() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        assert!(reserve(&store, "a", &["10.0.0.2"]));
        // As if the index were stale and the change of the folder had gone unseen.
        fs::write(dir.path().join("10.0.0.2"), "b\r\neth0").unwrap();
        assert_eq!(
            store.release(&attachment("a")).unwrap(),
            Vec::<IpAddr>::new()
        );
        assert!(dir.path().join("10.0.0.2").exists());
    }

    #[test]
    fn what_is_corrupted_is_skipped_and_stays_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        for (name, content) in [
            ("10.0.0.2", &b""[..]),
            ("10.0.0.3", b"\xff\xfe"),
            ("10.0.0.4", b"a\r\neth0\r\nmore"),
            ("10.0.0.5", b"../etc\r\neth0"),
            ("notes.txt", b"a\r\neth0"),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        fs::create_dir(dir.path().join("10.0.0.6")).unwrap();
        assert!(reserve(&store, "a", &["10.0.0.7"]));
        assert_eq!(store.release(&attachment("a")).unwrap(), [ip("10.0.0.7")]);
        for taken in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"] {
            assert!(!reserve(&store, "b", &[taken]), "{taken} was freed");
        }
    }
}
