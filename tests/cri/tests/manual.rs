//! The operators' page says what the program says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_cri_tests::network;
use causeway_cri_tests::node::said;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cni.md")
}

/// Where the generated part begins and ends.
const MARKS: [&str; 2] = ["<!-- keys:", "<!-- /keys -->"];

#[test]
fn the_keys_are_the_programs() {
    let output = Command::new(network::plugin().unwrap())
        .arg("options")
        .output();
    let keys = said(&output.unwrap()).unwrap();
    let text = fs::read_to_string(page()).unwrap();
    let [begin, end] = MARKS.map(|mark| text.find(mark).unwrap());
    let begin = begin + text[begin..].find('\n').unwrap() + 1;
    let wanted = format!("\n{}\n\n", keys.trim());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(page(), [&text[..begin], &wanted, &text[end..]].concat()).unwrap();
    } else {
        assert_eq!(text[begin..end], wanted, "UPDATE_GOLDEN=1 writes it");
    }
}
