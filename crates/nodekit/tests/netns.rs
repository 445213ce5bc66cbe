//! Network namespaces on this kernel. Needs root; touches nothing outside what it makes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nodekit::Errno;
use nodekit::netns::{Entry, Error, MountNs, NetNs, NetNsDir, Worker};
use nodekit::sysctl::{self, Key};

#[test]
fn code_runs_inside_and_the_caller_stays_outside() {
    let before = NetNs::current().unwrap().identity();
    let netns = NetNs::anonymous().unwrap();
    assert_ne!(netns.identity(), before);
    let inside = netns.run(|| NetNs::current().unwrap().identity()).unwrap();
    assert_eq!(inside, netns.identity());
    assert_eq!(NetNs::current().unwrap().identity(), before);
    let link = netns
        .run(|| fs::read_link("/proc/thread-self/ns/net").unwrap())
        .unwrap();
    assert_eq!(link.to_str(), Some(inside.to_string().as_str()));
}

#[test]
fn a_panic_inside_is_an_error_with_its_text() {
    let netns = NetNs::anonymous().unwrap();
    let error = netns
        .run(|| panic!("number {}", 7))
        .map(|(): ()| ())
        .unwrap_err();
    assert!(
        matches!(&error, Error::Panicked(text) if text == "number 7"),
        "{error}"
    );
    assert_eq!(netns.run(|| 3).unwrap(), 3, "the namespace goes on");
}

#[test]
fn a_visit_ends_where_it_began_also_by_a_panic_and_inside_another() {
    let here = || NetNs::current_identity().unwrap();
    let before = here();
    let (outer, inner) = (NetNs::anonymous().unwrap(), NetNs::anonymous().unwrap());
    let seen = outer.visit(|| [here(), inner.visit(here).unwrap(), here()]);
    let [outside, inside] = [&outer, &inner].map(NetNs::identity);
    assert_eq!(seen.unwrap(), [outside, inside, outside]);
    assert_eq!(here(), before);
    let panicked = std::panic::catch_unwind(|| outer.visit(|| panic!("inside")));
    assert!(panicked.is_err());
    assert_eq!(here(), before);
}

#[test]
fn a_worker_keeps_its_namespace_and_survives_a_panic() {
    let netns = NetNs::anonymous().unwrap();
    let worker = Worker::start(&netns).unwrap();
    let identity = || NetNs::current().unwrap().identity();
    assert_eq!(worker.call(identity).unwrap(), netns.identity());
    let error = worker.call(|| panic!("here")).map(|(): ()| ()).unwrap_err();
    assert!(
        matches!(&error, Error::Panicked(text) if text == "here"),
        "{error}"
    );
    assert_eq!(worker.call(identity).unwrap(), netns.identity());
}

#[test]
fn named_namespaces_last_until_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netns");
    let dir = NetNsDir::open(&path).unwrap();
    let made = dir.create("one").unwrap();
    let identity = made.identity();
    drop(made);
    assert_eq!(dir.get("one").unwrap().identity(), identity);

    let again = dir.create("one").unwrap_err();
    assert_eq!(again.errno(), Some(Errno::EEXIST), "{again}");
    assert_eq!(
        dir.get("one").unwrap().identity(),
        identity,
        "the first one is untouched"
    );
    for bad in ["", ".", "..", "a/b"] {
        assert_eq!(
            dir.create(bad).unwrap_err().errno(),
            Some(Errno::EINVAL),
            "{bad:?}"
        );
    }

    // Opening the folder twice does not mount it twice.
    NetNsDir::open(&path).unwrap().create("two").unwrap();
    assert_eq!(dir.names().unwrap(), ["one", "two"]);
    dir.delete("one").unwrap();
    assert_eq!(dir.delete("one").unwrap_err().errno(), Some(Errno::ENOENT));
    dir.remove().unwrap();
    assert!(!path.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(folder.path().to_str().unwrap()),
        "{mounts}"
    );
}

#[test]
fn a_missing_namespace_and_other_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    assert!(matches!(NetNs::open(&plain).unwrap_err(), Error::NotANetNs(path) if path == plain));
    let other_kind = NetNs::open("/proc/self/ns/mnt").unwrap_err();
    assert!(matches!(other_kind, Error::NotANetNs(_)), "{other_kind}");
    let missing = NetNs::open(folder.path().join("missing")).unwrap_err();
    assert_eq!(missing.errno(), Some(Errno::ENOENT));
    assert!(missing.to_string().contains("missing"), "{missing}");
    // What an interrupted creation leaves, a plain file, can be deleted.
    NetNs::delete(&plain).unwrap();
    assert!(!plain.exists());
}

#[test]
fn a_deleted_namespace_disappears_in_mount_namespaces_made_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NetNsDir::open(folder.path().join("netns")).unwrap();
    let netns = dir.create("gone").unwrap();
    let path = dir.path_of("gone");
    let mut sleep = Command::new("sleep");
    let mount = MountNs::Own {
        binds: Vec::new(),
        fresh_sys: false,
    };
    Entry {
        mount,
        die_with_parent: false,
        ..Entry::default()
    }
    .prepare(sleep.arg("60"), &netns)
    .unwrap();
    let mut child = sleep.spawn().unwrap();
    let table = format!("/proc/{}/mountinfo", child.id());
    let path = path.to_str().unwrap();
    let before = fs::read_to_string(&table).unwrap();
    dir.delete("gone").unwrap();
    let after = fs::read_to_string(&table).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    dir.remove().unwrap();
    assert!(before.contains(path), "the child copied the mount");
    assert!(!after.contains(path), "{after}");
}

#[test]
fn a_command_starts_inside_with_its_own_files_and_sysfs() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "192.0.2.1 only-here\n").unwrap();
    let netns = NetNs::anonymous().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "cat /etc/hosts; ls /sys/class/net"]);
    let binds = vec![(hosts, PathBuf::from("/etc/hosts"))];
    let mount = MountNs::Own {
        binds,
        fresh_sys: true,
    };
    Entry {
        mount,
        die_with_parent: true,
        ..Entry::default()
    }
    .prepare(&mut command, &netns)
    .unwrap();
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "192.0.2.1 only-here\nlo\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(
        !fs::read_to_string("/etc/hosts")
            .unwrap()
            .contains("only-here")
    );
}

#[test]
fn a_command_joins_a_running_process() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "the pod's\n").unwrap();
    let netns = NetNs::anonymous().unwrap();
    let mut sleep = Command::new("sleep");
    let binds = vec![(hosts, PathBuf::from("/etc/hosts"))];
    let mount = MountNs::Own {
        binds,
        fresh_sys: false,
    };
    Entry {
        mount,
        die_with_parent: false,
        ..Entry::default()
    }
    .prepare(sleep.arg("60"), &netns)
    .unwrap();
    let mut child = sleep.spawn().unwrap();
    let of_child = NetNs::of_process(child.id()).unwrap();
    let mut cat = Command::new("cat");
    Entry {
        mount: MountNs::OfProcess(child.id()),
        die_with_parent: false,
        ..Entry::default()
    }
    .prepare(cat.arg("/etc/hosts"), &of_child)
    .unwrap();
    let seen = cat.output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(of_child.identity(), netns.identity());
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "the pod's\n");
}

#[test]
fn a_missing_bind_is_refused_before_anything_starts() {
    let netns = NetNs::anonymous().unwrap();
    let binds = vec![(PathBuf::from("/nowhere/hosts"), PathBuf::from("/etc/hosts"))];
    let mount = MountNs::Own {
        binds,
        fresh_sys: false,
    };
    let entry = Entry {
        mount,
        die_with_parent: false,
        ..Entry::default()
    };
    let error = entry
        .prepare(&mut Command::new("true"), &netns)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    assert!(error.to_string().contains("/nowhere/hosts"), "{error}");
}

#[test]
fn a_missing_cgroup_is_refused_before_anything_starts() {
    let netns = NetNs::anonymous().unwrap();
    let entry = Entry {
        cgroup: Some(PathBuf::from("/nowhere/node")),
        ..Entry::default()
    };
    let error = entry
        .prepare(&mut Command::new("true"), &netns)
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    let text = error.to_string();
    assert!(text.contains("/nowhere/node/cgroup.procs"), "{text}");
}

#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    let netns = NetNs::anonymous().unwrap();
    let worker = Worker::start(&netns).unwrap();
    let inside = netns.try_clone().unwrap();
    let mut child = worker
        .call(move || {
            let mut sleep = Command::new("sleep");
            Entry {
                die_with_parent: true,
                ..Entry::default()
            }
            .prepare(sleep.arg("60"), &inside)
            .unwrap();
            sleep.spawn().unwrap()
        })
        .unwrap();
    assert!(
        child.try_wait().unwrap().is_none(),
        "it lives while the worker does"
    );
    drop(worker);
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
}

#[test]
fn sysctls_are_those_of_the_calling_threads_namespace() {
    let key: Key = "net.ipv4.ip_forward".parse().unwrap();
    let outside = sysctl::read(&key).unwrap();
    let netns = NetNs::anonymous().unwrap();
    let flipped = netns
        .run(|| {
            let inside = if sysctl::read(&key).unwrap() == "1" {
                "0"
            } else {
                "1"
            };
            assert!(sysctl::ensure(&key, inside).unwrap());
            assert!(
                !sysctl::ensure(&key, inside).unwrap(),
                "the second time there is nothing to do"
            );
            inside
        })
        .unwrap();
    assert_eq!(sysctl::read(&key).unwrap(), outside);
    assert_eq!(netns.run(|| sysctl::read(&key).unwrap()).unwrap(), flipped);
}

#[test]
fn sysctls_of_devices_with_dots_and_errors_that_say_what() {
    let netns = NetNs::anonymous().unwrap();
    netns
        .run(|| {
            let add = ["link", "add", "eth0.100", "type", "bridge"];
            assert!(Command::new("ip").args(add).status().unwrap().success());
            let key = Key::ipv4_conf("eth0.100", "rp_filter").unwrap();
            sysctl::write(&key, "2").unwrap();
            assert_eq!(sysctl::read(&key).unwrap(), "2");

            let error = sysctl::write(&key, "banana").unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EINVAL));
            let text = error.to_string();
            assert!(
                text.contains("banana") && text.contains("eth0.100/rp_filter"),
                "{text}"
            );
            let missing = Key::ipv4_conf("eth9", "rp_filter").unwrap();
            let error = sysctl::read(&missing).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::ENOENT));
            assert!(error.to_string().contains("eth9"), "{error}");
        })
        .unwrap();
}
