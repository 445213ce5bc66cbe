//! Dumps: whole, and never of two states at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nodekit::Errno;
use nodekit::nft::{
    BaseChain, Batch, Chain, ChainType, Data, Datatype, Element, Expr, Family, Hook, MapData,
    NftSocket, Policy, Rule, Set, SetFlags, Table, Type, Value, Verdict,
};

use crate::in_namespace;

fn numbers() -> Set {
    Set::map(
        "numbers",
        Datatype::Mark,
        MapData::Value(Datatype::Mark.into()),
    )
}

fn numbered(key: u32, data: u32) -> Element {
    Element::to(Value::host_u32(key), Data::Value(Value::host_u32(data)))
}

fn text(optional: &str) -> Option<String> {
    Some(optional.to_owned())
}

/// A table with one of everything, each with its own comment.
fn commented_table() -> Batch {
    let mut batch = Batch::new(Family::Ip6, "t");
    batch.add_table(
        0,
        &Table {
            comment: text("layout 7"),
            ..Table::default()
        },
    );
    let kept = Chain::regular("c");
    batch.add_chain(
        0,
        &Chain {
            comment: text("kept"),
            ..kept
        },
    );
    let base = BaseChain::new(ChainType::Nat, Hook::Output, -100);
    batch.add_chain(0, &Chain::base("out", base));
    let rule = Rule::new("out", vec![Expr::Verdict(Verdict::Jump("c".into()))]);
    batch.add_rule(
        0,
        &Rule {
            comment: text("r"),
            ..rule
        },
    );
    batch.add_set(
        0,
        &Set {
            comment: text("s"),
            ..numbers()
        },
    );
    batch
}

fn other_table() -> Batch {
    let mut batch = Batch::new(Family::Ip6, "other");
    batch.add_table(0, &Table::default());
    batch.add_chain(0, &Chain::regular("elsewhere"));
    batch.add_rule(
        0,
        &Rule::new("elsewhere", vec![Expr::Verdict(Verdict::Drop)]),
    );
    batch.add_set(0, &Set::new("elsewhere", Datatype::Mark));
    batch
}

#[test]
fn objects_are_read_as_they_were_made() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        socket.commit(&commented_table()).unwrap();
        socket.commit(&other_table()).unwrap();
        let tables = socket.tables(Some(Family::Ip6)).unwrap();
        let named: Vec<_> = tables.into_iter().map(|t| (t.name, t.comment)).collect();
        assert_eq!(
            named,
            [("t".into(), text("layout 7")), ("other".into(), None)]
        );
        let chains = socket.chains(Family::Ip6, "t").unwrap();
        let chains: Vec<_> = chains
            .into_iter()
            .map(|c| (c.name, c.is_base, c.uses, c.comment))
            .collect();
        let (kept, out) = ("c".to_owned(), "out".to_owned());
        assert_eq!(
            chains,
            [(kept, false, 1, text("kept")), (out.clone(), true, 1, None)]
        );
        let rules = socket.rules(Family::Ip6, "t").unwrap();
        let rules: Vec<_> = rules.into_iter().map(|r| (r.chain, r.comment)).collect();
        assert_eq!(rules, [(out, text("r"))]);
        let sets = socket.sets(Family::Ip6, "t").unwrap();
        let sets: Vec<_> = sets
            .into_iter()
            .map(|s| (s.name, s.key_len, s.data_len, s.comment))
            .collect();
        assert_eq!(sets, [("numbers".into(), 4, 4, text("s"))]);

        assert!(socket.chains(Family::Ip, "t").unwrap().is_empty());
        let missing = socket.elements(Family::Ip6, "t", "missing").unwrap_err();
        assert_eq!(missing.errno(), Some(Errno::ENOENT));
    });
}

#[test]
fn hooks_are_read_with_what_they_do() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        assert_eq!(socket.hooked_chains(Family::Ip6).unwrap(), []);
        socket.commit(&commented_table()).unwrap();
        let mut batch = Batch::new(Family::Ip6, "more");
        batch.add_table(0, &Table::default());
        let forward = BaseChain::new(ChainType::Filter, Hook::Forward, 0);
        let drops = BaseChain {
            policy: Policy::Drop,
            ..forward
        };
        batch.add_chain(0, &Chain::base("empty", drops));
        socket.commit(&batch).unwrap();
        let found = socket.hooked_chains(Family::Ip6).unwrap();
        let said: Vec<_> = found
            .iter()
            .map(|chain| (chain.sees_forwarded(), chain.accepts, chain.rules))
            .collect();
        assert_eq!(said, [(false, true, 1), (true, false, 0)]);
        assert_eq!(socket.hooked_chains(Family::Inet).unwrap(), []);
    });
}

/// A set of those flags with those elements, and what is read of it.
fn stored(set: &Set, elements: &[Element]) -> Vec<Element> {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(0, &Table::default());
        batch.add_chain(0, &Chain::regular("c"));
        batch.add_set(0, set);
        batch.add_elements(0, &set.name, elements);
        socket.commit(&batch).unwrap();
        socket.elements(Family::Ip, "t", &set.name).unwrap()
    })
}

#[test]
fn concatenated_ranges_are_read_with_both_ends() {
    let flags = SetFlags {
        interval: true,
        ..SetFlags::default()
    };
    let fields = Type::from([Datatype::InetService, Datatype::Ipv4Addr]);
    let key = |last| Value::concat(&[&80u16.to_be_bytes(), &[10, 0, 0, last]]);
    let range = Element {
        key_end: Some(key(99)),
        ..Element::new(key(1))
    };
    let set = Set {
        flags,
        ..Set::new("ranges", fields)
    };
    assert_eq!(stored(&set, std::slice::from_ref(&range)), [range]);
}

#[test]
fn verdicts_are_read_with_their_chains_and_comments() {
    let set = Set::map("verdicts", Datatype::Mark, MapData::Verdict);
    let goto = Data::Verdict(Verdict::Goto("c".into()));
    let element = Element::to(Value::host_u32(1), goto);
    let element = Element {
        comment: text("why"),
        ..element
    };
    assert_eq!(stored(&set, std::slice::from_ref(&element)), [element]);
}

#[test]
fn timeouts_are_read_with_what_is_left_of_them() {
    let flags = SetFlags {
        timeout: true,
        ..SetFlags::default()
    };
    let hour = Duration::from_secs(3600);
    let element = Element {
        timeout: Some(hour),
        ..Element::new(Value::host_u32(9))
    };
    let found = stored(
        &Set {
            flags,
            ..Set::new("short", Datatype::Mark)
        },
        &[element],
    );
    assert_eq!(found[0].timeout, Some(hour));
    let left = found[0].expires.unwrap();
    assert!(left <= hour && left > Duration::from_secs(3500), "{left:?}");
}

/// So many elements have the kernel resize the set's hash table while they are read.
#[test]
fn a_hundred_thousand_elements_go_in_and_come_out() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(0, &Table::default());
        batch.add_set(0, &numbers());
        batch.add_elements(1, "numbers", (0..100_000).map(|n| numbered(n, !n)));
        assert!(batch.len() > 40, "in messages below 64 KiB");
        let started = std::time::Instant::now();
        socket.commit(&batch).unwrap();
        let committed = started.elapsed();
        let mut found = socket.elements(Family::Ip, "t", "numbers").unwrap();
        println!(
            "commit {committed:?}, dump {:?}",
            started.elapsed() - committed
        );
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut meant: Vec<_> = (0..100_000).map(|n| numbered(n, !n)).collect();
        meant.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        assert!(found == meant, "{} elements came out", found.len());
    });
}

/// So many elements, all with the same number.
fn version(elements: u32, number: u32) -> impl Iterator<Item = Element> {
    (0..elements).map(move |key| numbered(key, number))
}

/// One who reads the first version, which is in the kernel, and one who writes the next ones.
fn begin(elements: u32) -> (NftSocket, NftSocket) {
    let (reader, mut writer) = (NftSocket::open().unwrap(), NftSocket::open().unwrap());
    let mut batch = Batch::new(Family::Ip, "t");
    batch.add_table(0, &Table::default());
    batch.add_set(0, &numbers());
    batch.add_elements(0, "numbers", version(elements, 0));
    writer.commit(&batch).unwrap();
    (reader, writer)
}

/// Gives all elements another number: a dump that saw two transactions would mix numbers or miss elements.
fn next(elements: u32, now: u32) -> Batch {
    let mut batch = Batch::new(Family::Ip, "t");
    batch.delete_elements(0, "numbers", version(elements, now));
    batch.add_elements(0, "numbers", version(elements, now + 1));
    batch
}

fn assert_one_version(found: &[Element], elements: u32) {
    assert_eq!(found.len(), elements as usize);
    assert!(found.iter().all(|element| element.data == found[0].data));
}

#[test]
fn a_dump_interrupted_by_commits_is_taken_again() {
    const ELEMENTS: u32 = 3000;
    in_namespace(|| {
        let (mut reader, mut writer) = begin(ELEMENTS);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let commits = scope.spawn(|| {
                let mut now = 0;
                while !stop.load(Ordering::Relaxed) {
                    writer.commit(&next(ELEMENTS, now)).unwrap();
                    now += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                now
            });
            let dumps: Vec<_> = (0..50)
                .map(|_| reader.elements(Family::Ip, "t", "numbers"))
                .collect();
            stop.store(true, Ordering::Relaxed);
            let committed = commits.join().unwrap();
            assert!(committed > 1, "nothing was committed meanwhile");
            for found in dumps {
                assert_one_version(&found.unwrap(), ELEMENTS);
            }
        });
    });
}

/// A commit makes its generation known before it takes out what it removes, one by one: a dump that
/// begins then must wait for it, since it goes on by counting.
#[test]
fn a_dump_begun_within_a_commit_misses_nothing() {
    const ELEMENTS: u32 = 30_000;
    in_namespace(|| {
        let (mut reader, mut writer) = begin(ELEMENTS);
        for now in 0..10 {
            let batch = next(ELEMENTS, now);
            let before = reader.generation().unwrap();
            let found = std::thread::scope(|scope| {
                let commit = scope.spawn(|| writer.commit(&batch));
                while !commit.is_finished() && reader.generation().unwrap() == before {}
                let found = reader.elements(Family::Ip, "t", "numbers").unwrap();
                commit.join().unwrap().unwrap();
                found
            });
            assert_one_version(&found, ELEMENTS);
        }
    });
}
