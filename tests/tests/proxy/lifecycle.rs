//! Starts, restarts and ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use causeway_tests::proxy_bed::{
    Bed, ECHO_PORT, PORTS, answer, get, sure_answer, wait_for, wait_until,
};
use nodekit::nft::{Batch, Family, NftSocket, Table};
use nodekit::xtables::{self, Variant, Xtables};

use super::{PATIENCE, put};

fn tables(bed: &Bed) -> Vec<String> {
    let list = |family| NftSocket::open().unwrap().tables(Some(family)).unwrap();
    let tables = bed
        .netns
        .run(|| [list(Family::Ip), list(Family::Ip6)].concat())
        .unwrap();
    tables.into_iter().map(|table| table.name).collect()
}

#[test]
fn sigterm_leaves_the_rules_and_cleanup_removes_them() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    assert!(proxy.terminate().unwrap().success());

    assert_eq!(bed.netns.run(|| sure_answer(web)).unwrap(), Some(PORTS[0]));
    assert_eq!(tables(&bed), ["causeway", "causeway"]);
    for _ in 0..2 {
        let status = bed.proxy(&["--cleanup"]).unwrap().wait(PATIENCE).unwrap();
        assert!(status.success(), "removing nothing is no error either");
    }
    assert_eq!(tables(&bed), [""; 0]);
    assert_eq!(bed.netns.run(|| answer(web)).unwrap(), None);
}

#[test]
fn a_killed_proxy_is_replaced_without_anybody_noticing() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 3, PORTS[0]);
    let echo = put(&bed, "echo", 1, 3, ECHO_PORT);
    let gone = put(&bed, "gone", 2, 1, PORTS[0]);
    let proxy = bed.proxy(&[]).unwrap();
    for target in [web, gone] {
        wait_for(&bed.netns, target, PORTS[0], PATIENCE).unwrap();
    }
    let mut stream = bed.netns.run(|| TcpStream::connect(echo)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut talk = |text: &[u8; 4]| {
        stream.write_all(text).unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, text);
    };
    talk(b"ping");

    proxy.kill().unwrap();
    talk(b"dead");
    bed.store
        .delete(
            netns_lab::apiserver::Resource::Service,
            "default",
            "gone",
            &netns_lab::apiserver::Deletion::now(),
        )
        .unwrap();
    put(&bed, "web", 0, 3, PORTS[1]);
    let proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    wait_until(
        "end of a Service that was deleted meanwhile",
        PATIENCE,
        || bed.netns.run(|| answer(gone)).unwrap().is_none(),
    )
    .unwrap();
    talk(b"pong");
    assert!(proxy.terminate().unwrap().success());
}

#[test]
fn a_mode_that_there_is_not_ends_the_start() {
    let bed = Bed::new().unwrap();
    let mut proxy = bed.proxy(&["--proxy-mode=userspace"]).unwrap();
    assert_eq!(proxy.wait(PATIENCE).unwrap().code(), Some(1));
    let log = proxy.log().unwrap();
    assert!(
        log.contains("mode") && log.contains("\"userspace\" is not usable"),
        "{log}"
    );
    assert_eq!(tables(&bed), [""; 0]);
}

#[test]
fn the_configuration_in_effect_can_be_written_and_read_again() {
    let bed = Bed::new().unwrap();
    let file = bed.folder().join("written.yaml");
    let flag = format!("--write-config-to={}", file.display());
    let mut proxy = bed
        .proxy(&[&flag, "--cluster-cidr=10.240.0.0/12", "-v=2"])
        .unwrap();
    assert!(
        proxy.wait(PATIENCE).unwrap().success(),
        "{}",
        proxy.log().unwrap()
    );
    let written = std::fs::read_to_string(&file).unwrap();
    let (said, warnings) = causeway_proxy::config::read(&written).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(said.cluster_cidr.as_deref(), Some("10.240.0.0/12"));
    assert_eq!(said.logging.unwrap().verbosity, Some(2));
    assert_eq!(tables(&bed), [""; 0]);
}

#[test]
fn nothing_is_touched_before_the_api_server_answered() {
    let mut bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 1, PORTS[0]);
    bed.stop_server();
    let proxy = bed.proxy(&[]).unwrap();
    wait_until("complaint about the API server", PATIENCE, || {
        proxy
            .log()
            .unwrap()
            .contains("the API server cannot be watched")
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(tables(&bed), [""; 0]);
    let complaints = proxy.log().unwrap().matches("cannot be watched").count();
    assert_eq!(complaints, 1, "one line per state change");
    bed.start_server().unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    wait_until("word of the recovery", PATIENCE, || {
        proxy
            .log()
            .unwrap()
            .contains("the API server can be watched again")
    })
    .unwrap();
}

fn iptables() -> Xtables {
    Xtables::of(xtables::Family::Ip, Variant::Nft).unwrap()
}

#[test]
fn what_a_kube_proxy_before_us_left_goes_after_the_first_pass() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let make = || {
        let mut socket = NftSocket::open().unwrap();
        for family in [Family::Ip, Family::Ip6] {
            for name in ["kube-proxy", "kube-proxy-of-somebody"] {
                let mut batch = Batch::new(family, name);
                batch.add_table(0, &Table::default());
                socket.commit(&batch).unwrap();
            }
        }
        let input = "*nat\n:KUBE-SERVICES - [0:0]\n:SOMEBODY - [0:0]\nCOMMIT\n";
        iptables().restore(input).unwrap();
    };
    bed.netns.run(make).unwrap();
    let _proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    let mut ours_and_others = ["causeway", "kube-proxy-of-somebody"].repeat(2);
    ours_and_others.sort_unstable();
    wait_until("end of its tables", PATIENCE, || {
        let mut tables = tables(&bed);
        tables.retain(|name| name != "nat");
        tables.sort_unstable();
        let chains = || iptables().chains(xtables::Table::Nat).unwrap();
        let chains = bed.netns.run(chains).unwrap();
        assert!(chains.contains(&"SOMEBODY".to_owned()), "{chains:?}");
        tables == ours_and_others && !chains.contains(&"KUBE-SERVICES".to_owned())
    })
    .unwrap();
}

#[test]
fn an_address_that_is_taken_ends_the_daemon_where_that_is_asked_for() {
    let bed = Bed::new().unwrap();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 10249).into();
    let taken = bed.netns.run(|| std::net::TcpListener::bind(address));
    let taken = taken.unwrap().unwrap();
    let mut proxy = bed.proxy(&["--bind-address-hard-fail"]).unwrap();
    assert_eq!(proxy.wait(PATIENCE).unwrap().code(), Some(1));
    let log = proxy.log().unwrap();
    assert!(log.contains("metricsBindAddress 127.0.0.1:10249"), "{log}");

    let proxy = bed.proxy(&[]).unwrap();
    wait_until("complaint", PATIENCE, || {
        proxy.log().unwrap().contains("cannot listen")
    })
    .unwrap();
    drop(taken);
    wait_until("another try", PATIENCE, || {
        get(&bed.netns, address, "/healthz").is_ok()
    })
    .unwrap();
}
