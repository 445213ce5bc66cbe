//! What the benchmarks print: quantiles, and tables to read.

use std::fmt;
use std::time::Duration;

/// Durations of one kind.
#[derive(Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// Counts one more in.
    pub fn add(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64() * 1e3);
    }

    /// The value below which so many percent are, in milliseconds.
    fn at(&mut self, percent: usize) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The median, in milliseconds; NaN when there are none.
    pub fn median(&mut self) -> f64 {
        self.at(50)
    }

    /// The share of those that took so many milliseconds or more, from 0 to 1.
    pub fn share_from(&self, milliseconds: f64) -> f64 {
        let (mut slow, mut all) = (0.0, 0.0);
        for figure in &self.0 {
            all += 1.0;
            if *figure >= milliseconds {
                slow += 1.0;
            }
        }
        slow / all
    }

    /// The value below which so many percent are, in milliseconds, to two places.
    pub fn quantile(&mut self, percent: usize) -> String {
        format!("{:.2}", self.at(percent))
    }
}

/// Rows of equally many cells; the first is a name, the others are figures.
#[derive(Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with a line of heads.
    pub fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self(vec![heads.map(str::to_owned).to_vec()])
    }

    /// Adds a row, of as many cells as there are heads.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.0
                .iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.0 {
            for (column, cell) in row.iter().enumerate() {
                if column == 0 {
                    write!(f, "{cell:<width$}", width = widths[column])?;
                } else {
                    write!(f, "  {cell:>width$}", width = widths[column])?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
