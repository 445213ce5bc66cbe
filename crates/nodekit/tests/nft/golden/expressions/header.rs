//! Bytes of a packet's headers.

use nodekit::nft::{BitwiseOperand, CmpOp, Expr, Family, PayloadBase, Value};

use super::{R0, R4, accept, chain, table, tcp};
use crate::golden::{Listing, check};

fn v4_rules() -> Vec<Vec<Expr>> {
    let compared = |op, port: u16| {
        let value = Value::new(&port.to_be_bytes());
        tcp(&[
            Expr::destination_port(R0),
            Expr::Cmp {
                op,
                from: R0,
                value,
            },
        ])
    };
    let saddr = || Expr::source_address(Family::Ip, R0);
    let daddr = Expr::destination_address(Family::Ip, R0);
    let address = |last| Value::new(&[10, 0, 0, last]);
    let (low, high) = (address(1), address(9));
    let outside = Expr::Range {
        inverted: true,
        from: R0,
        low,
        high,
    };
    let masked = Expr::mask_prefix(R0, 20, 4);
    let mut rules = vec![
        vec![saddr(), Expr::equal(R0, address(1))],
        vec![
            saddr(),
            masked,
            Expr::differs(R0, Value::new(&[10, 1, 16, 0])),
        ],
        vec![daddr, outside],
        compared(CmpOp::Lt, 80),
        compared(CmpOp::Le, 81),
        compared(CmpOp::Gt, 82),
        compared(CmpOp::Ge, 83),
    ];
    for rule in &mut rules {
        rule.push(Expr::Counter {
            packets: 0,
            bytes: 0,
        });
    }
    rules
}

#[test]
fn addresses_ports_and_ranges() {
    check("payload", Listing::Readable, || {
        let mut v4 = table(Family::Ip);
        chain(&mut v4, "c", v4_rules());
        let mut v6 = table(Family::Ip6);
        let mut local = [0; 16];
        local[0] = 0xfd;
        let equal = || Expr::equal(R0, Value::new(&local));
        let saddr = Expr::source_address(Family::Ip6, R0);
        let daddr = Expr::destination_address(Family::Ip6, R0);
        let masked = Expr::mask_prefix(R0, 63, 16);
        chain(
            &mut v6,
            "c",
            vec![vec![saddr, equal()], vec![daddr, masked, equal()]],
        );
        vec![v4, v6]
    });
}

/// nft lists masked bytes of the link's header as raw ones.
#[test]
fn masked_bytes_of_the_link() {
    check("link", Listing::ShownOnly, || {
        let mut batch = table(Family::Ip);
        let load = Expr::Payload {
            base: PayloadBase::Link,
            offset: 6,
            len: 6,
            to: R0,
        };
        let mask = Value::new(&[0xff, 0xff, 0xff, 0, 0, 0]);
        let operand = BitwiseOperand {
            mask,
            xor: Value::new(&[0; 6]),
        };
        let masked = Expr::Bitwise {
            from: R0,
            to: R4,
            operand,
        };
        let equal = Expr::equal(R4, Value::new(&[2, 0, 0, 0, 0, 0]));
        chain(&mut batch, "c", vec![vec![load, masked, equal, accept()]]);
        vec![batch]
    });
}
