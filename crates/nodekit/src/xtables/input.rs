//! What `iptables-restore` reads.

use std::borrow::Cow;
use std::fmt::Write;

use super::Table;

/// Input of [`super::Xtables::restore`], table by table.
///
/// ```
/// use nodekit::xtables::{Input, Table};
/// let mut input = Input::default();
/// input.table(Table::Nat);
/// input.chain("MINE"); // made, or emptied
/// input.rule(["-A", "MINE", "-m", "comment", "--comment", "two words", "-j", "RETURN"]);
/// assert_eq!(
///     input.finish(),
///     "*nat\n:MINE - [0:0]\n-A MINE -m comment --comment \"two words\" -j RETURN\nCOMMIT\n"
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct Input {
    text: String,
    open: bool,
}

impl Input {
    /// What follows is about `table`.
    pub fn table(&mut self, table: Table) -> &mut Self {
        self.commit();
        self.text.push('*');
        self.text.push_str(table.name());
        self.text.push('\n');
        self.open = true;
        self
    }

    /// Makes a chain, or empties it.
    pub fn chain(&mut self, name: &str) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, ":{} - [0:0]", quote(name));
        self
    }

    /// A command of `iptables(8)` word by word: `-A CHAIN …`, `-I CHAIN …`, `-D CHAIN …`, `-F CHAIN`,
    /// `-X CHAIN`.
    pub fn rule<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> &mut Self {
        let mut separator = "";
        for word in words {
            self.text.push_str(separator);
            self.text.push_str(&quote(word));
            separator = " ";
        }
        self.text.push('\n');
        self
    }

    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.commit();
        self.text
    }

    fn commit(&mut self) {
        if std::mem::take(&mut self.open) {
            self.text.push_str("COMMIT\n");
        }
    }
}

/// `word` as one word of a restore's line: in quotes where it must be, control characters (which no
/// quoting lets through) as `?`.
#[must_use]
pub fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '#');
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push('?'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_one_word() {
        for (word, quoted) in [
            ("-A", "-A"),
            ("10.0.0.1/32", "10.0.0.1/32"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("a\nCOMMIT", "\"a?COMMIT\""),
            ("# no comment", "\"# no comment\""),
        ] {
            assert_eq!(quote(word), quoted);
        }
    }

    #[test]
    fn each_table_is_committed_once() {
        let mut input = Input::default();
        assert!(input.is_empty());
        input.table(Table::Filter).chain("A");
        input.table(Table::Nat).rule(["-X", "B"]);
        assert_eq!(
            input.finish(),
            "*filter\n:A - [0:0]\nCOMMIT\n*nat\n-X B\nCOMMIT\n"
        );
    }
}
