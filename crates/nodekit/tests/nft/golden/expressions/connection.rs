//! Tracked connections and routes.

use nodekit::nft::{CtDirection, CtKey, Expr, Family, FibResult, FibSource, Value};

use super::{R0, accept, chain, immediate, table, tcp};
use crate::golden::{Listing, check};

fn ct(key: CtKey, direction: Option<CtDirection>) -> Expr {
    Expr::Ct {
        key,
        direction,
        to: R0,
    }
}

fn equal(number: u32) -> Expr {
    Expr::equal(R0, Value::host_u32(number))
}

#[test]
fn states_marks_and_tuples() {
    check("ct", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let any_of = |bits| {
            [
                Expr::mask_xor(R0, bits, 0),
                Expr::differs(R0, Value::host_u32(0)),
            ]
        };
        let bits = |key, bits| [&[ct(key, None)][..], &any_of(bits), &[accept()]].concat();
        let set_mark = || Expr::CtSet {
            key: CtKey::Mark,
            from: R0,
        };
        let address = || Expr::equal(R0, Value::new(&[10, 0, 0, 1]));
        let reply = ct(CtKey::DstIp, Some(CtDirection::Reply));
        let rules = vec![
            bits(CtKey::State, 8),
            bits(CtKey::Status, 0x20),
            vec![ct(CtKey::Mark, None), set_mark()],
            vec![immediate(&9u32.to_ne_bytes(), R0), set_mark()],
            vec![Expr::ct_original(CtKey::SrcIp, R0), address(), accept()],
            vec![reply, address(), accept()],
        ];
        chain(&mut batch, "c", rules);
        vec![batch]
    });
}

/// nft knows ports only behind the protocol.
#[test]
fn ports_of_tuples_and_both_families() {
    check("ct-tuple", Listing::Readable, || {
        let mut batch = table(Family::Inet);
        let port = || Expr::equal(R0, Value::new(&53u16.to_be_bytes()));
        let address = || Expr::equal(R0, Value::new(&[0xfd; 16]));
        let original = |key| Expr::ct_original(key, R0);
        let protocol = Expr::equal(R0, Value::new(&[17]));
        let rules = vec![
            vec![original(CtKey::Protocol), protocol, accept()],
            tcp(&[original(CtKey::ProtoSrc), port(), accept()]),
            tcp(&[original(CtKey::ProtoDst), port(), accept()]),
            vec![original(CtKey::SrcIp6), address(), accept()],
            vec![original(CtKey::DstIp6), address(), accept()],
        ];
        chain(&mut batch, "c", rules);
        vec![batch]
    });
}

#[test]
fn routes() {
    check("fib", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        let fib = |source, result| Expr::Fib {
            source,
            result,
            to: R0,
        };
        let none = FibSource::default();
        let daddr = FibSource {
            daddr: true,
            ..none
        };
        let saddr = FibSource {
            saddr: true,
            iif: true,
            ..none
        };
        let marked = FibSource {
            saddr: true,
            mark: true,
            ..none
        };
        let name = Expr::equal(R0, Value::interface("eth0"));
        let rules = vec![
            vec![
                Expr::source_address_type(R0),
                equal(FibResult::LOCAL),
                accept(),
            ],
            vec![
                fib(daddr, FibResult::AddressType),
                equal(FibResult::LOCAL),
                accept(),
            ],
            vec![fib(saddr, FibResult::Oif), equal(1), accept()],
            vec![fib(marked, FibResult::Oifname), name, accept()],
        ];
        chain(&mut batch, "c", rules);
        vec![batch]
    });
}
