//! What is given back after a reboot, with boots that are files.

use std::time::{Duration, SystemTime};

use super::*;
use crate::host_local::claim::Claim;

const START: u64 = 1_700_000_000;

/// A boot that is told by files in a folder.
fn boot(dir: &Path, number: u8, start: u64) -> Boot {
    let id = dir.join("boot_id");
    let stat = dir.join(format!("stat{number}"));
    fs::write(
        &id,
        format!("00000000-0000-4000-8000-0000000000{number:02}\n"),
    )
    .unwrap();
    fs::write(&stat, format!("cpu  1 2 3\nbtime {start}\nprocesses 4\n")).unwrap();
    Boot::told_by(id, stat)
}

fn in_boot(dir: &Path, number: u8, start: u64) -> Store {
    let folder = dir.join("net");
    fs::create_dir_all(&folder).unwrap();
    Store::lock(&folder, open_lock(&folder), boot(dir, number, start)).unwrap()
}

fn attachment(id: &str) -> Attachment {
    Attachment::new(id, "eth0").unwrap()
}

fn reserve(store: &Store, id: &str, addresses: &[&str]) {
    let by = attachment(id);
    assert_eq!(store.indexed(&by).unwrap(), Vec::<IpAddr>::new());
    let mut claim = Claim::new(store, &by).unwrap();
    for address in addresses {
        assert!(claim.take(address.parse().unwrap()).unwrap());
    }
    claim.keep().unwrap();
}

/// As the reference plugin would, at a time in seconds.
fn theirs(dir: &Path, address: &str, id: &str, at: u64) {
    let path = dir.join("net").join(address);
    fs::write(&path, format!("{id}\r\neth0")).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(at)
        .unwrap();
}

fn reserved(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir.join("net")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n.parse::<IpAddr>().is_ok()).collect();
    names.sort();
    names
}

#[test]
fn the_first_add_after_a_reboot_gives_old_addresses_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // The clock says nothing here: every file is younger than the boots.
    let store = in_boot(dir, 1, START);
    reserve(&store, "a", &["10.0.0.2", "fd00::2"]);
    reserve(&store, "b", &["10.0.0.3"]);
    fs::write(dir.join("net/10.0.0.9"), b"\xff").unwrap();
    drop(store);
    let store = in_boot(dir, 1, START);
    reserve(&store, "c", &["10.0.0.4"]);
    drop(store);
    assert_eq!(reserved(dir).len(), 5, "the same boot");

    let store = in_boot(dir, 2, START);
    reserve(&store, "d", &["10.0.0.2", "fd00::2"]);
    // What is corrupted is nobody's to free.
    assert_eq!(reserved(dir), ["10.0.0.2", "10.0.0.9", "fd00::2"]);
    drop(store);
    let store = in_boot(dir, 2, START);
    assert_eq!(
        store.held_by(&attachment("d")).unwrap().len(),
        2,
        "once only"
    );
}

#[test]
fn what_the_reference_reserved_in_this_boot_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("net")).unwrap();
    theirs(dir, "10.0.0.2", "long-ago", START - 61);
    theirs(dir, "10.0.0.3", "just-before", START - 59);
    theirs(dir, "10.0.0.4", "since", START + 1);
    drop(in_boot(dir, 1, START).held_by(&attachment("x")).unwrap());
    assert_eq!(reserved(dir), ["10.0.0.3", "10.0.0.4"], "on taking over");

    // Ours and theirs of boot 1; in boot 2 the reference was first, and gave one address anew.
    reserve(&in_boot(dir, 1, START), "ours", &["10.0.0.5"]);
    theirs(dir, "10.0.0.4", "since", START + 1000);
    theirs(dir, "10.0.0.6", "other", START + 1001);
    in_boot(dir, 2, START + 500).keep_only(|_| true).unwrap();
    assert_eq!(reserved(dir), ["10.0.0.4", "10.0.0.6"]);
}

#[test]
fn a_boot_that_cannot_be_told_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    reserve(&in_boot(dir, 1, START), "a", &["10.0.0.2"]);
    theirs(dir, "10.0.0.3", "old", 1);
    let folder = dir.join("net");
    let store = Store::lock(&folder, open_lock(&folder), Boot::told_by("/none", "/none")).unwrap();
    assert_eq!(store.held_by(&attachment("a")).unwrap().len(), 1);
    drop(store);
    assert_eq!(reserved(dir).len(), 2);
}

#[test]
fn a_broken_seal_frees_nothing_of_this_boot() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    reserve(&in_boot(dir, 2, START), "a", &["10.0.0.2"]);
    let seal = dir.join("net/.causeway/sealed");
    let text = fs::read(&seal).unwrap();
    for length in 0..=text.len() {
        fs::write(&seal, &text[..length]).unwrap();
        let store = in_boot(dir, 2, START);
        assert_eq!(
            store.held_by(&attachment("a")).unwrap().len(),
            1,
            "{length}"
        );
    }
}
