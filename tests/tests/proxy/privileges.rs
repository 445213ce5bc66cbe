//! What the daemon may do after its start, and that this is enough.

use std::fs::{Permissions, copy, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use causeway_tests::proxy_bed::privileges::{NET_ADMIN, NET_BIND_SERVICE, NET_RAW, Privileges};
use causeway_tests::proxy_bed::{Bed, PORTS, Proxy, answer, wait_for, wait_until};
use nodekit::nft::{Batch, Family, NftSocket};
use nodekit::xtables::{self, Table, Variant, Xtables};

use super::reload::{ConfigMap, page};
use super::{PATIENCE, put};

/// Every thread has these, in each set, and no others.
#[track_caller]
fn keeps(proxy: &Proxy, capabilities: &[u32]) {
    let threads = proxy.privileges().unwrap();
    assert!(threads.len() > 1, "no thread but the first one");
    for thread in threads {
        assert_eq!(thread, Privileges::only(capabilities));
    }
}

/// Somebody removes what the data plane has.
fn damage(bed: &Bed, mode: &str) {
    let nftables = || {
        let mut socket = NftSocket::open().unwrap();
        for family in [Family::Ip, Family::Ip6] {
            let mut batch = Batch::new(family, "causeway");
            batch.delete_table(0);
            socket.commit(&batch).unwrap();
        }
    };
    let iptables = || {
        for variant in Variant::ALL {
            let programs = Xtables::of(xtables::Family::Ip, variant).unwrap();
            let chains = programs.chains(Table::Nat).unwrap();
            if chains.iter().any(|name| name == "KUBE-SERVICES") {
                let input = "*nat\n-F KUBE-SERVICES\nCOMMIT\n";
                programs.restore(input).unwrap();
            }
        }
    };
    match mode {
        "nftables" => bed.netns.run(nftables).unwrap(),
        _ => bed.netns.run(iptables).unwrap(),
    }
}

fn yaml(mode: &str, metrics: u16) -> String {
    format!(
        "mode: {mode}\nmetricsBindAddress: 127.0.0.1:{metrics}\n\
         nftables: {{syncPeriod: 1s}}\niptables: {{syncPeriod: 1s}}"
    )
}

/// Runs a daemon of `mode` as `command` begins it: endpoints change, rules are damaged, and it
/// executes itself anew.
fn works(bed: &Bed, mode: &str, command: Command, capabilities: &[u32]) {
    let web = put(bed, "web", 0, 2, PORTS[0]);
    let mut map = ConfigMap::new(bed, &yaml(mode, 10249));
    let proxy = bed.command(command, &[&map.flag()]).unwrap();
    let answers = |port| {
        wait_for(&bed.netns, web, port, PATIENCE)
            .map_err(|error| format!("{mode}: {error}: {}", proxy.log().unwrap()))
            .unwrap();
    };
    answers(PORTS[0]);
    keeps(&proxy, capabilities);
    put(bed, "web", 0, 2, PORTS[1]);
    answers(PORTS[1]);
    damage(bed, mode);
    answers(PORTS[1]);

    map.set(&yaml(mode, 10250));
    wait_until("the other address", PATIENCE, || {
        page(bed, 10250, "/proxyMode") == mode
    })
    .map_err(|error| format!("{mode}: {error}: {}", proxy.log().unwrap()))
    .unwrap();
    put(bed, "web", 0, 2, PORTS[0]);
    answers(PORTS[0]);
    keeps(&proxy, capabilities);
    damage(bed, mode);
    answers(PORTS[0]);
    let log = proxy.log().unwrap();
    assert!(!log.contains("not needed stay"), "{log}");
    assert!(proxy.terminate().unwrap().success());
}

/// A command that executes what comes after it with no more than this.
fn setpriv(words: &[&str], program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(words).arg(program);
    command
}

const NETWORK: [u32; 2] = [NET_ADMIN, NET_RAW];
const NETWORK_AND_PORTS: [u32; 3] = [NET_ADMIN, NET_BIND_SERVICE, NET_RAW];

#[test]
fn the_daemon_keeps_what_it_needs_and_that_is_enough() {
    let program = causeway_tests::binary("causeway-proxy");
    for mode in ["nftables", "iptables"] {
        let bed = Bed::new().unwrap();
        works(&bed, mode, Command::new(&program), &NETWORK_AND_PORTS);
    }
}

#[test]
fn to_start_it_and_to_clean_up_takes_no_more_either() {
    let program = causeway_tests::binary("causeway-proxy");
    let bounded = ["--bounding-set=-all,+net_admin,+net_raw"];
    for mode in ["nftables", "iptables"] {
        let bed = Bed::new().unwrap();
        works(&bed, mode, setpriv(&bounded, &program), &NETWORK);
        let web = put(&bed, "web", 0, 2, PORTS[0]);
        wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
        let mut cleanup = bed
            .command(setpriv(&bounded, &program), &["--cleanup"])
            .unwrap();
        assert!(cleanup.wait(PATIENCE).unwrap().success());
        assert_eq!(bed.netns.run(|| answer(web)).unwrap(), None);
    }
}

/// Root gets its capabilities back when it executes something; others only have what is ambient.
#[test]
fn another_user_than_root_keeps_them_through_a_new_start() {
    let bed = Bed::new().unwrap();
    let program = bed.folder().join("causeway-proxy");
    copy(causeway_tests::binary("causeway-proxy"), &program).unwrap();
    set_permissions(bed.folder(), Permissions::from_mode(0o755)).unwrap();
    let nobody = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all,+net_admin,+net_raw",
        "--inh-caps=-all,+net_admin,+net_raw",
        "--ambient-caps=-all,+net_admin,+net_raw",
    ];
    works(&bed, "nftables", setpriv(&nobody, &program), &NETWORK);
}
