//! What an interface had before it was tuned, in the reference's files: one a container and
//! interface, in a folder that ends with the node's boot.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cni_types::{Attachment, Code, Error, MacAddress, Object};
use nodekit::route::{Link, LinkChange, Mac};
use serde_json::{Map, Value};

use super::config::Tuning;
use crate::failure;

/// The network, which the reference doesn't write, and passes over when it reads.
const NETWORK: &str = "network";

/// What to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Saved {
    mac: Option<MacAddress>,
    promiscuous: Option<bool>,
    mtu: Option<u32>,
    all_multicast: Option<bool>,
    tx_queue_len: Option<u32>,
}

impl Saved {
    /// Of a link, what the tuning will change.
    pub(super) fn before(tuning: &Tuning, link: &Link) -> Self {
        Self {
            mac: tuning.mac.and(link.mac.map(|mac| MacAddress(mac.0))),
            promiscuous: tuning.promiscuous.then_some(link.promiscuous),
            mtu: tuning.mtu.map(|_| link.mtu),
            all_multicast: tuning.all_multicast.map(|_| link.all_multicast),
            tx_queue_len: tuning.tx_queue_len.map(|_| link.tx_queue_len),
        }
    }

    pub(super) fn link_change(&self) -> LinkChange<'static> {
        LinkChange {
            mac: self.mac.map(|mac| Mac(mac.0)),
            mtu: self.mtu,
            promiscuous: self.promiscuous,
            all_multicast: self.all_multicast,
            tx_queue_len: self.tx_queue_len,
            ..LinkChange::default()
        }
    }

    fn to_json(self, network: &str) -> Value {
        let pairs = [
            ("mac", self.mac.map(|mac| mac.to_string().into())),
            ("promisc", self.promiscuous.map(Value::from)),
            ("mtu", self.mtu.map(Value::from)),
            ("allmulti", self.all_multicast.map(Value::from)),
            ("txQLen", self.tx_queue_len.map(Value::from)),
            (NETWORK, Some(network.into())),
        ];
        let said = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(said.collect::<Map<_, _>>())
    }

    fn from_json(value: &Value) -> Result<Self, Error> {
        let object = Object::new("", value)?;
        let mac = object.filled_text("mac")?.map(str::parse);
        Ok(Self {
            mac: mac
                .transpose()
                .map_err(|why| Error::new(Code::DECODE, why))?,
            promiscuous: object.boolean("promisc")?,
            mtu: object.number_u32("mtu")?.filter(|mtu| *mtu != 0),
            all_multicast: object.boolean("allmulti")?,
            tx_queue_len: object.number_u32("txQLen")?,
        })
    }
}

/// An attachment's file.
#[derive(Debug)]
pub(super) struct File {
    folder: PathBuf,
    name: String,
}

impl File {
    pub(super) fn of(folder: &Path, attachment: &Attachment) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name_of(attachment),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Writes it whole: a crash leaves the old content, or the new.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn write(&self, network: &str, saved: &Saved) -> Result<(), Error> {
        // No file of ours ends like this.
        let unfinished = self.folder.join(format!("{}.new", self.name));
        fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&unfinished, saved.to_json(network).to_string()))
            .and_then(|()| fs::rename(&unfinished, self.path()))
            .map_err(|error| failed("write", &self.path(), &error))
    }

    /// Its content; `None` when there is none.
    ///
    /// # Errors
    /// Code 5 when it can't be read, 6 when its content can't be.
    pub(super) fn read(&self) -> Result<Option<Saved>, Error> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(Code::DECODE, error.to_string()))
            .and_then(|value| Saved::from_json(&value))
            .map(Some)
            .map_err(|error| error.at(path.display()))
    }

    /// Succeeds when there is none.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn remove(&self) -> Result<(), Error> {
        remove(&self.path())
    }
}

fn name_of(attachment: &Attachment) -> String {
    format!("{}_{}.json", attachment.container_id, attachment.ifname)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot {what} {}: {error}", path.display());
    Error::new(Code::IO, message)
}

/// Removes the files of this network's attachments that are not among the kept. Those that name
/// no network are the reference's.
///
/// # Errors
/// Code 5, for all that could not be removed.
pub(super) fn keep_only(
    folder: &Path,
    network: &str,
    kept: &BTreeSet<Attachment>,
) -> Result<(), Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder, &error)),
    };
    let kept: BTreeSet<_> = kept.iter().map(name_of).collect();
    let mut errors = Vec::new();
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                errors.push(failed("list", folder, &error));
                continue;
            }
        };
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| !kept.contains(name)) && is_of_network(&path, network) {
            errors.extend(remove(&path).err());
        }
    }
    failure::joined(errors)
}

fn is_of_network(path: &Path, network: &str) -> bool {
    let value = fs::read(path).ok();
    let value = value.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    value.is_some_and(|value| value.get(NETWORK).and_then(Value::as_str) == Some(network))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_references_too() {
        let folder = tempfile::tempdir().unwrap();
        let attachment = Attachment::new("abc", "eth0").unwrap();
        let file = File::of(&folder.path().join("tuning"), &attachment);
        assert_eq!(file.read().unwrap(), None);
        let saved = Saved {
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            promiscuous: Some(false),
            mtu: Some(1500),
            all_multicast: Some(true),
            tx_queue_len: Some(0),
        };
        for saved in [saved, Saved::default()] {
            file.write("net", &saved).unwrap();
            assert_eq!(file.read().unwrap(), Some(saved));
        }
        let path = folder.path().join("tuning/abc_eth0.json");
        fs::write(
            &path,
            "{\n \"mac\": \"02:00:00:00:00:01\",\n \"mtu\": 1500\n}",
        )
        .unwrap();
        let read = file.read().unwrap().unwrap();
        assert_eq!(
            (read.mac, read.mtu, read.promiscuous),
            (saved.mac, saved.mtu, None)
        );
        for bad in ["", "[]", "{\"mac\": \"x\"}", "{\"mtu\": \"1\"}"] {
            fs::write(&path, bad).unwrap();
            let error = file.read().unwrap_err();
            assert_eq!(error.code, Code::DECODE);
            assert!(error.message.contains("abc_eth0.json"), "{error}");
        }
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(
            fs::read_dir(folder.path().join("tuning")).unwrap().count(),
            0
        );
    }
}
