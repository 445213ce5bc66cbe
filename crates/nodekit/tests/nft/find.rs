//! Elements found by their keys, and transactions on several tables.

use nodekit::Errno;
use nodekit::nft::{
    Batch, Chain, Data, Datatype, Element, ElementPath, Family, MapData, NftSocket, Set, Table,
    Value, Verdict,
};

use crate::{in_namespace, nft};

const FAMILIES: [Family; 3] = [Family::Ip, Family::Ip6, Family::Bridge];

fn number(number: u32) -> Value {
    Value::host_u32(number)
}

fn numbered(key: u32, data: u32) -> Element {
    Element {
        comment: Some(format!("owner {key}")),
        ..Element::to(number(key), Data::Value(number(data)))
    }
}

/// A table `t` with a map `m` in each family, in one transaction.
fn add_maps(batch: &mut Batch) {
    for family in FAMILIES {
        batch.go_on_in(family, "t");
        batch.add_table(1, &Table::default());
        let data = MapData::Value(Datatype::Mark.into());
        batch.add_set(2, &Set::map("m", Datatype::Mark, data));
    }
}

fn at<'a>(family: Family, set: &'a str, key: &'a Value) -> ElementPath<'a> {
    ElementPath {
        family,
        table: "t",
        set,
        key,
    }
}

#[test]
fn a_chain_is_found_by_its_name() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        assert!(!socket.has_chain(Family::Ip, "t", "c").unwrap());
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(1, &Table::default());
        batch.add_chain(2, &Chain::regular("c"));
        socket.commit(&batch).unwrap();
        assert!(socket.has_chain(Family::Ip, "t", "c").unwrap());
        for (family, table, chain) in [
            (Family::Ip6, "t", "c"),
            (Family::Ip, "u", "c"),
            (Family::Ip, "t", "cc"),
        ] {
            assert!(!socket.has_chain(family, table, chain).unwrap());
        }
    });
}

#[test]
fn one_transaction_spans_tables_and_families() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let before = socket.generation().unwrap();
        let mut batch = Batch::new(Family::Ip, "t");
        add_maps(&mut batch);
        for (family, data) in FAMILIES.into_iter().zip(1..) {
            batch.go_on_in(family, "t");
            batch.add_elements(3, "m", [numbered(7, data)]);
        }
        socket.commit(&batch).unwrap();
        assert_eq!(socket.generation().unwrap(), before + 1);
        for (family, data) in FAMILIES.into_iter().zip(1..) {
            let there = socket.elements(family, "t", "m").unwrap();
            assert_eq!(there, [numbered(7, data)]);
        }

        // What one family refuses takes everything with it.
        let mut batch = Batch::new(Family::Ip, "t");
        batch.delete_elements(1, "m", [numbered(7, 1)]);
        batch.go_on_in(Family::Bridge, "t");
        batch.create_elements(2, "m", [numbered(7, 3)]);
        batch.go_on_in(Family::Ip6, "t");
        batch.delete_elements(3, "m", [numbered(8, 2)]);
        let error = socket.commit(&batch).unwrap_err();
        let told: Vec<_> = error.failures().iter().map(|f| (f.tag, f.errno)).collect();
        assert_eq!(
            told,
            [(Some(2), Errno::EEXIST), (Some(3), Errno::ENOENT)],
            "{error}"
        );
        assert!(error.to_string().contains("bridge t m"), "{error}");
        assert_eq!(socket.elements(Family::Ip, "t", "m").unwrap().len(), 1);
    });
}

#[test]
fn a_table_without_name_is_refused_wherever_it_is_named() {
    in_namespace(|| {
        nft(&["add table ip6 other"]);
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(0, &Table::default());
        batch.go_on_in(Family::Ip6, "");
        batch.delete_table(0);
        let mut socket = NftSocket::open().unwrap();
        let error = socket.commit(&batch).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
        assert_eq!(nft(&["list tables"]), "table ip6 other\n");
    });
}

#[test]
fn elements_are_found_by_their_keys() {
    in_namespace(|| {
        let mut socket = NftSocket::open().unwrap();
        let mut batch = Batch::new(Family::Ip, "t");
        add_maps(&mut batch);
        batch.go_on_in(Family::Ip6, "t");
        batch.add_elements(0, "m", (0..100).map(|key| numbered(key, key + 1)));
        socket.commit(&batch).unwrap();

        // More than are asked for at once, with absent ones among them.
        let keys: Vec<_> = (80..120).map(number).collect();
        let paths: Vec<_> = keys.iter().map(|key| at(Family::Ip6, "m", key)).collect();
        let found = socket.find_elements(&paths).unwrap();
        let wanted: Vec<_> = (80..120)
            .map(|key| (key < 100).then(|| numbered(key, key + 1)))
            .collect();
        assert_eq!(found, wanted);

        // Another family's, no such set, no such table.
        let key = number(90);
        let elsewhere = ElementPath {
            table: "nowhere",
            ..at(Family::Ip6, "m", &key)
        };
        let paths = [
            at(Family::Ip, "m", &key),
            at(Family::Ip6, "other", &key),
            elsewhere,
            at(Family::Ip6, "m", &key),
        ];
        let found = socket.find_elements(&paths).unwrap();
        assert_eq!(found, [None, None, None, Some(numbered(90, 91))]);
        assert_eq!(socket.find_elements(&[]).unwrap(), []);

        let short = Value::new(&[1]);
        let error = socket.find_elements(&[at(Family::Ip6, "m", &short)]);
        assert_eq!(error.unwrap_err().errno(), Some(Errno::EINVAL));
        // The failure leaves nothing behind that a later answer could be taken for.
        let found = socket.find_elements(&paths[3..]).unwrap();
        assert_eq!(found, [Some(numbered(90, 91))]);
    });
}

#[test]
fn an_element_of_a_verdict_map_and_of_a_set_is_found() {
    in_namespace(|| {
        nft(&["add table ip t; add chain ip t c; \
             add map ip t v { type ipv4_addr . inet_service : verdict; }; \
             add element ip t v { 10.0.0.1 . 80 comment \"a b\" : goto c }; \
             add set ip t s { type inet_service; }; add element ip t s { 80 }"]);
        let mut socket = NftSocket::open().unwrap();
        let key = Value::concat(&[&[10, 0, 0, 1], &80u16.to_be_bytes()]);
        let port = Value::new(&80u16.to_be_bytes());
        let paths = [at(Family::Ip, "v", &key), at(Family::Ip, "s", &port)];
        let found = socket.find_elements(&paths).unwrap();
        let led = Element {
            comment: Some("a b".into()),
            ..Element::to(key.clone(), Data::Verdict(Verdict::Goto("c".into())))
        };
        assert_eq!(found, [Some(led), Some(Element::new(port.clone()))]);
    });
}
