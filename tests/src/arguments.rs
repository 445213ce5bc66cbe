//! The command lines of the benchmarks: options, each with a value.

use anyhow::{Context, bail};

/// What was given, in its order; `None` where help was asked for.
///
/// # Errors
/// The last option has no value.
pub fn options() -> anyhow::Result<Option<Vec<(String, String)>>> {
    let mut given = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--help" {
            return Ok(None);
        }
        let value = arguments
            .next()
            .with_context(|| format!("{name}: a value belongs to it"))?;
        given.push((name, value));
    }
    Ok(Some(given))
}

/// A count that must not be 0.
///
/// # Errors
/// It is none.
pub fn number(text: &str) -> anyhow::Result<usize> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{text:?}: accepted is a whole number above 0"),
    }
}
