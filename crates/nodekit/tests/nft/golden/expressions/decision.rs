//! Verdicts, rejects, limits and counters.

use nodekit::nft::{
    BaseChain, Batch, Chain, ChainType, Expr, Family, Hook, LimitUnit, Reject, Rule, Table, Verdict,
};

use super::{accept, chain, table, tcp};
use crate::golden::{Listing, check};

#[test]
fn verdicts_and_comments() {
    check("verdicts", Listing::Readable, || {
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_table(
            0,
            &Table {
                comment: Some("layout 1, mark 0x4000".into()),
                ..Table::default()
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
fn rejects_limits_and_counters() {
    check("reject", Listing::Readable, || {
        let mut v4 = table(Family::Ip);
        let limit = |inverted| {
            let (rate, unit, burst) = (10, LimitUnit::Minute, 5);
            Expr::Limit {
                rate,
                unit,
                burst,
                inverted,
            }
        };
        let rules = vec![
            vec![Expr::Reject(Reject::Icmp(3))],
            tcp(&[Expr::Reject(Reject::TcpReset)]),
            vec![limit(false), accept()],
            vec![limit(true), Expr::Verdict(Verdict::Drop)],
            vec![Expr::Counter {
                packets: 3,
                bytes: 180,
            }],
        ];
        chain(&mut v4, "c", rules);
        let mut inet = table(Family::Inet);
        chain(&mut inet, "c", vec![vec![Expr::Reject(Reject::Icmpx(1))]]);
        vec![v4, inet]
    });
}
