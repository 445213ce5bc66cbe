//! Rows as people read them.

use std::fmt;

/// A head and rows of `N` cells; each column is as wide as it must be, the last one is left ragged.
#[derive(Debug)]
pub(super) struct Table<const N: usize>(Vec<[String; N]>);

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Self {
        let mut all = vec![head.map(str::to_owned)];
        all.extend(rows);
        Self(all)
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        for row in &self.0 {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line += &format!("{cell:<width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What is not there.
pub(super) fn or_dash(cell: Option<impl ToString>) -> String {
    cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["a", "longer", "x y"], ["abc", "b", ""]];
        let table = Table::new(["A", "B", "C"], rows.map(|row| row.map(str::to_owned)));
        assert_eq!(
            table.to_string(),
            "A    B       C\na    longer  x y\nabc  b\n"
        );
        assert_eq!(or_dash(None::<u32>), "-");
        assert_eq!(or_dash(Some(7)), "7");
    }
}
