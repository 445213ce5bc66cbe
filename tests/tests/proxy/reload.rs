//! The configuration's file changes under a running daemon, as a ConfigMap volume does: a symlink
//! to the folder above is swapped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use causeway_tests::proxy_bed::{Bed, ECHO_PORT, PORTS, get, sure_answer, wait_for, wait_until};
use nodekit::nft::{Family, NftSocket};
use nodekit::xtables::{self, Table, Variant, Xtables};
use serde_json::Value;

use super::{PATIENCE, put};

/// A ConfigMap volume.
pub(super) struct ConfigMap {
    folder: PathBuf,
    versions: usize,
}

impl ConfigMap {
    pub(super) fn new(bed: &Bed, yaml: &str) -> Self {
        let folder = bed.folder().join("config");
        std::fs::create_dir(&folder).unwrap();
        let mut map = Self {
            folder,
            versions: 0,
        };
        map.set(yaml);
        symlink("..data/config.conf", map.folder.join("config.conf")).unwrap();
        map
    }

    pub(super) fn set(&mut self, yaml: &str) {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        let folder = self.folder.join(&version);
        std::fs::create_dir(&folder).unwrap();
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        std::fs::write(folder.join("config.conf"), format!("{head}{yaml}\n")).unwrap();
        let next = self.folder.join("..data_tmp");
        symlink(version, &next).unwrap();
        std::fs::rename(next, self.folder.join("..data")).unwrap();
    }

    pub(super) fn flag(&self) -> String {
        format!("--config={}", self.folder.join("config.conf").display())
    }
}

pub(super) fn page(bed: &Bed, port: u16, path: &str) -> String {
    let server = ([127, 0, 0, 1], port).into();
    get(&bed.netns, server, path).map_or_else(|_| String::new(), |answer| answer.2)
}

fn our_nft_tables(bed: &Bed) -> usize {
    let tables = |family| NftSocket::open().unwrap().tables(Some(family)).unwrap();
    let both = bed
        .netns
        .run(|| [tables(Family::Ip), tables(Family::Ip6)].concat());
    let both = both.unwrap();
    both.iter().filter(|table| table.name == "causeway").count()
}

/// Chains of the iptables data plane, of both families and variants.
fn our_chains(bed: &Bed) -> usize {
    let count = |family, variant| {
        let programs = Xtables::of(family, variant).unwrap();
        let chains = programs.chains(Table::Nat).unwrap();
        chains
            .iter()
            .filter(|name| name.starts_with("KUBE-"))
            .count()
    };
    let all = || {
        let families = [xtables::Family::Ip, xtables::Family::Ip6];
        let of = |variant| families.map(|family| count(family, variant));
        Variant::ALL.map(of).concat().iter().sum()
    };
    bed.netns.run(all).unwrap()
}

#[test]
fn another_data_plane_takes_over_and_no_connection_notices() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let echo = put(&bed, "echo", 1, 3, ECHO_PORT);
    let mut map = ConfigMap::new(&bed, "mode: nftables");
    let proxy = bed.proxy(&[&map.flag()]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    let mut stream = bed.netns.run(|| TcpStream::connect(echo)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut talk = || {
        stream.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
    };
    talk();
    for (mode, tables) in [("iptables", 0), ("nftables", 2)] {
        map.set(&format!("mode: {mode}"));
        wait_until(mode, PATIENCE, || {
            // All the while.
            talk();
            let answer = bed.netns.run(|| sure_answer(web)).unwrap();
            assert_eq!(answer, Some(PORTS[0]));
            page(&bed, 10249, "/proxyMode") == mode
                && our_nft_tables(&bed) == tables
                && (tables > 0 || our_chains(&bed) > 0)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
        talk();
    }
    wait_until("end of the chains", PATIENCE, || our_chains(&bed) == 0).unwrap();
    put(&bed, "web", 0, 2, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    talk();
    assert!(proxy.terminate().unwrap().success());
}

#[test]
fn what_can_change_does_and_the_rest_starts_the_daemon_anew_in_place() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let mut map = ConfigMap::new(&bed, "nftables: {syncPeriod: 40s}");
    let mut proxy = bed
        .proxy(&[&map.flag(), "--cluster-cidr=10.240.0.0/12"])
        .unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    let wait_for_log = |text: &str| {
        wait_until(text, PATIENCE, || proxy.log().unwrap().contains(text))
            .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    };
    let sync_period = || {
        let configz: Value = serde_json::from_str(&page(&bed, 10249, "/configz")).unwrap();
        configz["kubeproxy.config.k8s.io"]["nftables"]["syncPeriod"].clone()
    };
    map.set("nftables: {syncPeriod: soon}");
    wait_for_log("the changed configuration cannot be used");
    assert_eq!(sync_period(), "40s");

    map.set("nftables: {syncPeriod: 50s}\nlogging: {verbosity: 4}");
    wait_for_log("the configuration changed");
    assert_eq!(sync_period(), "50s");
    put(&bed, "web", 0, 2, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    wait_for_log("DEBUG");

    map.set("metricsBindAddress: 127.0.0.1:10250");
    wait_for_log("asks for a new start changed=\"metricsBindAddress\"");
    wait_until("the other address", PATIENCE, || {
        page(&bed, 10250, "/flagz").contains("cluster-cidr=10.240.0.0/12")
    })
    .unwrap();
    put(&bed, "web", 0, 2, PORTS[0]);
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    assert!(
        proxy.wait(std::time::Duration::ZERO).is_err(),
        "the same process"
    );
    assert!(proxy.terminate().unwrap().success());
}
