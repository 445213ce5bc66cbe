//! The promises, and whether they are kept.

use std::fmt;

use crate::figures::Table;

/// What was measured against each limit, in the order in which it was.
#[derive(Debug, Default)]
pub struct Bars(Vec<Bar>);

#[derive(Debug)]
struct Bar {
    what: String,
    side: Side,
    limit: f64,
    figure: f64,
}

/// Where a kept promise's figure is.
#[derive(Clone, Copy, Debug)]
enum Side {
    AtMost,
    AtLeast,
}

impl Bars {
    /// Notes a figure that must not be above its limit.
    pub fn at_most(&mut self, what: impl Into<String>, figure: f64, limit: f64) {
        self.add(what.into(), Side::AtMost, limit, figure);
    }

    /// Notes a figure that must not be below its limit.
    pub fn at_least(&mut self, what: impl Into<String>, figure: f64, limit: f64) {
        self.add(what.into(), Side::AtLeast, limit, figure);
    }

    fn add(&mut self, what: String, side: Side, limit: f64, figure: f64) {
        self.0.push(Bar {
            what,
            side,
            limit,
            figure,
        });
    }

    /// All of them, to read.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["promised", "limit", "measured", ""]);
        for bar in &self.0 {
            let (limit, figure) = (bar.limit, bar.figure);
            let verdict = match bar.side {
                Side::AtMost if figure > limit => "above",
                Side::AtLeast if figure < limit => "below",
                // NaN: there is no figure.
                _ if figure.is_nan() => "not measured",
                _ => "PASS",
            };
            table.row([
                bar.what.clone(),
                format!("{} {limit:.2}", bar.side),
                format!("{figure:.3}"),
                verdict.to_owned(),
            ]);
        }
        table
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtMost => "at most",
            Self::AtLeast => "at least",
        })
    }
}
