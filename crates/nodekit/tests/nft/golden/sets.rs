//! Each kind of set, map and element.

use std::time::Duration;

use nodekit::nft::{
    Batch, ByteorderOp, Chain, Data, Datatype, Element, Expr, Family, MapData, Register, Rule, Set,
    SetFlags, Table, Type, Value, Verdict,
};

use super::{Listing, check};

const R0: Register = Register::word(0);

fn table(family: Family) -> Batch {
    let mut batch = Batch::new(family, "t");
    batch.add_table(0, &Table::default());
    batch.add_chain(0, &Chain::regular("to"));
    batch
}

#[test]
fn sets_of_every_type() {
    check("sets", Listing::Readable, || {
        let mut batch = table(Family::Inet);
        let mut set = |name: &str, key: Datatype, value: Value| {
            batch.add_set(
                0,
                &Set {
                    comment: Some(name.to_uppercase()),
                    ..Set::new(name, key)
                },
            );
            batch.add_elements(0, name, [Element::new(value)]);
        };
        set("of-v4", Datatype::Ipv4Addr, Value::new(&[10, 0, 0, 1]));
        set("of-v6", Datatype::Ipv6Addr, Value::new(&[0xfd; 16]));
        set(
            "of-ether",
            Datatype::EtherAddr,
            Value::new(&[2, 0, 0, 0, 0, 1]),
        );
        set("of-proto", Datatype::InetProto, Value::new(&[132]));
        set(
            "of-service",
            Datatype::InetService,
            Value::new(&443u16.to_be_bytes()),
        );
        set("of-mark", Datatype::Mark, Value::host_u32(0x4000));
        set("of-index", Datatype::InterfaceIndex, Value::host_u32(1));
        set("of-name", Datatype::InterfaceName, Value::interface("eth0"));
        vec![batch]
    });
}

#[test]
fn intervals_timeouts_and_sizes() {
    check("set-flags", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let interval = SetFlags {
            interval: true,
            ..SetFlags::default()
        };
        batch.add_set(
            0,
            &Set {
                flags: interval,
                ..Set::new("range", Datatype::Ipv4Addr)
            },
        );
        let end = Element {
            interval_end: true,
            ..Element::new(Value::new(&[11, 0, 0, 0]))
        };
        let start = Element {
            comment: Some("pods".into()),
            ..Element::new(Value::new(&[10, 0, 0, 0]))
        };
        // As nft does: an end at the very beginning, unless a range begins there.
        let zero = Element {
            interval_end: true,
            ..Element::new(Value::new(&[0; 4]))
        };
        batch.add_elements(0, "range", [zero, start, end]);
        let timeout = SetFlags {
            timeout: true,
            ..SetFlags::default()
        };
        batch.add_set(
            0,
            &Set {
                flags: timeout,
                timeout: Some(Duration::from_secs(3600)),
                size: Some(100),
                ..Set::new("short", Datatype::InetService)
            },
        );
        let constant = SetFlags {
            constant: true,
            ..SetFlags::default()
        };
        batch.add_set(
            0,
            &Set {
                flags: constant,
                ..Set::new("fixed", Datatype::InetService)
            },
        );
        batch.add_elements(0, "fixed", [Element::new(Value::new(&53u16.to_be_bytes()))]);
        vec![batch]
    });
}

#[test]
fn concatenated_ranges() {
    check("source-ranges", Listing::Readable, || {
        let fields = [
            Datatype::Ipv4Addr,
            Datatype::InetProto,
            Datatype::InetService,
            Datatype::Ipv4Addr,
        ];
        let flags = SetFlags {
            interval: true,
            ..SetFlags::default()
        };
        let mut batch = table(Family::Ip);
        batch.add_set(
            0,
            &Set {
                flags,
                ..Set::new("ranges", Type::from(fields))
            },
        );
        let key = |source: [u8; 4]| {
            Value::concat(&[&[10, 0, 0, 1], &[6], &443u16.to_be_bytes(), &source])
        };
        batch.add_elements(
            0,
            "ranges",
            [Element {
                key_end: Some(key([192, 0, 2, 255])),
                ..Element::new(key([192, 0, 2, 0]))
            }],
        );
        let proto = Register::word(1);
        batch.add_rule(
            0,
            &Rule::new(
                "to",
                vec![
                    Expr::destination_address(Family::Ip, Register::word(0)),
                    Expr::l4proto(proto),
                    // nft's own, in ranges: it changes nothing of a single byte.
                    Expr::Byteorder {
                        from: proto,
                        to: proto,
                        op: ByteorderOp::HostToNetwork,
                        len: 1,
                        size: 2,
                    },
                    Expr::destination_port(Register::word(2)),
                    Expr::source_address(Family::Ip, Register::word(3)),
                    Expr::not_in_set("ranges", R0),
                    Expr::Verdict(Verdict::Drop),
                ],
            ),
        );
        vec![batch]
    });
}

#[test]
fn maps_and_verdict_maps() {
    check("maps", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let port = |n: u16| Value::new(&n.to_be_bytes());
        batch.add_set(
            0,
            &Set::map("verdicts", Datatype::InetService, MapData::Verdict),
        );
        let verdicts = [
            Verdict::Accept,
            Verdict::Drop,
            Verdict::Continue,
            Verdict::Return,
            Verdict::Jump("to".into()),
            Verdict::Goto("to".into()),
        ];
        batch.add_elements(
            0,
            "verdicts",
            (1u16..)
                .zip(verdicts)
                .map(|(n, verdict)| Element::to(port(n), Data::Verdict(verdict))),
        );
        let data = MapData::Value([Datatype::Ipv4Addr, Datatype::InetService].into());
        batch.add_set(0, &Set::map("addresses", Datatype::InetService, data));
        let value = Value::concat(&[&[10, 0, 0, 1], &8080u16.to_be_bytes()]);
        batch.add_elements(0, "addresses", [Element::to(port(80), Data::Value(value))]);
        let flags = SetFlags {
            timeout: true,
            ..SetFlags::default()
        };
        let data = MapData::Value(Datatype::Mark.into());
        batch.add_set(
            0,
            &Set {
                flags,
                ..Set::map("marks", Datatype::Mark, data)
            },
        );
        batch.add_chain(0, &Chain::regular("c"));
        batch.add_rule(
            0,
            &Rule::new(
                "c",
                vec![Expr::destination_port(R0), Expr::vmap("verdicts", R0)],
            ),
        );
        vec![batch]
    });
}
