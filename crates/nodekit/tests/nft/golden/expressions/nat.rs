//! Translation of addresses and ports.

use nodekit::nft::{
    BaseChain, Chain, ChainType, Expr, Family, Hook, NatFlags, NatKind, Register, Rule,
};

use super::{R0, R4, immediate, table, tcp};
use crate::golden::{Listing, check};

const PLAIN: NatFlags = NatFlags {
    random: false,
    fully_random: false,
    persistent: false,
};

fn to(kind: NatKind, port: Option<Register>, flags: NatFlags) -> Expr {
    Expr::Nat {
        kind,
        family: Family::Ip,
        address: Some(R0),
        port,
        flags,
    }
}

#[test]
fn both_ends_masquerade_and_redirect() {
    check("nat", Listing::Readable, || {
        let mut batch = table(Family::Ip);
        for (name, hook, priority) in [
            ("prerouting", Hook::Prerouting, -100),
            ("postrouting", Hook::Postrouting, 100),
        ] {
            let base = BaseChain::new(ChainType::Nat, hook, priority);
            batch.add_chain(0, &Chain::base(name, base));
        }
        let address = || immediate(&[10, 0, 0, 1], R0);
        let port = |to| immediate(&8080u16.to_be_bytes(), to);
        let destination = |port| to(NatKind::Destination, port, PLAIN);
        let persistent = NatFlags {
            persistent: true,
            random: true,
            ..PLAIN
        };
        let fully_random = NatFlags {
            fully_random: true,
            ..PLAIN
        };
        let redirect = Expr::Redirect {
            port: Some(R0),
            flags: PLAIN,
        };
        let mut rule = |chain: &str, exprs: Vec<Expr>| batch.add_rule(0, &Rule::new(chain, exprs));
        rule("prerouting", vec![address(), destination(None)]);
        rule(
            "prerouting",
            tcp(&[address(), port(R4), destination(Some(R4))]),
        );
        rule("prerouting", tcp(&[port(R0), redirect]));
        rule(
            "postrouting",
            vec![address(), to(NatKind::Source, None, persistent)],
        );
        rule(
            "postrouting",
            vec![Expr::Masquerade {
                flags: fully_random,
            }],
        );
        rule("postrouting", vec![Expr::Masquerade { flags: PLAIN }]);
        vec![batch]
    });
}
