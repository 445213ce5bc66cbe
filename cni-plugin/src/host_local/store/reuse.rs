//! Files that become other reservations' files.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::host_local::claim::Claim;

fn attachment(id: &str) -> Attachment {
    Attachment::new(id, "eth0").unwrap()
}

fn reserve(store: &Store, id: &str, addresses: &[&str]) {
    let by = attachment(id);
    store.settle().unwrap();
    let mut claim = Claim::new(store, &by).unwrap();
    for address in addresses {
        assert!(claim.take(address.parse().unwrap()).unwrap());
    }
    claim.keep().unwrap();
}

fn inode(path: PathBuf) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn one_pod_after_the_other_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    let mut inodes = Vec::new();
    for (id, address) in [("first", "10.0.0.2"), ("2nd", "10.0.0.3")] {
        reserve(&store, id, &[address]);
        let content = fs::read_to_string(dir.path().join(address)).unwrap();
        assert_eq!(content, format!("{id}\r\neth0"), "the whole content");
        let entry = dir.path().join(format!(".causeway/{id}:eth0"));
        inodes.push([inode(dir.path().join(address)), inode(entry)]);
        assert_eq!(store.release(&attachment(id)).unwrap().len(), 1);
        assert_eq!(store.all().unwrap(), []);
    }
    assert_eq!(inodes[0], inodes[1]);
}

#[test]
fn a_file_with_another_name_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    reserve(&store, "a", &["10.0.0.2", "fd00::2"]);
    // Killed between the two addresses of a release.
    store.remove("10.0.0.2".parse().unwrap()).unwrap();
    reserve(&store, "b", &["10.0.0.2"]);
    assert_eq!(store.held_by(&attachment("a")).unwrap().len(), 1);

    // A copy that keeps hard links stays as it is.
    let copy = tempfile::tempdir().unwrap();
    let names = [("10.0.0.2", "address"), (".causeway/b:eth0", "entry")];
    for (name, copied) in names {
        fs::hard_link(dir.path().join(name), copy.path().join(copied)).unwrap();
    }
    let copies = || names.map(|(_, copied)| fs::read_to_string(copy.path().join(copied)).unwrap());
    let before = copies();
    store.release(&attachment("b")).unwrap();
    reserve(&store, "c", &["10.0.0.9"]);
    assert_eq!(copies(), before);
    assert_eq!(store.release(&attachment("a")).unwrap().len(), 1);
    assert_eq!(store.release(&attachment("c")).unwrap().len(), 1);
}
