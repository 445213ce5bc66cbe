//! Sets changed by rules.

use std::time::Duration;

use nodekit::nft::{Datatype, DynsetOp, Expr, Family, MapData, Set, SetFlags};

use super::{R0, R4, chain, table};
use crate::golden::{Listing, check};

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
