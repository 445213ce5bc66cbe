//! Reservations on disk: one file for each address, named by it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_types::{Attachment, Code, Error};

use super::boot::Boot;
use super::index::{self, Index, State};
use super::reservation::{LONGEST_RESERVATION, Reservation};

/// A network's folder of reservations, locked against every other process as long as it lives.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    pub(super) index: Index,
    _lock: File,
}

/// The file that is locked during each change.
const LOCK: &str = "lock";

/// Opened for reading, too: that way a fifo in its place does not wait for a reader.
fn open_lock(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    options.open(folder.join(LOCK))
}

/// The text of a file of less than a hundred bytes; a longer one is cut. One read, where
/// [`fs::read_to_string`] asks for the length first and for more afterwards.
pub(super) fn read_short(path: &Path) -> io::Result<String> {
    let mut text = [0; 100];
    let length = File::open(path)?.read(&mut text)?;
    let text = text.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
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
        let lock = match open_lock(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
                open_lock(folder)
            }
            opened => opened,
        };
        Self::lock(folder, lock, Boot::current())
    }

    /// Opens the folder and waits for its lock; `None` where there never was a reservation.
    pub(crate) fn open(folder: &Path) -> Result<Option<Self>, Error> {
        match open_lock(folder) {
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                Ok(None)
            }
            lock => Self::lock(folder, lock, Boot::current()).map(Some),
        }
    }

    fn lock(folder: &Path, lock: io::Result<File>, boot: Boot) -> Result<Self, Error> {
        let path = folder.join(LOCK);
        let lock = lock.map_err(failed("open", &path))?;
        // The reference takes flock(2) on the same file, and File::lock is flock(2).
        lock.lock().map_err(failed("lock", &path))?;
        Ok(Self {
            folder: folder.to_owned(),
            index: Index::new(folder, boot),
            _lock: lock,
        })
    }

    pub(super) fn file_of(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// The address that was given last out of a set.
    pub(super) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let content = read_plain(&self.last_reserved_file(set)).ok()?;
        std::str::from_utf8(&content).ok()?.trim().parse().ok()
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

    /// What an attachment holds by the index, which is right unless another program changed the
    /// folder within the same tick of its clock.
    pub(super) fn indexed(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        self.settle()?;
        let Attachment {
            container_id,
            ifname,
        } = attachment;
        let mut addresses = self.index.addresses_of(container_id, Some(ifname))?;
        addresses.extend(self.index.addresses_of(container_id, None)?);
        let of_attachment = |held: Reservation| held.is_of(attachment);
        addresses.retain(|address| self.read(*address).is_ok_and(of_attachment));
        Ok(addresses)
    }

    /// What an attachment holds. When the index has nothing, or can't be brought up to date as on
    /// a full disk, every reservation is read.
    pub(crate) fn held_by(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        match self.indexed(attachment) {
            Ok(indexed) if !indexed.is_empty() => return Ok(indexed),
            Ok(_) => {}
            Err(error) => eprintln!("causeway-cni: {error}"),
        }
        let all = self.all()?.into_iter();
        let held = all.filter(|reservation| reservation.is_of(attachment));
        Ok(held.map(|reservation| reservation.address).collect())
    }

    /// Brings the index up to date, and releases what is of an earlier boot.
    fn settle(&self) -> Result<(), Error> {
        let state = self.index.state()?;
        let mut all = match state {
            State::Current => return Ok(()),
            State::Changed | State::OtherBoot | State::Unknown => self.all()?,
        };
        if state != State::Changed {
            self.release_old(&mut all, state == State::OtherBoot)?;
        }
        self.index.rebuild(&all)
    }

    /// Releases reservations of earlier boots. The index's are all of that kind if `indexed`.
    fn release_old(&self, all: &mut Vec<Reservation>, indexed: bool) -> Result<(), Error> {
        let entries = if indexed {
            self.index.all()
        } else {
            Vec::new()
        };
        let known: BTreeSet<_> = entries
            .iter()
            .flat_map(|entry| entry.addresses.iter().map(|a| (*a, entry.written.as_str())))
            .collect();
        let oldest = self.index.boot().oldest();
        let mut kept = Vec::new();
        for reservation in all.drain(..) {
            let path = self.file_of(reservation.address);
            let meta = fs::symlink_metadata(&path).map_err(failed("inspect", &path))?;
            let modified = meta.modified().map_err(failed("inspect", &path))?;
            if known.contains(&(reservation.address, index::written(&meta).as_str()))
                || oldest.is_some_and(|oldest| modified < oldest)
            {
                self.remove(reservation.address)?;
                eprintln!(
                    "causeway-cni: gave {} back: {} had it before this boot",
                    reservation.address, reservation.container_id
                );
            } else {
                kept.push(reservation);
            }
        }
        *all = kept;
        Ok(())
    }

    /// Every reservation, as [`reservations`].
    pub(crate) fn all(&self) -> Result<Vec<Reservation>, Error> {
        reservations(&self.folder)
    }

    fn read(&self, address: IpAddr) -> Result<Reservation, String> {
        read(address, &self.file_of(address))
    }

    /// Gives back everything an attachment holds, and says what that was.
    pub(crate) fn release(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
        let held = self.held_by(attachment)?;
        if held.is_empty() {
            return Ok(held);
        }
        for address in &held {
            self.remove(*address)?;
        }
        let Attachment {
            container_id,
            ifname,
        } = attachment;
        let forgotten = [Some(ifname.as_str()), None]
            .into_iter()
            .try_for_each(|ifname| self.index.remove(container_id, ifname))
            .and_then(|()| self.index.seal());
        if let Err(error) = forgotten {
            // The addresses are free; without a seal the index counts for nothing.
            eprintln!("causeway-cni: {error}");
        }
        Ok(held)
    }

    /// The addresses that have a file, whatever stands in it.
    pub(super) fn taken(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let entries = fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect())
    }

    /// Gives back every reservation that is not to be kept.
    pub(crate) fn keep_only(&self, kept: impl Fn(&Reservation) -> bool) -> Result<(), Error> {
        self.settle()?;
        let (kept, stale): (Vec<_>, Vec<_>) = self.all()?.into_iter().partition(kept);
        if stale.is_empty() {
            return Ok(());
        }
        for reservation in stale {
            self.remove(reservation.address)?;
        }
        self.index.rebuild(&kept)
    }

    /// Frees an address. Its file becomes the next reservation's, if there is none for that yet.
    fn remove(&self, address: IpAddr) -> Result<(), Error> {
        let path = self.file_of(address);
        let next = self.index.scratch();
        // Renaming one name of a file to another one of it would leave both.
        if fs::symlink_metadata(&next).is_err() && fs::rename(&path, &next).is_ok() {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Every reservation of a network's folder. What cannot be read or understood is reported on
/// standard error and left as it is: its address stays taken.
///
/// # Errors
/// Code 5 when the folder cannot be listed.
pub(crate) fn reservations(folder: &Path) -> Result<Vec<Reservation>, Error> {
    let entries = fs::read_dir(folder).map_err(failed("list", folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        let Some(address) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        match read(address, &entry.path()) {
            Ok(reservation) => found.push(reservation),
            Err(why) => eprintln!(
                "causeway-cni: {} is no reservation: {why}; its address stays taken",
                entry.path().display()
            ),
        }
    }
    Ok(found)
}

fn read(address: IpAddr, path: &Path) -> Result<Reservation, String> {
    Reservation::parse(address, &read_plain(path)?)
}

/// The content of a small plain file; of a larger one its beginning, which is too long. Anything
/// else in its place is not touched: opening a fifo would wait, a link could lead anywhere.
fn read_plain(path: &Path) -> Result<Vec<u8>, String> {
    let meta = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("not a plain file".to_owned());
    }
    let mut content = Vec::new();
    let most = u64::try_from(LONGEST_RESERVATION).map_or(u64::MAX, |most| most + 1);
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(most)
        .read_to_end(&mut content)
        .map_err(|error| error.to_string())?;
    Ok(content)
}

#[cfg(test)]
mod anything;
#[cfg(test)]
mod reboots;
#[cfg(test)]
mod reuse;

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
