//! The figures as tables, and what is promised.

use causeway_tests::bars::Bars;
use causeway_tests::figures::Table;
use serde_json::{Value, json};

use crate::contender::{EBPF_MODES, Plane};
use crate::load::Kind;
use crate::rounds::{Measure, Rounds};
use crate::rows::{Road, Row};

/// Of what nobody can be faster than.
const CONNECTIONS: f64 = 0.97;
const THE_REST: f64 = 0.99;
/// Of a few Services' figure, with many.
const FLAT: f64 = 0.97;
/// Of the nftables data plane's connections from outside.
const FROM_OUTSIDE: f64 = 1.2;

/// What each plane did.
pub(crate) fn tables(rounds: &Rounds) -> Vec<Table> {
    let planes = rounds
        .planes()
        .iter()
        .filter(|plane| **plane != Plane::Bare);
    planes.map(|plane| table(rounds, plane)).collect()
}

fn table(rounds: &Rounds, plane: &Plane) -> Table {
    let head = plane.to_string();
    let mut table = Table::new([
        head.as_str(),
        "bare, /s",
        "/s",
        "of bare",
        "p10",
        "p90",
        "by processor time",
        "p10",
        "p90",
    ]);
    for row in rounds.rows(plane) {
        let rate = |plane| number(rounds.rates(plane, row).median(), row.kind);
        let ratio = |measure| {
            let spread = rounds.ratios(plane, &Plane::Bare, row, measure);
            [50, 10, 90].map(|percent| format!("{:.3}", spread.at(percent)))
        };
        let [median, low, high] = ratio(Measure::Rate);
        let [work, work_low, work_high] = ratio(Measure::Work);
        table.row([
            row.to_string(),
            rate(&Plane::Bare),
            rate(plane),
            median,
            low,
            high,
            work,
            work_low,
            work_high,
        ]);
    }
    table
}

fn number(rate: f64, kind: Kind) -> String {
    match kind {
        Kind::Bulk => format!("{:.2} GB", rate / 1e9),
        _ => format!("{rate:.0}"),
    }
}

/// Whether the promises are kept.
pub(crate) fn bars(rounds: &Rounds, measure: Measure) -> Bars {
    let mut bars = Bars::default();
    for plane in rounds.planes() {
        match plane {
            Plane::Own { mode, .. } if EBPF_MODES.contains(&mode.as_str()) => {
                ebpf(rounds, measure, plane, &mut bars);
            }
            Plane::Own { mode, .. } if mode == "nftables" => {
                nftables(rounds, measure, plane, &mut bars);
            }
            _ => {}
        }
    }
    flat(rounds, measure, &mut bars);
    bars
}

fn ebpf(rounds: &Rounds, measure: Measure, plane: &Plane, bars: &mut Bars) {
    for row in rounds.rows(plane) {
        let limit = match (row.road, row.kind) {
            (Road::PortNear | Road::PortFar, _) | (_, Kind::Datagram) => continue,
            (Road::VipNear | Road::VipFar, Kind::Connection) => CONNECTIONS,
            _ => THE_REST,
        };
        let ratios = rounds.ratios(plane, &Plane::Bare, row, measure);
        bars.at_least(format!("{plane}: {row}, of bare"), ratios.median(), limit);
    }
    let Plane::Own { services, .. } = plane else {
        return;
    };
    let other = Plane::Own {
        mode: "nftables".to_owned(),
        services: *services,
    };
    for row in rounds.rows(plane).filter(|row| row.road.is_from_outside()) {
        let ratios = rounds.ratios(plane, &other, row, measure);
        let what = format!("{plane}: {row}, of nftables");
        bars.at_least(what, ratios.median(), FROM_OUTSIDE);
    }
}

fn nftables(rounds: &Rounds, measure: Measure, plane: &Plane, bars: &mut Bars) {
    for row in rounds.rows(plane) {
        let direct = match row.road {
            Road::VipNear => Road::DirectNear,
            Road::VipFar => Road::DirectFar,
            _ => continue,
        };
        let other = Row {
            road: direct,
            ..row
        };
        if !rounds.rows(plane).any(|row| row == other) {
            continue;
        }
        let ratios = rounds.ratios_of_rows(plane, row, other, measure);
        let what = format!("{plane}: {row}, of direct through the same node");
        bars.at_least(what, ratios.median(), CONNECTIONS);
    }
}

/// The number of Services makes no difference.
fn flat(rounds: &Rounds, measure: Measure, bars: &mut Bars) {
    for plane in rounds.planes() {
        let Plane::Own { mode, services } = plane else {
            continue;
        };
        let few = rounds.planes().iter().find(|other| {
            matches!(other, Plane::Own { mode: same, services: fewer } if same == mode && fewer < services)
        });
        let ours = mode == "nftables" || EBPF_MODES.contains(&mode.as_str());
        let Some(few) = few.filter(|_| ours) else {
            continue;
        };
        let rows = rounds.rows(plane);
        for row in rows.filter(|row| row.kind != Kind::Datagram) {
            if matches!(row.road, Road::VipNear | Road::VipFar) {
                let ratio = rounds.ratios(plane, few, row, measure).median();
                let what = format!("{plane}: {row}, of {few}");
                bars.at_least(what, ratio.min(1.0 / ratio), FLAT);
            }
        }
    }
}

/// Everything, for other programs.
pub(crate) fn json(rounds: &Rounds) -> Value {
    let mut all = Vec::new();
    for plane in rounds.planes() {
        for row in rounds.rows(plane) {
            let quantiles = |measure| {
                let spread = rounds.ratios(plane, &Plane::Bare, row, measure);
                json!({"p10": spread.at(10), "median": spread.median(), "p90": spread.at(90)})
            };
            all.push(json!({
                "plane": plane.to_string(),
                "row": row.to_string(),
                "perSecond": rounds.rates(plane, row).median(),
                "ofBare": quantiles(Measure::Rate),
                "ofBareByProcessorTime": quantiles(Measure::Work),
            }));
        }
    }
    all.into()
}
