//! `host-local` by itself: its files beside the reference's, on disks that fail, and many of them.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::node::{Node, Pod, address};
use crate::tracer;

/// A node whose plugin is `host-local` alone.
fn host_local() -> Node {
    let mut node = Node::new();
    let link = node.folder.path().join("host-local");
    symlink(&node.program, &link).unwrap();
    node.program = link;
    node
}

/// The same folder, served by the reference.
fn reference(of: &Node) -> Node {
    let mut node = Node::new();
    node.netns = of.netns.try_clone().unwrap();
    node.program = Path::new("/usr/lib/cni/host-local").to_owned();
    assert!(
        node.program.exists(),
        "the reference plugins belong in /usr/lib/cni"
    );
    node
}

#[test]
fn the_reference_takes_over_and_hands_back() {
    let ours = host_local();
    let theirs = reference(&ours);
    let config = ours.config(&["10.1.0.0/24", "fd01::/64"], &json!({}));
    let pods: Vec<_> = (0..6)
        .map(|number| Pod::new(&format!("pod-{number}")))
        .collect();
    // Theirs, ours, theirs …: each goes on where the other was, and results are the same but for
    // the address.
    for (number, pod) in pods.iter().enumerate() {
        let node = if number % 2 == 0 { &theirs } else { &ours };
        let result = node.call("ADD", pod, &config).result();
        let expected = json!({
            "cniVersion": "1.0.0", "dns": {}, "ips": [
                {"address": format!("10.1.0.{}/24", number + 2), "gateway": "10.1.0.1"},
                {"address": format!("fd01::{:x}/64", number + 2), "gateway": "fd01::1"},
            ],
        });
        assert_eq!(result, expected);
        for node in [&ours, &theirs] {
            node.call("CHECK", pod, &check(&config, &expected)).result();
        }
    }
    // Each releases what the other reserved; twice is no error.
    for (number, pod) in pods.iter().enumerate() {
        let node = if number % 2 == 0 { &ours } else { &theirs };
        node.call("DEL", pod, &config).result();
        node.call("DEL", pod, &config).result();
        assert_eq!(ours.reserved().len(), 10 - number * 2);
        assert_eq!(ours.call("CHECK", pod, &config).error().0, 3);
    }
}

fn check(config: &Value, result: &Value) -> Value {
    let mut check = config.clone();
    check["prevResult"] = result.clone();
    check
}

#[test]
fn reservations_of_the_reference_from_before_the_boot_are_given_back() {
    let node = host_local();
    let config = node.config(&["10.1.0.0/29"], &json!({}));
    let theirs = reference(&node);
    let pods = ["a", "b", "c", "d", "e"].map(Pod::new);
    for pod in &pods {
        theirs.call("ADD", pod, &config).result();
    }
    let late = Pod::new("f");
    assert_eq!(theirs.call("ADD", &late, &config).error().0, 999, "full");
    let folder = node.folder.path().join("net");
    for address in ["10.1.0.3", "10.1.0.5"] {
        let file = File::options()
            .write(true)
            .open(folder.join(address))
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let answer = node.call("ADD", &late, &config);
    assert!(
        answer.complaints.contains("gave 10.1.0.3 back: b had it"),
        "{answer:?}"
    );
    assert_eq!(address(&answer.result(), 0).to_string(), "10.1.0.3");
    assert_eq!(
        node.reserved(),
        ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.6"]
    );
}

#[test]
fn what_is_no_reservation_is_reported_and_stays_taken() {
    let node = host_local();
    let config = node.config(&["10.1.0.0/28"], &json!({"cniVersion": "1.1.0"}));
    let folder = node.folder.path().join("net");
    fs::create_dir(&folder).unwrap();
    let file = |name: &str| folder.join(name);
    fs::write(file("10.1.0.2"), b"\x00\xff\xfe").unwrap();
    fs::write(file("10.1.0.3"), "a".repeat(1 << 20)).unwrap();
    fs::write(file("10.1.0.4"), "").unwrap();
    fs::create_dir(file("10.1.0.5")).unwrap();
    symlink("/etc/passwd", file("10.1.0.6")).unwrap();
    symlink("10.1.0.6", file("10.1.0.7")).unwrap();
    nix::unistd::mkfifo(&file("10.1.0.8"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::create_dir(file("last_reserved_ip.1")).unwrap();
    fs::write(file("last_reserved_ip.0"), b"\xff".repeat(9000)).unwrap();
    let before = node.reserved();

    let pod = Pod::new("a");
    let answer = node.call("ADD", &pod, &config);
    for (name, why) in [
        ("10.1.0.2", "container id"),
        ("10.1.0.3", "longer than 4096"),
        ("10.1.0.4", "empty"),
        ("10.1.0.5", "not a plain file"),
        ("10.1.0.6", "not a plain file"),
        ("10.1.0.7", "not a plain file"),
        ("10.1.0.8", "not a plain file"),
    ] {
        let of_file = answer.complaints.lines().find(|line| line.contains(name));
        let line = of_file.unwrap_or_else(|| panic!("{name}: {}", answer.complaints));
        assert!(
            line.contains("no reservation") && line.contains("stays taken"),
            "{line}"
        );
        assert!(line.contains(why) || name == "10.1.0.2", "{line}");
    }
    assert_eq!(address(&answer.result(), 0).to_string(), "10.1.0.9");
    node.call("DEL", &pod, &config).result();
    let mut all = config.clone();
    all["cni.dev/valid-attachments"] = json!([]);
    node.call("GC", &pod, &all).result();
    assert_eq!(node.reserved(), before);

    fs::remove_file(file("lock")).unwrap();
    fs::create_dir(file("lock")).unwrap();
    let (code, text) = node.call("ADD", &pod, &config).error();
    assert!(code == 5 && text.contains("net/lock"), "{code} {text}");
    assert_eq!(node.call("STATUS", &pod, &config).error().0, 50);
}

/// A file system of its own in a folder, until dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path, options: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let kind = Some("tmpfs");
        mount(kind, folder, kind, MsFlags::empty(), Some(options)).unwrap();
        Self(folder.to_owned())
    }

    fn change(&self, flags: MsFlags, options: &str) {
        let flags = flags | MsFlags::MS_REMOUNT;
        mount(None::<&str>, &self.0, None::<&str>, flags, Some(options)).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_keeps_nothing_half_done() {
    // Neither one file more, from the first to the last that a reservation needs, nor one page.
    let files = (2..40).map(|inodes| format!("nr_inodes={inodes}"));
    let pages = (1..10).map(|pages| format!("nr_inodes=100,size={}", pages * 4096));
    for options in [files.collect::<Vec<_>>(), pages.collect()] {
        let mut failures = 0;
        for option in options {
            let node = host_local();
            let disk = Disk::mount(&node.folder.path().join("net"), &option);
            let config = node.config(&["10.1.0.0/24", "fd01::/64"], &json!({}));
            let pod = Pod::new("a");
            let answer = node.call("ADD", &pod, &config);
            if answer.succeeded {
                break;
            }
            failures += 1;
            let (code, text) = answer.error();
            assert!(
                code == 5 && text.contains("No space left"),
                "{option}: {code} {text}"
            );
            assert_eq!(node.reserved(), [""; 0], "{option}: {text}");
            assert!(node.call("DEL", &pod, &config).succeeded, "{option}");
            disk.change(MsFlags::empty(), "nr_inodes=100,size=1048576");
            node.call("ADD", &pod, &config).result();
            node.call("DEL", &pod, &config).result();
            assert_eq!(node.reserved(), [""; 0], "{option}");
        }
        assert!((2..30).contains(&failures), "{failures}");
    }
}

#[test]
fn an_address_is_given_back_on_a_full_disk() {
    let node = host_local();
    let disk = Disk::mount(
        &node.folder.path().join("net"),
        "nr_inodes=100,size=1048576",
    );
    let config = node.config(&["10.1.0.0/24"], &json!({}));
    let pods = ["a", "b"].map(Pod::new);
    node.call("ADD", &pods[0], &config).result();
    // After a change of the reference the index has to be made anew, for which there is no room.
    reference(&node).call("ADD", &pods[1], &config).result();
    let used = (3..100).find(|inodes| {
        let options = format!("nr_inodes={inodes}");
        let none = None::<&str>;
        mount(
            none,
            &disk.0,
            none,
            MsFlags::MS_REMOUNT,
            Some(options.as_str()),
        )
        .is_ok()
    });
    assert!(used.is_some());
    for pod in &pods {
        assert!(node.call("DEL", pod, &config).result().is_null());
    }
    assert_eq!(node.reserved(), [""; 0]);
}

#[test]
fn a_read_only_disk_is_said() {
    let node = host_local();
    let folder = node.folder.path().join("net");
    let disk = Disk::mount(&folder, "nr_inodes=100,size=1048576");
    let config = node.config(&["10.1.0.0/24"], &json!({"cniVersion": "1.1.0"}));
    let pods = ["a", "b"].map(Pod::new);
    node.call("ADD", &pods[0], &config).result();
    disk.change(MsFlags::MS_RDONLY, "");
    for (command, code) in [("ADD", 5), ("DEL", 5), ("STATUS", 50)] {
        let pod = if command == "DEL" { &pods[0] } else { &pods[1] };
        let (found, text) = node.call(command, pod, &config).error();
        assert_eq!(found, code, "{command}: {text}");
        assert!(text.contains("Read-only file system"), "{command}: {text}");
        assert!(text.contains(folder.to_str().unwrap()), "{command}: {text}");
    }
    assert_eq!(node.reserved(), ["10.1.0.2"]);
    disk.change(MsFlags::empty(), "");
    node.call("DEL", &pods[0], &config).result();
    assert_eq!(node.reserved(), [""; 0]);
}

#[test]
fn status_tells_a_full_range() {
    let node = host_local();
    let config = node.config(
        &["fd01::/64", "10.1.0.0/30"],
        &json!({"cniVersion": "1.1.0"}),
    );
    let pod = Pod::new("a");
    assert!(node.call("STATUS", &pod, &config).result().is_null());
    node.call("ADD", &pod, &config).result();
    let (code, text) = node.call("STATUS", &pod, &config).error();
    assert!(code == 50 && text.contains("10.1.0.0/30"), "{code} {text}");
}

/// How often an ADD and its DEL look something up on the disk, when so many others have addresses.
fn lookups_among(node: &Node, others: u32) -> [usize; 2] {
    let config = node.config(&["10.1.0.0/16"], &json!({"ipMasq": true}));
    let folder = node.folder.path().join("net");
    fs::create_dir(&folder).unwrap();
    let base = u32::from(Ipv4Addr::new(10, 1, 0, 2));
    for number in 0..others {
        let address = Ipv4Addr::from(base + number).to_string();
        fs::write(folder.join(&address), format!("pod-{number}\r\neth0")).unwrap();
        fs::write(folder.join("last_reserved_ip.0"), &address).unwrap();
    }
    // The first one takes over.
    node.call("ADD", &Pod::new("first"), &config).result();
    let pod = Pod::new("a");
    ["ADD", "DEL"].map(|command| tracer::run(node, command, &pod, &config, None).lookups)
}

#[test]
fn neither_add_nor_del_asks_the_others() {
    assert_eq!(
        lookups_among(&host_local(), 10),
        lookups_among(&host_local(), 1000)
    );
    assert_eq!(
        lookups_among(&Node::new(), 10),
        lookups_among(&Node::new(), 1000)
    );
}
