//! What nft makes of the objects we encode, kept in files: its listing, its JSON, and the kernel's
//! instructions. Where nft can read its own listing, loading it must give the same instructions.
//!
//! `UPDATE_GOLDEN=1 cargo test -p nodekit --test nft` writes the files anew.

mod expressions;
mod service_tables;
mod sets;

use std::path::{Path, PathBuf};

use nodekit::nft::{Batch, NftSocket};

use crate::{in_namespace, nft};

/// Whether nft reads what it lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    Readable,
    /// nft's grammar has no such form, though it lists it.
    ShownOnly,
}

/// Commits what `fill` says and compares all three renderings with the golden files of `case`.
fn check(case: &str, listing: Listing, fill: impl FnOnce() -> Vec<Batch> + Send) {
    let ours = in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        for batch in fill() {
            socket.commit(&batch).unwrap();
        }
        Rendering::of_namespace()
    });
    ours.compare(case);
    if listing == Listing::Readable {
        let file = golden_file(case, "nft");
        let theirs = in_namespace(|| {
            nft(&["-f", file.to_str().unwrap()]);
            Rendering::of_namespace()
        });
        assert_eq!(
            ours.instructions, theirs.instructions,
            "{case}: instructions"
        );
        assert_eq!(ours.listing, theirs.listing, "{case}: listing");
    }
}

/// What nft says about the rule set of a namespace.
struct Rendering {
    listing: String,
    json: String,
    instructions: String,
}

impl Rendering {
    fn of_namespace() -> Self {
        Self {
            listing: nft(&["list", "ruleset"]),
            json: without_handles(&nft(&["-j", "list", "ruleset"])),
            instructions: instructions(&nft(&["--debug=netlink", "list", "ruleset"])),
        }
    }

    fn compare(&self, case: &str) {
        for (kind, text) in [
            ("nft", &self.listing),
            ("json", &self.json),
            ("netlink", &self.instructions),
        ] {
            let file = golden_file(case, kind);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&file, text).unwrap();
            }
            let golden = std::fs::read_to_string(&file)
                .unwrap_or_else(|e| panic!("{}: {e}; UPDATE_GOLDEN=1 writes it", file.display()));
            assert_eq!(text, &golden, "{}", file.display());
        }
    }
}

fn golden_file(case: &str, kind: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nft/golden");
    folder.join(format!("{case}.{kind}"))
}

/// The JSON without what differs from run to run, one object a line.
fn without_handles(json: &str) -> String {
    let all: serde_json::Value = serde_json::from_str(json).unwrap();
    let mut lines = Vec::new();
    for object in all["nftables"].as_array().unwrap() {
        let mut object = object.clone();
        if object.get("metainfo").is_some() {
            continue;
        }
        for (_, body) in object.as_object_mut().unwrap() {
            body.as_object_mut().unwrap().remove("handle");
        }
        lines.push(object.to_string());
    }
    lines.join("\n") + "\n"
}

/// The instructions alone: each rule's place without handles, and set elements in a fixed order
/// (the kernel's own order is by chance).
fn instructions(debug: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut elements_from = None;
    for line in debug.lines().take_while(|line| !line.starts_with("table ")) {
        if line.trim_start().starts_with("element ") {
            let start = *elements_from.get_or_insert(lines.len());
            lines.push(line.to_owned());
            lines[start..].sort();
            continue;
        }
        elements_from = None;
        let place = !line.starts_with(' ') && !line.contains('@');
        lines.push(if place {
            line.split(' ').take(3).collect::<Vec<_>>().join(" ")
        } else {
            line.to_owned()
        });
    }
    lines.join("\n") + "\n"
}
