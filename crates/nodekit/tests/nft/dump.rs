//! Dumps: whole, and never of two states at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nodekit::Errno;
use nodekit::nft::{
    BaseChain, Batch, Chain, ChainType, Data, Datatype, Element, Expr, Family, Hook, MapData,
    NftSocket, Rule, Set, SetFlags, Table, Type, Value, Verdict,
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

#[test]
fn objects_are_read_as_they_were_made() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = Batch::new(Family::Ip6, "t");
        batch.add_table(
            0,
            &Table {
                comment: Some("layout 7".into()),
            },
        );
        batch.add_chain(
            0,
            &Chain {
                comment: Some("kept".into()),
                ..Chain::regular("c")
            },
        );
        let base = BaseChain::new(ChainType::Nat, Hook::Output, -100);
        batch.add_chain(0, &Chain::base("out", base));
        batch.add_rule(
            0,
            &Rule {
                comment: Some("r".into()),
                ..Rule::new("out", vec![Expr::Verdict(Verdict::Jump("c".into()))])
            },
        );
        batch.add_set(
            0,
            &Set {
                comment: Some("s".into()),
                ..numbers()
            },
        );
        socket.commit(&batch).unwrap();
        let mut other = Batch::new(Family::Ip6, "other");
        other.add_table(0, &Table::default());
        other.add_chain(0, &Chain::regular("elsewhere"));
        other.add_rule(
            0,
            &Rule::new("elsewhere", vec![Expr::Verdict(Verdict::Drop)]),
        );
        other.add_set(0, &Set::new("elsewhere", Datatype::Mark));
        socket.commit(&other).unwrap();

        let tables = socket.tables(Some(Family::Ip6)).unwrap();
        assert_eq!(
            (tables[0].name.as_str(), tables[0].comment.as_deref()),
            ("t", Some("layout 7"))
        );
        let chains = socket.chains(Family::Ip6, "t").unwrap();
        let chains: Vec<_> = chains
            .iter()
            .map(|c| (c.name.as_str(), c.is_base, c.uses, c.comment.as_deref()))
            .collect();
        assert_eq!(
            chains,
            [("c", false, 1, Some("kept")), ("out", true, 1, None)]
        );
        let rules = socket.rules(Family::Ip6, "t").unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(
            (rules[0].chain.as_str(), rules[0].comment.as_deref()),
            ("out", Some("r"))
        );
        let sets = socket.sets(Family::Ip6, "t").unwrap();
        assert_eq!(sets.len(), 1);
        let set = &sets[0];
        assert_eq!(
            (
                set.name.as_str(),
                set.key_len,
                set.data_len,
                set.comment.as_deref()
            ),
            ("numbers", 4, 4, Some("s"))
        );

        assert!(socket.chains(Family::Ip, "t").unwrap().is_empty());
        let missing = socket.elements(Family::Ip6, "t", "missing").unwrap_err();
        assert_eq!(missing.errno(), Some(Errno::ENOENT));
    });
}

#[test]
fn elements_are_read_with_ranges_verdicts_timeouts_and_comments() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(0, &Table::default());
        batch.add_chain(0, &Chain::regular("c"));
        let ranges = SetFlags {
            interval: true,
            ..SetFlags::default()
        };
        let fields = Type::from([Datatype::InetService, Datatype::Ipv4Addr]);
        batch.add_set(
            0,
            &Set {
                flags: ranges,
                ..Set::new("ranges", fields)
            },
        );
        let key = |last| Value::concat(&[&80u16.to_be_bytes(), &[10, 0, 0, last]]);
        let range = Element {
            key_end: Some(key(99)),
            ..Element::new(key(1))
        };
        batch.add_elements(0, "ranges", [&range]);
        batch.add_set(0, &Set::map("verdicts", Datatype::Mark, MapData::Verdict));
        let goto = Data::Verdict(Verdict::Goto("c".into()));
        let verdict = Element {
            comment: Some("why".into()),
            ..Element::to(Value::host_u32(1), goto)
        };
        batch.add_elements(0, "verdicts", [&verdict]);
        let timeout = SetFlags {
            timeout: true,
            ..SetFlags::default()
        };
        batch.add_set(
            0,
            &Set {
                flags: timeout,
                ..Set::new("short", Datatype::Mark)
            },
        );
        let hour = Some(Duration::from_secs(3600));
        batch.add_elements(
            0,
            "short",
            [Element {
                timeout: hour,
                ..Element::new(Value::host_u32(9))
            }],
        );
        socket.commit(&batch).unwrap();

        assert_eq!(socket.elements(Family::Ip, "t", "ranges").unwrap(), [range]);
        assert_eq!(
            socket.elements(Family::Ip, "t", "verdicts").unwrap(),
            [verdict]
        );
        let short = socket.elements(Family::Ip, "t", "short").unwrap();
        assert_eq!(short[0].timeout, hour);
        let left = short[0].expires.unwrap();
        assert!(
            left <= hour.unwrap() && left > Duration::from_secs(3500),
            "{left:?}"
        );
    });
}

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

/// Every transaction gives all elements another number: a dump that saw two transactions would mix
/// numbers or miss elements.
#[test]
fn a_dump_interrupted_by_commits_is_taken_again() {
    const ELEMENTS: u32 = 3000;
    in_namespace(|| {
        let mut reader = NftSocket::open().unwrap();
        let mut writer = NftSocket::open().unwrap();
        let version = |data: u32| (0..ELEMENTS).map(move |key| numbered(key, data));
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(0, &Table::default());
        batch.add_set(0, &numbers());
        batch.add_elements(0, "numbers", version(0));
        writer.commit(&batch).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let commits = scope.spawn(|| {
                let mut now = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut batch = Batch::new(Family::Ip, "t");
                    batch.delete_elements(0, "numbers", version(now));
                    now += 1;
                    batch.add_elements(0, "numbers", version(now));
                    writer.commit(&batch).unwrap();
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
                let found = found.unwrap();
                assert_eq!(found.len(), ELEMENTS as usize);
                assert!(found.iter().all(|element| element.data == found[0].data));
            }
        });
    });
}
