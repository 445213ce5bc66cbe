//! What is known about a packet, and numbers.

use nodekit::nft::{
    ByteorderOp, Datatype, Expr, Family, MapData, MetaKey, NumgenKind, Set, Value, Verdict,
};

use super::{R0, accept, chain, table};
use crate::golden::{Listing, check};

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

/// nft itself writes these only inside of others.
#[test]
fn numbers_are_generated_swapped_and_compared() {
    check("numgen", Listing::ShownOnly, || {
        let mut batch = table(Family::Ip);
        batch.add_set(0, &Set::map("m", Datatype::Mark, MapData::Verdict));
        let numgen = |kind, modulus, offset| {
            let to = R0;
            vec![
                Expr::Numgen {
                    kind,
                    modulus,
                    offset,
                    to,
                },
                Expr::vmap("m", R0),
            ]
        };
        let op = ByteorderOp::HostToNetwork;
        let swap = Expr::Byteorder {
            from: R0,
            to: R0,
            op,
            len: 4,
            size: 4,
        };
        let (low, high) = (
            Value::new(&5u32.to_be_bytes()),
            Value::new(&9u32.to_be_bytes()),
        );
        let range = Expr::Range {
            inverted: false,
            from: R0,
            low,
            high,
        };
        let rules = vec![
            numgen(NumgenKind::Random, 3, 32_768),
            numgen(NumgenKind::Incremental, 2, 0),
            vec![meta(MetaKey::Mark), swap, range, accept()],
        ];
        chain(&mut batch, "c", rules);
        vec![batch]
    });
}
