//! Folders in which anything may stand.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::host_local::claim::Claim;

/// What stands in the place of a reservation.
#[derive(Debug, Clone)]
enum Thing {
    OfHolder(u8),
    Bytes(Vec<u8>),
    Folder,
    Link(String),
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        2 => (0..3_u8).prop_map(Thing::OfHolder),
        2 => vec(any::<u8>(), 0..40).prop_map(Thing::Bytes),
        1 => "[a-c\r\n]{0,8}".prop_map(|text| Thing::Bytes(text.into_bytes())),
        1 => Just(Thing::Folder),
        1 => "(10\\.0\\.0\\.[2-7]|sealed|/dev/null)".prop_map(Thing::Link),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (2..8_u8).prop_map(|last| format!("10.0.0.{last}")),
        1 => Just("fd00::2".to_owned()),
        1 => Just("last_reserved_ip.0".to_owned()),
        1 => "\\.causeway/(sealed|new|spare|h0:eth0|h0:|h1:eth0:1)",
    ]
}

fn put(folder: &Path, name: &str, thing: &Thing) {
    let path = folder.join(name);
    match thing {
        Thing::OfHolder(number) => fs::write(path, format!("h{number}\r\neth0")).unwrap(),
        Thing::Bytes(bytes) => fs::write(path, bytes).unwrap(),
        Thing::Folder => fs::create_dir(path).unwrap(),
        Thing::Link(to) => symlink(to, path).unwrap(),
    }
}

fn addresses(folder: &Path) -> BTreeSet<IpAddr> {
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.parse().ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_freed_that_is_not_understood(things in btree_map(name(), thing(), 0..9)) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        fs::create_dir(folder.join(".causeway")).unwrap();
        for (name, thing) in &things {
            put(folder, name, thing);
        }
        let before = addresses(folder);
        let understood: BTreeSet<_> = reservations(folder).unwrap().iter().map(|r| r.address).collect();
        let [first, second] = ["h0", "h1"].map(|id| Attachment::new(id, "eth0").unwrap());
        let store = Store::create(folder).unwrap();
        // Failing is allowed, as where a folder stands in the place of the index's file.
        if let Ok(held) = store.release(&first) {
            prop_assert!(held.iter().all(|address| understood.contains(address)));
            prop_assert!(!reservations(folder).unwrap().iter().any(|r| r.is_of(&first)));
        }
        if store.indexed(&second).is_ok() && let Ok(mut claim) = Claim::new(&store, &second) {
            for address in &before {
                let there = fs::symlink_metadata(store.file_of(*address)).is_ok();
                prop_assert!(!there || !claim.take(*address).unwrap());
            }
        }
        let _ = store.keep_only(|_| false);
        let left = addresses(folder);
        prop_assert!(before.difference(&understood).all(|address| left.contains(address)));
    }
}
