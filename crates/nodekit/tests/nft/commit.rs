//! Transactions: whole or not at all, every refusal told, nothing touched that isn't named.

use nodekit::Errno;
use nodekit::nft::{
    Batch, Chain, Data, Datatype, Element, Error, Expr, Family, MapData, NftSocket, Rule, Set,
    Table, Value, Verdict,
};

use crate::{in_namespace, nft};

fn table() -> Batch {
    let mut batch = Batch::new(Family::Ip, "t");
    batch.add_table(0, &Table::default());
    batch
}

fn port(number: u16) -> Value {
    Value::new(&number.to_be_bytes())
}

fn marked(number: u16, mark: u32) -> Element {
    Element::to(port(number), Data::Value(Value::host_u32(mark)))
}

fn map() -> Set {
    Set::map(
        "m",
        Datatype::InetService,
        MapData::Value(Datatype::Mark.into()),
    )
}

fn tables(socket: &mut NftSocket) -> Vec<String> {
    socket
        .tables(None)
        .unwrap()
        .into_iter()
        .map(|table| table.name)
        .collect()
}

#[test]
fn a_table_is_destroyed_alone_and_tolerantly() {
    in_namespace(|| {
        nft(&["add table ip other; add table ip6 t; add table inet t"]);
        let mut socket = NftSocket::open().unwrap();
        socket.commit(&table()).unwrap();
        assert_eq!(tables(&mut socket).len(), 4);
        for _ in 0..2 {
            let mut batch = Batch::new(Family::Ip, "t");
            batch.destroy_table(1);
            socket.commit(&batch).unwrap();
            let left = socket.tables(None).unwrap();
            let left: Vec<_> = left.iter().map(|t| (t.family, t.name.as_str())).collect();
            assert_eq!(
                left,
                [
                    (Family::Ip, "other"),
                    (Family::Ip6, "t"),
                    (Family::Inet, "t")
                ]
            );
        }
        let mut batch = Batch::new(Family::Ip, "t");
        batch.delete_table(4);
        let error = socket.commit(&batch).unwrap_err();
        assert_eq!(
            (error.errno(), error.failures()[0].tag),
            (Some(Errno::ENOENT), Some(4))
        );
    });
}

/// A message without a name means every table, chain or element to the kernel.
#[test]
fn names_that_would_mean_everything_are_never_sent() {
    in_namespace(|| {
        nft(&["add table ip other; add chain ip other c; add rule ip other c drop"]);
        let before = nft(&["list ruleset"]);
        let mut socket = NftSocket::open().unwrap();
        type Fill = fn(&mut Batch);
        let refused: [(&str, Fill); 4] = [
            ("", |batch| batch.delete_table(3)),
            ("other", |batch| batch.flush_chain(3, "")),
            ("other", |batch| batch.flush_set(3, "")),
            ("other", |batch| batch.delete_chain(3, "c\0d")),
        ];
        for (name, fill) in refused {
            let mut batch = Batch::new(Family::Ip, name);
            fill(&mut batch);
            let error = socket.commit(&batch).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert!(error.to_string().contains("1 to 127 bytes"), "{error}");
        }
        let mut batch = Batch::new(Family::Ip, "other");
        batch.delete_elements(0, "s", [] as [Element; 0]);
        assert!(batch.is_empty(), "no elements is no flush");
        assert_eq!(nft(&["list ruleset"]), before);
    });
}

#[test]
fn rules_stay_in_the_order_they_were_added() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = table();
        batch.add_chain(1, &Chain::regular("c"));
        let rule = |n: usize| Rule {
            comment: Some(n.to_string()),
            ..Rule::new("c", vec![Expr::Verdict(Verdict::Accept)])
        };
        for n in 0..5 {
            batch.add_rule(2, &rule(n));
        }
        socket.commit(&batch).unwrap();
        let mut later = Batch::new(Family::Ip, "t");
        later.add_rule(2, &rule(5));
        socket.commit(&later).unwrap();
        let rules = socket.rules(Family::Ip, "t").unwrap();
        let order: Vec<_> = rules
            .iter()
            .filter_map(|rule| rule.comment.clone())
            .collect();
        assert_eq!(order, ["0", "1", "2", "3", "4", "5"]);

        let mut batch = Batch::new(Family::Ip, "t");
        batch.delete_rule(0, "c", rules[1].handle);
        socket.commit(&batch).unwrap();
        assert_eq!(socket.rules(Family::Ip, "t").unwrap().len(), 5);
        let mut batch = Batch::new(Family::Ip, "t");
        batch.flush_chain(0, "c");
        socket.commit(&batch).unwrap();
        assert!(socket.rules(Family::Ip, "t").unwrap().is_empty());
    });
}

#[test]
fn every_refused_operation_is_told_with_its_tag_and_nothing_is_done() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = table();
        batch.add_chain(1, &Chain::regular("c"));
        batch.delete_chain(2, "missing");
        batch.add_chain(3, &Chain::regular("d"));
        batch.add_rule(4, &Rule::new("absent", vec![]));
        let lost = Data::Verdict(Verdict::Goto("nowhere".into()));
        batch.add_set(5, &Set::map("v", Datatype::InetService, MapData::Verdict));
        batch.add_elements(6, "v", [Element::to(port(1), lost)]);
        let error = socket.commit(&batch).unwrap_err();
        let told: Vec<_> = error.failures().iter().map(|f| (f.tag, f.errno)).collect();
        let missing = Errno::ENOENT;
        assert_eq!(
            told,
            [(Some(2), missing), (Some(4), missing), (Some(6), missing)]
        );
        let text = error.to_string();
        assert!(text.contains("delete chain ip t missing: ENOENT"), "{text}");
        assert!(tables(&mut socket).is_empty());
        socket.commit(&table()).unwrap();
        assert_eq!(tables(&mut socket), ["t"], "the socket goes on");
    });
}

#[test]
fn an_elements_data_changes_by_delete_and_add_in_one_transaction() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = table();
        batch.add_set(1, &map());
        batch.add_elements(2, "m", [marked(80, 1)]);
        socket.commit(&batch).unwrap();
        let mut same = Batch::new(Family::Ip, "t");
        same.add_elements(0, "m", [marked(80, 1)]);
        socket.commit(&same).unwrap();
        let mut other = Batch::new(Family::Ip, "t");
        other.add_elements(9, "m", [marked(80, 2)]);
        let error = socket.commit(&other).unwrap_err();
        assert_eq!(
            (error.errno(), error.failures()[0].tag),
            (Some(Errno::EEXIST), Some(9))
        );
        let mut change = Batch::new(Family::Ip, "t");
        change.delete_elements(0, "m", [marked(80, 1)]);
        change.add_elements(0, "m", [marked(80, 2)]);
        socket.commit(&change).unwrap();
        assert_eq!(
            socket.elements(Family::Ip, "t", "m").unwrap(),
            [marked(80, 2)]
        );
        let mut gone = Batch::new(Family::Ip, "t");
        gone.create_elements(0, "m", [marked(81, 2)]);
        gone.flush_set(0, "m");
        gone.delete_set(0, "m");
        socket.commit(&gone).unwrap();
        assert!(socket.sets(Family::Ip, "t").unwrap().is_empty());
    });
}

#[test]
fn missing_elements_are_destroyed_without_complaint() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = table();
        batch.add_set(1, &map());
        batch.add_elements(2, "m", [marked(80, 1)]);
        batch.destroy_elements(3, "m", [marked(80, 0), marked(81, 0)]);
        batch.add_chain(4, &Chain::regular("c"));
        batch.destroy_chain(5, "c");
        batch.destroy_chain(6, "never");
        socket.commit(&batch).unwrap();
        assert!(socket.elements(Family::Ip, "t", "m").unwrap().is_empty());
        assert!(socket.chains(Family::Ip, "t").unwrap().is_empty());
        let mut strict = Batch::new(Family::Ip, "t");
        strict.delete_elements(7, "m", [marked(81, 0)]);
        let error = socket.commit(&strict).unwrap_err();
        assert_eq!(
            (error.errno(), error.failures()[0].tag),
            (Some(Errno::ENOENT), Some(7))
        );
    });
}

#[test]
fn a_stale_generation_is_told_and_nothing_is_done() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let generation = socket.generation().unwrap();
        let mut fresh = Batch::new(Family::Ip, "a");
        fresh.only_at(generation);
        fresh.add_table(0, &Table::default());
        socket.commit(&fresh).unwrap();
        assert!(socket.generation().unwrap() > generation);
        let mut stale = Batch::new(Family::Ip, "b");
        stale.only_at(generation);
        stale.add_table(0, &Table::default());
        let error = socket.commit(&stale).unwrap_err();
        assert!(
            matches!(error, Error::GenerationChanged(g) if g == generation),
            "{error}"
        );
        assert_eq!(tables(&mut socket), ["a"]);
    });
}

#[test]
fn what_cant_be_said_is_refused_before_it_is_sent() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let long = "x".repeat(255);
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(
            3,
            &Table {
                comment: Some(long.clone()),
                ..Table::default()
            },
        );
        let error = socket.commit(&batch).unwrap_err();
        assert!(matches!(error, Error::Invalid { tag: 3, .. }), "{error}");
        let mut batch = table();
        batch.add_chain(4, &Chain::regular(&long));
        let error = socket.commit(&batch).unwrap_err();
        assert!(matches!(error, Error::Invalid { tag: 4, .. }), "{error}");
        let mut batch = table();
        batch.add_rule(
            5,
            &Rule::new(
                "c",
                vec![
                    Expr::Counter {
                        packets: 0,
                        bytes: 0
                    };
                    3000
                ],
            ),
        );
        let error = socket.commit(&batch).unwrap_err();
        assert!(error.to_string().contains("65535"), "{error}");
        assert!(tables(&mut socket).is_empty());
        socket.commit(&Batch::new(Family::Ip, "empty")).unwrap();
    });
}

/// The answers to so many refusals don't fit the receive buffer.
#[test]
fn lost_answers_are_told_and_never_taken_for_success() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = table();
        batch.add_set(0, &map());
        socket.commit(&batch).unwrap();
        let mut missing = Batch::new(Family::Ip, "t");
        for n in 0..60_000u16 {
            missing.delete_elements(usize::from(n), "m", [marked(n, 0)]);
        }
        let Err(Error::Refused {
            failures,
            incomplete,
        }) = socket.commit(&missing)
        else {
            panic!("not refused");
        };
        assert!(
            incomplete,
            "the test is too small to lose answers: {}",
            failures.len()
        );
        assert!(
            failures
                .iter()
                .zip(0..)
                .all(|(f, n)| f.tag == Some(n) && f.errno == Errno::ENOENT)
        );
        batch.add_elements(0, "m", [marked(1, 1)]);
        socket.commit(&batch).unwrap();
    });
}
