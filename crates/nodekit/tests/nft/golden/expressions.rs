//! Each kind of expression.

use std::time::Duration;

use nodekit::nft::{
    BaseChain, Batch, BitwiseOperand, ByteorderOp, Chain, ChainType, CmpOp, CtDirection, CtKey,
    Datatype, DynsetOp, Expr, Family, FibResult, FibSource, Hook, LimitUnit, MapData, MetaKey,
    NatFlags, NatKind, NumgenKind, PayloadBase, Register, Reject, Rule, Set, SetFlags, Table,
    Value, Verdict,
};

use super::{Listing, check};

const R0: Register = Register::word(0);
/// Where nft itself puts a second value.
const R4: Register = Register::word(4);

fn table(family: Family) -> Batch {
    let mut batch = Batch::new(family, "t");
    batch.add_table(0, &Table::default());
    batch
}

fn chain(batch: &mut Batch, name: &str, rules: Vec<Vec<Expr>>) {
    batch.add_chain(0, &Chain::regular(name));
    for exprs in rules {
        batch.add_rule(0, &Rule::new(name, exprs));
    }
}

fn meta(key: MetaKey) -> Expr {
    Expr::Meta { key, to: R0 }
}

#[test]
fn meta_and_comparisons() {
    check("meta", Listing::Readable, || {
        let mut batch = table(Family::Inet);
        let name = Value::interface("eth0");
        let mark = || meta(MetaKey::Mark);
        let number = |n: u32| Value::host_u32(n);
        let drop = || Expr::Verdict(Verdict::Drop);
        chain(
            &mut batch,
            "c",
            vec![
                vec![
                    meta(MetaKey::Iifname),
                    Expr::equal(R0, name.clone()),
                    drop(),
                ],
                vec![meta(MetaKey::Oifname), Expr::differs(R0, name), drop()],
                // `iifname "veth*"`: only the bytes before the star are compared.
                vec![
                    meta(MetaKey::Iifname),
                    Expr::equal(R0, Value::new(b"veth")),
                    drop(),
                ],
                vec![meta(MetaKey::Iif), Expr::equal(R0, number(1)), drop()],
                vec![meta(MetaKey::Oif), Expr::equal(R0, number(1)), drop()],
                vec![
                    meta(MetaKey::Nfproto),
                    Expr::equal(R0, Value::new(&[2])),
                    drop(),
                ],
                vec![Expr::l4proto(R0), Expr::equal(R0, Value::new(&[6])), drop()],
                vec![
                    mark(),
                    Expr::mask_xor(R0, 0x4000, 0),
                    Expr::differs(R0, number(0)),
                    drop(),
                ],
                vec![
                    mark(),
                    Expr::mask_xor(R0, !0x4000, 0x4000),
                    Expr::MetaSet {
                        key: MetaKey::Mark,
                        from: R0,
                    },
                ],
                vec![
                    Expr::Immediate {
                        value: number(7),
                        to: R0,
                    },
                    Expr::MetaSet {
                        key: MetaKey::Mark,
                        from: R0,
                    },
                ],
            ],
        );
        vec![batch]
    });
}

#[test]
fn payload_masks_and_ranges() {
    check("payload", Listing::Readable, || {
        let mut v4 = table(Family::Ip);
        let port = || Expr::destination_port(R0);
        let tcp = || [Expr::l4proto(R0), Expr::equal(R0, Value::new(&[6]))];
        let compared = |op, value: u16| Expr::Cmp {
            op,
            from: R0,
            value: Value::new(&value.to_be_bytes()),
        };
        let address = || Expr::source_address(Family::Ip, R0);
        let mut rules = vec![
            vec![address(), Expr::equal(R0, Value::new(&[10, 0, 0, 1]))],
            vec![
                address(),
                Expr::mask_prefix(R0, 20, 4),
                Expr::differs(R0, Value::new(&[10, 1, 16, 0])),
            ],
            vec![
                Expr::destination_address(Family::Ip, R0),
                Expr::Range {
                    inverted: true,
                    from: R0,
                    low: Value::new(&[10, 0, 0, 1]),
                    high: Value::new(&[10, 0, 0, 9]),
                },
            ],
        ];
        for (op, value) in [
            (CmpOp::Lt, 80),
            (CmpOp::Le, 81),
            (CmpOp::Gt, 82),
            (CmpOp::Ge, 83),
        ] {
            rules.push([&tcp()[..], &[port(), compared(op, value)]].concat());
        }
        for rule in &mut rules {
            rule.push(Expr::Counter {
                packets: 0,
                bytes: 0,
            });
        }
        chain(&mut v4, "c", rules);
        let mut v6 = table(Family::Ip6);
        let local = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        chain(
            &mut v6,
            "c",
            vec![
                vec![
                    Expr::source_address(Family::Ip6, R0),
                    Expr::equal(R0, Value::new(&local)),
                ],
                vec![
                    Expr::destination_address(Family::Ip6, R0),
                    Expr::mask_prefix(R0, 63, 16),
                    Expr::equal(R0, Value::new(&local)),
                ],
            ],
        );
        vec![v4, v6]
    });
}

#[test]
fn verdicts_and_comments() {
    check("verdicts", Listing::Readable, || {
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(
            0,
            &Table {
                comment: Some("layout 1, mark 0x4000".into()),
            },
        );
        batch.add_chain(
            0,
            &Chain {
                comment: Some("where to".into()),
                ..Chain::regular("to")
            },
        );
        let base = BaseChain::new(ChainType::Filter, Hook::Forward, -5);
        batch.add_chain(0, &Chain::base("forward", base));
        let verdicts = [
            Verdict::Jump("to".into()),
            Verdict::Goto("to".into()),
            Verdict::Return,
            Verdict::Continue,
            Verdict::Drop,
            Verdict::Accept,
        ];
        for verdict in verdicts {
            let comment = Some(format!("{verdict:?}").to_lowercase().replace('"', "'"));
            let exprs = vec![Expr::Verdict(verdict)];
            batch.add_rule(
                0,
                &Rule {
                    chain: "forward".into(),
                    exprs,
                    comment,
                },
            );
        }
        vec![batch]
    });
}

#[test]
fn nat() {
    check("nat", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let pre = BaseChain::new(ChainType::Nat, Hook::Prerouting, -100);
        batch.add_chain(0, &Chain::base("prerouting", pre));
        let post = BaseChain::new(ChainType::Nat, Hook::Postrouting, 100);
        batch.add_chain(0, &Chain::base("postrouting", post));
        let address = || Expr::Immediate {
            value: Value::new(&[10, 0, 0, 1]),
            to: R0,
        };
        let port = || Expr::Immediate {
            value: Value::new(&8080u16.to_be_bytes()),
            to: R4,
        };
        let tcp = || [Expr::l4proto(R0), Expr::equal(R0, Value::new(&[6]))];
        let to = |kind, port, flags| Expr::Nat {
            kind,
            family: Family::Ip,
            address: Some(R0),
            port,
            flags,
        };
        let plain = NatFlags::default();
        let fully_random = NatFlags {
            fully_random: true,
            ..plain
        };
        let persistent = NatFlags {
            persistent: true,
            random: true,
            ..plain
        };
        let mut rule = |chain: &str, exprs: &[Expr]| {
            batch.add_rule(0, &Rule::new(chain, exprs.to_vec()));
        };
        rule(
            "prerouting",
            &[address(), to(NatKind::Destination, None, plain)],
        );
        rule(
            "prerouting",
            &[
                &tcp()[..],
                &[address(), port(), to(NatKind::Destination, Some(R4), plain)],
            ]
            .concat(),
        );
        rule(
            "prerouting",
            &[
                &tcp()[..],
                &[
                    Expr::Immediate {
                        value: Value::new(&8080u16.to_be_bytes()),
                        to: R0,
                    },
                    Expr::Redirect {
                        port: Some(R0),
                        flags: plain,
                    },
                ],
            ]
            .concat(),
        );
        rule(
            "postrouting",
            &[address(), to(NatKind::Source, None, persistent)],
        );
        rule(
            "postrouting",
            &[Expr::Masquerade {
                flags: fully_random,
            }],
        );
        rule("postrouting", &[Expr::Masquerade { flags: plain }]);
        vec![batch]
    });
}

#[test]
fn connections_and_routes() {
    check("ct-fib", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let ct = |key| Expr::Ct {
            key,
            direction: None,
            to: R0,
        };
        let local = || Expr::equal(R0, Value::host_u32(FibResult::LOCAL));
        let daddr = FibSource {
            daddr: true,
            ..FibSource::default()
        };
        let saddr = FibSource {
            saddr: true,
            iif: true,
            ..FibSource::default()
        };
        chain(
            &mut batch,
            "c",
            vec![
                vec![
                    ct(CtKey::State),
                    Expr::mask_xor(R0, 8, 0),
                    Expr::differs(R0, Value::host_u32(0)),
                ],
                vec![
                    ct(CtKey::Status),
                    Expr::mask_xor(R0, 0x20, 0),
                    Expr::differs(R0, Value::host_u32(0)),
                ],
                vec![
                    ct(CtKey::Mark),
                    Expr::CtSet {
                        key: CtKey::Mark,
                        from: R0,
                    },
                ],
                vec![
                    Expr::Immediate {
                        value: Value::host_u32(9),
                        to: R0,
                    },
                    Expr::CtSet {
                        key: CtKey::Mark,
                        from: R0,
                    },
                ],
                vec![
                    Expr::ct_original(CtKey::SrcIp, R0),
                    Expr::equal(R0, Value::new(&[10, 0, 0, 1])),
                ],
                vec![
                    Expr::Ct {
                        key: CtKey::DstIp,
                        direction: Some(CtDirection::Reply),
                        to: R0,
                    },
                    Expr::equal(R0, Value::new(&[10, 0, 0, 1])),
                ],
                vec![Expr::source_address_type(R0), local()],
                vec![
                    Expr::Fib {
                        source: daddr,
                        result: FibResult::AddressType,
                        to: R0,
                    },
                    local(),
                ],
                vec![
                    Expr::Fib {
                        source: saddr,
                        result: FibResult::Oif,
                        to: R0,
                    },
                    Expr::equal(R0, Value::host_u32(1)),
                ],
            ]
            .into_iter()
            .map(|mut rule| {
                if !rule.iter().any(|expr| matches!(expr, Expr::CtSet { .. })) {
                    rule.push(Expr::Verdict(Verdict::Accept));
                }
                rule
            })
            .collect(),
        );
        vec![batch]
    });
}

#[test]
fn rejects_limits_and_counters() {
    check("reject", Listing::Readable, || {
        let mut v4 = table(Family::Ip);
        let limit = |inverted| Expr::Limit {
            rate: 10,
            unit: LimitUnit::Minute,
            burst: 5,
            inverted,
        };
        chain(
            &mut v4,
            "c",
            vec![
                vec![Expr::Reject(Reject::Icmp(3))],
                vec![
                    Expr::l4proto(R0),
                    Expr::equal(R0, Value::new(&[6])),
                    Expr::Reject(Reject::TcpReset),
                ],
                vec![limit(false), Expr::Verdict(Verdict::Accept)],
                vec![limit(true), Expr::Verdict(Verdict::Drop)],
                vec![Expr::Counter {
                    packets: 3,
                    bytes: 180,
                }],
            ],
        );
        let mut inet = table(Family::Inet);
        chain(&mut inet, "c", vec![vec![Expr::Reject(Reject::Icmpx(1))]]);
        vec![v4, inet]
    });
}

#[test]
fn dynamic_sets() {
    check("dynset", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let flags = SetFlags {
            dynamic: true,
            timeout: true,
            ..SetFlags::default()
        };
        batch.add_set(
            0,
            &Set {
                flags,
                size: Some(512),
                ..Set::new("seen", Datatype::Ipv4Addr)
            },
        );
        let data = MapData::Value(Datatype::InetService.into());
        batch.add_set(
            0,
            &Set {
                flags,
                size: Some(512),
                timeout: Some(Duration::from_secs(90)),
                ..Set::map("ports", Datatype::Ipv4Addr, data)
            },
        );
        let dynset = |op, set: &str, data, seconds: Option<u64>| Expr::Dynset {
            op,
            set: set.into(),
            key: R0,
            data,
            timeout: seconds.map(Duration::from_secs),
        };
        let saddr = || Expr::source_address(Family::Ip, R0);
        chain(
            &mut batch,
            "c",
            vec![
                vec![saddr(), dynset(DynsetOp::Add, "seen", None, Some(5))],
                vec![
                    saddr(),
                    dynset(DynsetOp::Update, "seen", None, Some(10_800)),
                ],
                vec![saddr(), dynset(DynsetOp::Delete, "seen", None, None)],
                vec![
                    saddr(),
                    Expr::destination_port(R4),
                    dynset(DynsetOp::Update, "ports", Some(R4), None),
                ],
            ],
        );
        vec![batch]
    });
}

/// Forms that nft itself writes only inside of others.
#[test]
fn registers_are_swapped_numbered_and_compared() {
    check("numgen", Listing::ShownOnly, || {
        let mut batch = table(Family::Ip);
        batch.add_set(0, &Set::map("m", Datatype::Mark, MapData::Verdict));
        chain(
            &mut batch,
            "c",
            vec![
                vec![
                    Expr::Numgen {
                        kind: NumgenKind::Random,
                        modulus: 3,
                        offset: 32_768,
                        to: R0,
                    },
                    Expr::vmap("m", R0),
                ],
                vec![
                    Expr::Numgen {
                        kind: NumgenKind::Incremental,
                        modulus: 2,
                        offset: 0,
                        to: R0,
                    },
                    Expr::vmap("m", R0),
                ],
                vec![
                    Expr::Meta {
                        key: MetaKey::Mark,
                        to: R0,
                    },
                    Expr::Byteorder {
                        from: R0,
                        to: R0,
                        op: ByteorderOp::HostToNetwork,
                        len: 4,
                        size: 4,
                    },
                    Expr::Range {
                        inverted: false,
                        from: R0,
                        low: Value::new(&5u32.to_be_bytes()),
                        high: Value::new(&9u32.to_be_bytes()),
                    },
                    Expr::Verdict(Verdict::Accept),
                ],
                vec![
                    Expr::Payload {
                        base: PayloadBase::Link,
                        offset: 6,
                        len: 6,
                        to: R0,
                    },
                    Expr::Bitwise {
                        from: R0,
                        to: R4,
                        operand: BitwiseOperand {
                            mask: Value::new(&[0xff, 0xff, 0xff, 0, 0, 0]),
                            xor: Value::new(&[0; 6]),
                        },
                    },
                    Expr::equal(R4, Value::new(&[2, 0, 0, 0, 0, 0])),
                    Expr::Verdict(Verdict::Accept),
                ],
            ],
        );
        vec![batch]
    });
}
