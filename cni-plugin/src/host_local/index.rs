//! Who holds what, without reading every reservation: files in our own folder inside the
//! reservations' own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cni_types::Error;

use super::boot::Boot;
use super::config::NOTES;
use super::reservation::Reservation;
use super::store::{failed, read_short};

/// The index of one network's reservations.
///
/// A holder's entry is a file of one line, named `id:ifname`. Further entries of a holder, where
/// reservations have a file each or are very many, are at `id:ifname:1` and so on. A file that is no
/// longer needed becomes the next one's: file systems look for a place for a new file as long as for
/// everything else here together, and without a journal much longer.
///
/// The file `sealed` has the modification time that the reservations' folder had when the index was
/// right, and the boot in which that was. Whoever reserves or releases changes that time.
#[derive(Debug)]
pub(super) struct Index {
    reservations: PathBuf,
    folder: PathBuf,
    boot: Boot,
}

/// Addresses that one file has as its names, and when that file was written, which tells it from
/// a later one of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) written: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// How many addresses stand in one entry.
const ADDRESSES_OF_ENTRY: usize = 64;

/// More than an entry has, in bytes.
const LONGEST_ENTRY: u64 = 4096;

/// What the index was last right for stands in this file.
const SEAL: &str = "sealed";

/// What the index was last right for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The reservations as they are.
    Current,
    /// Reservations that somebody has changed since, in this boot.
    Changed,
    /// As before, in another boot.
    OtherBoot,
    /// Nothing that can be compared.
    Unknown,
}

/// The time of a file's last change of content, in the form that entries and the seal have.
pub(super) fn written(meta: &fs::Metadata) -> String {
    format!("{:020}.{:09}", meta.mtime(), meta.mtime_nsec())
}

impl Entry {
    /// Behind the line may stand what is left of a longer one.
    fn parse(text: &str) -> Option<Self> {
        let (line, _) = text.split_once('\n')?;
        let mut words = line.split(' ');
        let written = words.next()?.to_owned();
        let addresses = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        Some(Self { written, addresses })
    }

    fn text(written: &str, addresses: &[IpAddr]) -> String {
        let mut text = written.to_owned();
        for address in addresses {
            text.push(' ');
            text.push_str(&address.to_string());
        }
        text.push('\n');
        text
    }

    /// What stands at a path; `None` where nothing is. What is no entry has no addresses.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let nothing = Self {
            written: String::new(),
            addresses: Vec::new(),
        };
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Ok(Some(nothing)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut text = Vec::new();
        File::open(path)?
            .take(LONGEST_ENTRY)
            .read_to_end(&mut text)?;
        let entry = Self::parse(&String::from_utf8_lossy(&text));
        Ok(Some(entry.unwrap_or(nothing)))
    }
}

impl Index {
    pub(super) fn new(reservations: &Path, boot: Boot) -> Self {
        Self {
            reservations: reservations.to_owned(),
            folder: reservations.join(NOTES),
            boot,
        }
    }

    pub(super) fn boot(&self) -> &Boot {
        &self.boot
    }

    /// A file that is nobody's reservation, no longer or not yet; the lock makes it ours alone.
    pub(super) fn scratch(&self) -> PathBuf {
        self.folder.join("new")
    }

    /// A file that is nobody's entry.
    fn spare(&self) -> PathBuf {
        self.folder.join("spare")
    }

    /// Opens a file of the index that has no other name, in place of whatever else is there: what
    /// it has is of no use any more. Its length comes with it.
    pub(super) fn reuse(&self, path: &Path) -> Result<(File, u64), Error> {
        match fs::symlink_metadata(path) {
            // Another name could be a reservation's, or in somebody's copy of the folder.
            Ok(meta) if meta.is_file() && meta.nlink() == 1 => {
                return Ok((self.open(path)?, meta.len()));
            }
            Ok(_) => fs::remove_file(path).map_err(failed("remove", path))?,
            Err(_) => {}
        }
        Ok((self.open(path)?, 0))
    }

    /// Opens a file of the index for writing, and makes the folder for it where needed.
    pub(super) fn open(&self, path: &Path) -> Result<File, Error> {
        // Not truncated: ext4 writes a truncated file to the disk as it is closed.
        let open = || {
            // For reading, too: that way a fifo in its place does not wait for a reader.
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            options.open(path)
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

    /// Whether the index can be relied on, and if not, why.
    pub(super) fn state(&self) -> Result<State, Error> {
        let seal = read_short(&self.folder.join(SEAL)).unwrap_or_default();
        let (modified, boot) = seal.split_once(' ').unwrap_or_default();
        Ok(if self.boot.is_after(boot) {
            State::OtherBoot
        } else if self.boot.is_unnoted(boot) {
            State::Unknown
        } else if modified == self.modified()? {
            State::Current
        } else {
            State::Changed
        })
    }

    /// Says that the index is right now.
    pub(super) fn seal(&self) -> Result<(), Error> {
        let path = self.folder.join(SEAL);
        let mut file = self.open(&path)?;
        // Always as long as before, and taken for wrong if half of it is written.
        let text = format!("{} {}", self.modified()?, self.boot.id());
        file.write_all(text.as_bytes())
            .map_err(failed("write", &path))
    }

    fn modified(&self) -> Result<String, Error> {
        let meta = fs::metadata(&self.reservations);
        let meta = meta.map_err(failed("inspect", &self.reservations))?;
        Ok(written(&meta))
    }

    /// Every address that a holder has by this index, which may be wrong.
    pub(super) fn addresses_of(
        &self,
        id: &str,
        ifname: Option<&str>,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut addresses = Vec::new();
        for number in 0.. {
            let path = self.path_of(id, ifname, number);
            match Entry::read(&path).map_err(failed("read", &path))? {
                Some(entry) => addresses.extend(entry.addresses),
                None => break,
            }
        }
        Ok(addresses)
    }

    /// Every entry that can be read, whosever it is.
    pub(super) fn all(&self) -> Vec<Entry> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        // Nothing else has a colon in its name.
        let entries = files.filter(|file| file.file_name().to_string_lossy().contains(':'));
        entries
            .filter_map(|file| Entry::read(&file.path()).ok().flatten())
            .collect()
    }

    /// Notes a holder's addresses, which are names of one file.
    pub(super) fn enter(
        &self,
        id: &str,
        ifname: Option<&str>,
        written: &str,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let spare = self.spare();
        let mut number = 0;
        for chunk in addresses.chunks(ADDRESSES_OF_ENTRY) {
            let (mut file, _) = self.reuse(&spare)?;
            let text = Entry::text(written, chunk);
            file.write_all(text.as_bytes())
                .map_err(failed("write", &spare))?;
            let mut path = self.path_of(id, ifname, number);
            while fs::symlink_metadata(&path).is_ok() {
                number += 1;
                path = self.path_of(id, ifname, number);
            }
            fs::rename(&spare, &path).map_err(failed("make", &path))?;
        }
        Ok(())
    }

    /// Forgets a holder.
    pub(super) fn remove(&self, id: &str, ifname: Option<&str>) -> Result<(), Error> {
        for number in 0.. {
            let path = self.path_of(id, ifname, number);
            match fs::rename(&path, self.spare()) {
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
        fs::create_dir_all(&self.folder).map_err(failed("make the folder", &self.folder))?;
        let mut held: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for reservation in reservations {
            let file = self.reservations.join(reservation.address.to_string());
            let meta = fs::symlink_metadata(&file).map_err(failed("inspect", &file))?;
            let holder = (&reservation.container_id, reservation.ifname.as_deref());
            held.entry((holder, written(&meta)))
                .or_default()
                .push(reservation.address);
        }
        for (((id, ifname), written), addresses) in held {
            self.enter(id, ifname, &written, &addresses)?;
        }
        self.seal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(dir: &Path) -> Index {
        Index::new(dir, Boot::current())
    }

    #[test]
    fn a_change_by_others_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        assert_eq!(index.state().unwrap(), State::Unknown, "never sealed");
        index.seal().unwrap();
        assert_eq!(index.state().unwrap(), State::Current);
        let address = "10.0.0.2".parse().unwrap();
        index.enter("id", Some("eth0"), "1.2", &[address]).unwrap();
        assert_eq!(
            index.state().unwrap(),
            State::Current,
            "our own notes are no change"
        );
        assert_eq!(index.addresses_of("id", Some("eth0")).unwrap(), [address]);

        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(dir.path().join("10.0.0.2"), "x").unwrap();
        assert_eq!(index.state().unwrap(), State::Changed);
    }

    #[test]
    fn a_half_written_seal_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        index.seal().unwrap();
        let seal = dir.path().join(".causeway/sealed");
        let text = fs::read_to_string(&seal).unwrap();
        for length in 0..text.len() {
            fs::write(&seal, &text[..length]).unwrap();
            assert_eq!(index.state().unwrap(), State::Unknown, "{length}");
        }
    }

    #[test]
    fn many_addresses_stand_in_several_entries() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        index.seal().unwrap();
        let base = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0));
        let addresses: Vec<IpAddr> = (1..=200)
            .map(|number| std::net::Ipv4Addr::from(base + number).into())
            .collect();
        index.enter("id", None, "1.2", &addresses).unwrap();
        assert_eq!(index.addresses_of("id", None).unwrap(), addresses);
        assert_eq!(index.all().len(), 4);
        index.remove("id", None).unwrap();
        assert_eq!(index.all(), []);
    }
}
