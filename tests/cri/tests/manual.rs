//! The operators' page says what the program says, and its examples are taken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_cri_tests::network;
use causeway_cri_tests::node::{Node, said};
use serde_json::Value;

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
        let has = text[begin..end].lines().chain([""]);
        let different = has.zip(wanted.lines().chain([""])).find(|(a, b)| a != b);
        assert_eq!(different, None, "UPDATE_GOLDEN=1 writes the program's");
        assert_eq!(text[begin..end].len(), wanted.len());
    }
}

#[test]
fn the_examples_are_taken() {
    let text = fs::read_to_string(page()).unwrap();
    let lists: Vec<Value> = text
        .split("```json\n")
        .skip(1)
        .map(|rest| serde_json::from_str(rest.split_once("```").unwrap().0).unwrap())
        .collect();
    assert!(lists.len() > 3);
    let node = Node::new().unwrap();
    for list in &lists {
        for plugin in list["plugins"].as_array().unwrap() {
            let mut input = plugin.clone();
            input["name"] = list["name"].clone();
            input["cniVersion"] = "1.1.0".into();
            network::ask(&node, "STATUS", &input).unwrap();
        }
    }
}
