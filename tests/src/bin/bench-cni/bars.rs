//! The promises, and whether they are kept.

use causeway_tests::figures::Table;

/// What was measured against each limit, in the order in which it was.
#[derive(Debug, Default)]
pub(crate) struct Bars(Vec<(String, f64, f64)>);

impl Bars {
    /// Notes a figure that must not be above its limit.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, figure: f64, limit: f64) {
        self.0.push((what.into(), figure, limit));
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(["promised", "at most", "measured", ""]);
        for (what, figure, limit) in &self.0 {
            let verdict = if figure <= limit { "PASS" } else { "above" };
            let cells = [format!("{limit:.2}"), format!("{figure:.2}")];
            let [limit, figure] = cells;
            table.row([what.clone(), limit, figure, verdict.to_owned()]);
        }
        table
    }
}
