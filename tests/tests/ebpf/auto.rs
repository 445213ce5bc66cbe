//! Mode ebpf on a node that lacks something for it, and mode auto, which then takes another one.

use std::path::Path;
use std::process::Command;

use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::{Bed, ECHO_PORT, PORTS, Proxy, answer, get, wait_until};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::daemon::{Node, PATIENCE, ask, configuration, echo, in_a_cell};

/// Of the pages about the daemon.
fn page(node: &Node, path: &str) -> String {
    let metrics = ([127, 0, 0, 1], 10249).into();
    get(&node.bed.netns, metrics, path).map_or_else(|_| String::new(), |answer| answer.2)
}

/// The pages all say that this data plane runs.
#[track_caller]
fn runs(node: &Node, proxy: &Proxy, mode: &str) {
    wait_until(mode, PATIENCE, || page(node, "/proxyMode") == mode)
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    let status = page(node, "/statusz");
    assert!(status.contains(&format!("\nMode: {mode} (")), "{status}");
    let config: Value = serde_json::from_str(&page(node, "/configz")).unwrap();
    assert_eq!(config["kubeproxy.config.k8s.io"]["mode"], mode);
    let plane = format!("causeway_data_plane{{mode=\"{mode}\"}} 1\n");
    let metrics = page(node, "/metrics");
    assert!(metrics.contains(&plane), "{metrics}");
}

/// A node on which packets have a way to the tables as well.
fn node() -> Node {
    Node {
        bed: Bed::new().unwrap(),
        cell: Cell::new(),
    }
}

/// A folder that is no cgroup.
fn no_cgroup(node: &Node) -> String {
    format!("--ebpf-cgroup-root={}", node.bed.folder().display())
}

const NO_CGROUP: &str = "a cgroup2, for hooks on the sockets of this node";

#[test]
fn auto_takes_ebpf_where_nothing_is_lacking() {
    in_a_cell(|| {
        let node = &Node::new();
        let web = node.put("web", 0, PORTS[0]);
        let [cgroup, pins] = &node.cell.flags();
        let proxy = node
            .bed
            .proxy(&["--proxy-mode=auto", cgroup, pins])
            .unwrap();
        // Nothing else leads there on this node. An emulated machine (scripts/vm) is slow.
        wait_until("answer", PATIENCE * 2, || {
            node.inside(|| answer(web) == Some(PORTS[0]))
        })
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
        runs(node, &proxy, "ebpf");
        assert!(!page(node, "/statusz").contains("lacks"));
        assert!(proxy.terminate().unwrap().success());
    });
}

/// And goes on in mode ebpf at a later start, when there is what was lacking: no connection ends.
#[test]
fn auto_takes_nftables_where_something_is_lacking_until_it_is_there() {
    in_a_cell(|| {
        let node = &node();
        let web = node.put("web", 0, PORTS[0]);
        let talk = node.put("talk", 1, ECHO_PORT);
        let [cgroup, pins] = &node.cell.flags();
        let lacking = ["--proxy-mode=auto", &no_cgroup(node), pins];
        let proxy = node.bed.proxy(&lacking).unwrap();
        node.wait_for(web, PORTS[0]);
        runs(node, &proxy, "nftables");
        let status = page(node, "/statusz");
        let line = format!("\n  for mode ebpf lacks: {NO_CGROUP}");
        assert!(status.contains(&line), "{status}");
        assert_eq!(status.matches("lacks").count(), 1, "{status}");
        let log = proxy.log().unwrap();
        assert_eq!(
            log.matches("mode ebpf is not to be had").count(),
            1,
            "{log}"
        );
        let mut stream = node.connect(talk);
        echo(&mut stream);
        assert!(proxy.terminate().unwrap().success());

        let there = ["--proxy-mode=auto", cgroup, pins];
        let proxy = node.bed.proxy(&there).unwrap();
        runs(node, &proxy, "ebpf");
        node.put("web", 0, PORTS[1]);
        node.wait_for(web, PORTS[1]);
        echo(&mut stream);
        assert!(proxy.terminate().unwrap().success());
    });
}

#[test]
fn a_bpffs_that_cannot_be_written_is_none() {
    in_a_cell(|| {
        let node = &node();
        let web = node.put("web", 0, PORTS[0]);
        let folder = node.bed.folder().join("bpffs");
        std::fs::create_dir(&folder).unwrap();
        // In this thread's namespace, with which it ends.
        let read_only = MsFlags::MS_RDONLY;
        mount(Some("bpf"), &folder, Some("bpf"), read_only, None::<&Path>).unwrap();
        let [cgroup, _] = &node.cell.flags();
        let pins = format!("--ebpf-pin-dir={}", folder.join("pins").display());
        let proxy = node
            .bed
            .proxy(&["--proxy-mode=auto", cgroup, &pins])
            .unwrap();
        node.wait_for(web, PORTS[0]);
        runs(node, &proxy, "nftables");
        let log = proxy.log().unwrap();
        let line = log.lines().find(|line| line.contains("not to be had"));
        let line = line.unwrap();
        assert!(line.contains("a bpffs, for"), "{log}");
        assert!(line.contains("Read-only file system"), "{log}");
        nix::mount::umount(&folder).unwrap();
    });
}

/// Starts mode ebpf without anything that it needs, as `command` begins it; gives how it ends.
fn refused(command: Command) -> String {
    let bed = Bed::new().unwrap();
    let folder = bed.folder().display();
    let cgroup = format!("--ebpf-cgroup-root={folder}");
    let pins = format!("--ebpf-pin-dir={folder}/pins");
    let flags = ["--proxy-mode=ebpf", &cgroup, &pins];
    let mut proxy = bed.command(command, &flags).unwrap();
    assert_eq!(proxy.wait(PATIENCE).unwrap().code(), Some(1));
    let log = proxy.log().unwrap();
    let (_, told) = log.split_once("causeway-proxy: mode ebpf: ").unwrap();
    told.replace(&folder.to_string(), "FOLDER")
}

fn with(words: &[&str]) -> Command {
    let [program, words @ ..] = words else {
        panic!("no program");
    };
    let mut command = Command::new(program);
    command.args(words);
    command.arg(causeway_tests::binary("causeway-proxy"));
    command
}

const MOUNTS: &str = "  a cgroup2, for hooks on the sockets of this node (--ebpf-cgroup-root names a \
    folder of one; in a container mount the host's /sys/fs/cgroup): --ebpf-cgroup-root FOLDER: not \
    on a cgroup2\n  a bpffs, for what outlives this process (mount -t bpf bpf /sys/fs/bpf makes one; \
    in a container mount the host's): --ebpf-pin-dir FOLDER/pins: not on a bpffs (mount -t bpf bpf \
    /sys/fs/bpf makes one)\n";
const PRIVILEGE: &str =
    "(a privilege of this process; without it the kernel is not asked for what else it has)";

#[test]
fn the_error_names_everything_that_is_lacking_and_what_works() {
    let all = Command::new(causeway_tests::binary("causeway-proxy"));
    let lacks = format!("this node lacks\n{MOUNTS}--proxy-mode nftables works here\n");
    assert_eq!(refused(all), lacks);
}

#[test]
fn a_privilege_is_named_as_one_and_not_as_a_feature_of_the_kernel() {
    let network = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw"];
    let lacks = format!(
        "this node lacks\n  CAP_BPF, for maps and programs {PRIVILEGE}\n  CAP_PERFMON, for programs \
         that look into packets {PRIVILEGE}\n{MOUNTS}--proxy-mode nftables works here\n"
    );
    assert_eq!(refused(with(&network)), lacks);
    let none = refused(with(&["setpriv", "--bounding-set=-all,+bpf,+perfmon"]));
    let lacks = format!(
        "this node lacks\n  CAP_NET_ADMIN, for programs on the network, and nftables {PRIVILEGE}\n\
         {MOUNTS}neither --proxy-mode nftables nor iptables works here\n"
    );
    assert_eq!(none, lacks);
}

/// All capabilities, but not of the namespace that bpf(2) asks about.
#[test]
fn a_kernel_that_refuses_all_the_same_is_named_once() {
    let told = refused(with(&["unshare", "--user", "--map-root-user", "--net"]));
    let line = told.lines().nth(1).unwrap();
    assert!(line.starts_with("  bpf(2), for everything"), "{told}");
    assert!(line.contains("though the capabilities are there"), "{told}");
    assert_eq!(told.lines().count(), 5, "{told}");
    assert!(
        told.ends_with("\n--proxy-mode nftables works here\n"),
        "{told}"
    );
}

/// What cannot be had is not gone to, and nothing ends for it.
#[test]
fn a_changed_mode_that_cannot_be_had_leaves_the_daemon_as_it_is() {
    in_a_cell(|| {
        let node = &node();
        let web = node.put("web", 0, PORTS[0]);
        let config = configuration(node, "nftables", 10249);
        let [_, pins] = &node.cell.flags();
        let proxy = node.bed.proxy(&[&config, &no_cgroup(node), pins]).unwrap();
        node.wait_for(web, PORTS[0]);
        let logs = |text: &str| {
            wait_until(text, PATIENCE, || proxy.log().unwrap().contains(text))
                .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
        };
        configuration(node, "ebpf", 10249);
        logs("the changed configuration cannot be used; the one before stays");
        logs(NO_CGROUP);
        configuration(node, "auto", 10249);
        logs("mode ebpf is not to be had");
        logs("the configuration changed");
        runs(node, &proxy, "nftables");
        node.put("web", 0, PORTS[1]);
        node.wait_for(web, PORTS[1]);
        assert_eq!(node.inside(|| ask(web).unwrap()), PORTS[1]);
        assert!(proxy.terminate().unwrap().success());
    });
}
