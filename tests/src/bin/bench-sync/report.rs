//! The figures as tables, with what is promised.

use causeway_tests::bars::Bars;
use causeway_tests::figures::{Figures, Table};

use crate::load::Load;
use crate::rounds::Rounds;

/// What is promised at a load; empty where nothing is.
#[derive(Default)]
struct Limits {
    start: &'static str,
    lists: &'static str,
    programs: &'static str,
    change: &'static str,
    operations: &'static str,
    restart: &'static str,
    memory: &'static str,
}

impl Limits {
    /// SPECIFICATION.md, "Numbers".
    fn of(load: Load, mode: &str) -> Self {
        let size = (load.services, load.endpoints);
        if mode == "ebpf" {
            return Self {
                lists: if size == (10_000, 10) { "1000" } else { "" },
                programs: "300",
                change: "1",
                operations: "4",
                ..Self::default()
            };
        }
        let (start, restart, memory) = match size {
            (10_000, 2) => ("2000", "1500", "45.0"),
            (5_000, 50) => ("4000", "", "110.0"),
            _ => ("", "", ""),
        };
        Self {
            start,
            change: "10",
            operations: "10",
            restart,
            memory,
            ..Self::default()
        }
    }
}

impl Rounds {
    /// Name, median, p90 and limit of everything measured.
    pub(crate) fn table(&mut self, load: Load, mode: &str) -> Table {
        let limits = Limits::of(load, mode);
        let head = load.to_string();
        let mut table = Table::new([head.as_str(), "median", "p90", "limit"]);
        let ms = |name: &str, figures: &mut Figures, limit: &str| {
            let median = format!("{:.2}", figures.median());
            [
                name.to_owned(),
                median,
                figures.quantile(90),
                limit.to_owned(),
            ]
        };
        let failed = [
            "  failed connections".to_owned(),
            format!("{}", self.failed_meanwhile),
            format!("of {}", self.tried_meanwhile),
            "0".to_owned(),
        ];
        let rows = [
            ms("start to last Service, ms", &mut self.start, limits.start),
            ms("  processor time, ms", &mut self.start_processor, ""),
            ms("  lists to kernel, ms", &mut self.lists, limits.lists),
            ms("  programs, ms", &mut self.programs, limits.programs),
            ms("one endpoint, ms", &mut self.change, ""),
            ms(
                "  event to kernel, ms",
                &mut self.change_in_daemon,
                limits.change,
            ),
            count("  operations", &mut self.operations, limits.operations),
            ms("new Service, ms", &mut self.new_service, "20"),
            ms("500 slices, ms after the last", &mut self.burst, "200"),
            ms("  one endpoint of each, ms", &mut self.burst_of_one, "200"),
            ms("restart to a change, ms", &mut self.restart, limits.restart),
            failed,
            mebibytes("resident memory, MiB", &mut self.resident, limits.memory),
            mebibytes("  at its highest, MiB", &mut self.peak, limits.memory),
        ];
        // Not every mode, nor every program, tells everything.
        let measured = rows.into_iter().filter(|[_, median, ..]| median != "NaN");
        measured.for_each(|row| table.row(row));
        table
    }

    /// The medians, in milliseconds and bytes.
    pub(crate) fn json(&mut self) -> serde_json::Value {
        serde_json::json!({
            "medians": self.medians(),
            "failed_connections": self.failed_meanwhile,
            "tried_connections": self.tried_meanwhile,
        })
    }

    /// What can be measured of any program, by its name.
    fn medians(&mut self) -> [(&'static str, f64); 8] {
        [
            ("start to last Service, ms", self.start.median()),
            ("  processor time, ms", self.start_processor.median()),
            ("one endpoint, ms", self.change.median()),
            ("new Service, ms", self.new_service.median()),
            ("500 slices, ms after the last", self.burst.median()),
            ("  one endpoint of each, ms", self.burst_of_one.median()),
            ("restart to a change, ms", self.restart.median()),
            ("resident memory, MiB", mib(at(&mut self.resident, 50))),
        ]
    }
}

/// How many times as much the peer needs at least, in the order of [`Rounds::medians`]
/// (SPECIFICATION.md, "Numbers").
fn promised(load: Load, mode: &str) -> [Option<f64>; 8] {
    match (mode, load.services, load.endpoints) {
        ("nftables", 10_000, 2) => [
            Some(10.0),
            None,
            Some(100.0),
            Some(100.0),
            None,
            None,
            Some(30.0),
            Some(4.0),
        ],
        ("iptables", 1_000, 10) => {
            let start = Some(1.0);
            [start, None, None, None, None, None, None, None]
        }
        _ => [None; 8],
    }
}

/// How many times as much the peer needs.
pub(crate) fn ratios(
    load: Load,
    mode: &str,
    own: &mut Rounds,
    peer: &mut Rounds,
    bars: &mut Bars,
) -> Table {
    let mut table = Table::new(["medians", "causeway", "peer", "times"]);
    for (((name, own), (_, peer)), promised) in own
        .medians()
        .into_iter()
        .zip(peer.medians())
        .zip(promised(load, mode))
    {
        let times = peer / own;
        table.row([
            name.to_owned(),
            format!("{own:.2}"),
            format!("{peer:.2}"),
            format!("{times:.1}"),
        ]);
        if let Some(promised) = promised {
            let (what, _unit) = name.rsplit_once(", ").unwrap_or((name, ""));
            bars.at_least(
                format!("{load} in {mode}: {what}, peer/ours"),
                times,
                promised,
            );
        }
    }
    table.row([
        "  failed connections at a restart".to_owned(),
        format!("{} of {}", own.failed_meanwhile, own.tried_meanwhile),
        format!("{} of {}", peer.failed_meanwhile, peer.tried_meanwhile),
        String::new(),
    ]);
    table
}

fn at(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or_default()
}

fn count(name: &str, values: &mut [u64], limit: &str) -> [String; 4] {
    [
        name.to_owned(),
        at(values, 50).to_string(),
        at(values, 90).to_string(),
        limit.to_owned(),
    ]
}

/// Whole KiB are exact enough.
fn mib(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
    f64::from(kib) / 1024.0
}

fn mebibytes(name: &str, values: &mut [u64], limit: &str) -> [String; 4] {
    [
        name.to_owned(),
        format!("{:.1}", mib(at(values, 50))),
        format!("{:.1}", mib(at(values, 90))),
        limit.to_owned(),
    ]
}
