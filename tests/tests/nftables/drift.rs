//! What somebody else changed comes back.

use causeway_proxy::backend::NftablesBackend;
use causeway_tests::packet_bed::Bed;
use lb_model::Family;

use crate::restart::{nft, world};
use crate::world::{Proxy, World, at, node_port, service};

/// Whether the proxy notices that something is wrong.
pub(crate) fn noticed(bed: &Bed, proxy: &mut Proxy<'_, NftablesBackend>) -> bool {
    let check = || proxy.backend.check();
    bed.node.netns.run(check).unwrap().unwrap()
}

fn started(bed: &Bed) -> (World, Proxy<'_, NftablesBackend>) {
    let mut world = world(bed);
    let mut proxy = Proxy::start(bed, &world);
    proxy.sync(&mut world);
    // The first look finds everything right and remembers it.
    assert!(!noticed(bed, &mut proxy));
    (world, proxy)
}

/// Does `damage`, and sees it noticed once, and made good.
#[track_caller]
fn comes_back(bed: &Bed, proxy: &mut Proxy<'_, NftablesBackend>, world: &mut World, damage: &str) {
    let before = sorted(&nft(bed, "list ruleset"));
    nft(bed, damage);
    assert_ne!(
        sorted(&nft(bed, "list ruleset")),
        before,
        "{damage}: does nothing"
    );
    assert!(noticed(bed, proxy), "{damage}");
    proxy.sync(world);
    assert_eq!(sorted(&nft(bed, "list ruleset")), before, "{damage}");
    assert!(!noticed(bed, proxy), "{damage}: made good");
}

/// The words of a listing, whatever their order: a set has none.
pub(crate) fn sorted(listing: &str) -> Vec<String> {
    let words = listing.split([' ', ',', '\n', '\t']);
    let mut words: Vec<String> = words.filter(|w| !w.is_empty()).map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn elements_rules_chains_and_tables_come_back() {
    let bed = Bed::new();
    let (mut world, mut proxy) = started(&bed);
    let rule = handle(&bed, "services", "reject");
    for damage in [
        "delete element ip causeway frontends { 10.96.0.1 . tcp . 80 }",
        "delete element ip6 causeway frontends { fd00:96::1 . udp . 80 }",
        "delete element ip causeway endpoints { 10.96.0.1 . tcp . 80 . 0x0 }",
        "delete element ip causeway cluster-ips { 10.96.0.1 }",
        "add element ip causeway cluster-ips { 10.96.0.77 }",
        "add element ip causeway nodeport-addresses { 203.0.113.77 }",
        "flush map ip causeway endpoints",
        "flush set ip6 causeway hairpin",
        &format!("delete rule ip causeway services handle {rule}"),
        "add rule ip causeway services drop",
        "flush chain ip causeway nat-postrouting",
        "flush chain ip6 causeway nat-input; delete chain ip6 causeway nat-input",
        "add chain ip causeway stranger",
        "flush table ip causeway",
        "delete table ip6 causeway",
        "flush ruleset",
    ] {
        comes_back(&bed, &mut proxy, &mut world, damage);
        for family in Family::ALL {
            assert!(bed.client.tcp(at(family, 1)).is_ok(), "{damage}");
        }
    }
}

#[test]
fn what_is_replaced_comes_back() {
    let bed = Bed::new();
    let (mut world, mut proxy) = started(&bed);
    let rule = handle(&bed, "services", "reject");
    let replace = format!("replace rule ip causeway services handle {rule} accept");
    comes_back(&bed, &mut proxy, &mut world, &replace);
    let moved = "delete element ip causeway endpoints { 10.96.0.1 . tcp . 80 . 0x0 }; \
                 add element ip causeway endpoints { 10.96.0.1 . tcp . 80 . 0x0 : 10.244.3.2 . 1 }";
    comes_back(&bed, &mut proxy, &mut world, moved);
}

#[test]
fn what_others_do_elsewhere_is_nobodys_damage() {
    let bed = Bed::new();
    let (mut world, mut proxy) = started(&bed);
    nft(&bed, "add table ip theirs");
    nft(
        &bed,
        "add chain ip theirs forward { type filter hook forward priority 5; }",
    );
    assert!(!noticed(&bed, &mut proxy));
    world.endpoints(&bed, &service(1), &[3]);
    proxy.sync(&mut world);
    assert!(!noticed(&bed, &mut proxy));
    // Both in one period: theirs and ours.
    nft(&bed, "delete table ip theirs");
    world.endpoints(&bed, &service(1), &[1]);
    proxy.sync(&mut world);
    assert!(!noticed(&bed, &mut proxy));
}

#[test]
fn a_change_that_needs_what_is_gone_finds_it_out() {
    let bed = Bed::new();
    let (mut world, mut proxy) = started(&bed);
    nft(&bed, "flush ruleset");
    world.endpoints(&bed, &service(1), &[3]);
    let report = proxy.sync(&mut world);
    assert!(report.families.values().all(|family| family.full));
    assert_eq!(bed.client.tcp(at(Family::V6, 1)).unwrap().pod, 3);
    assert!(bed.client.tcp(node_port(&bed, Family::V4, 2)).is_ok());
}

/// The handle of the rule of `chain` that ends with `last`.
fn handle(bed: &Bed, chain: &str, last: &str) -> u64 {
    let listing = nft(bed, &format!("-a list chain ip causeway {chain}"));
    let rule = listing
        .lines()
        .rev()
        .find(|line| line.contains(last))
        .unwrap();
    rule.rsplit(' ').next().unwrap().parse().unwrap()
}
