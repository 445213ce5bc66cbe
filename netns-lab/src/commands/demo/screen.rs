//! How the story looks: colours and bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;

/// Width of a bar of 100 %, in characters.
const BAR: usize = 40;
/// Width of the word a step begins with.
const WORD: usize = 9;

/// Where the story is told, and how many of its claims were wrong.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    wrong: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            wrong: 0,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.terminal {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    pub(super) fn title(&self, text: &str) {
        println!("\n{}", self.paint("1;36", text));
    }

    pub(super) fn heading(&self, text: &str) {
        println!("\n{}\n", self.paint("1", text));
    }

    /// A step of something that happened, with the word for it.
    pub(super) fn step(&self, word: &str, text: &str) {
        println!("  {} {text}", self.paint("33", &format!("{word:<WORD$}")));
    }

    /// What belongs to the step before.
    pub(super) fn more(&self, text: &str) {
        println!("  {:WORD$} {text}", "");
    }

    /// What a reader should know.
    pub(super) fn text(&self, text: &str) {
        println!("  {}", self.paint("2", text));
    }

    pub(super) fn drawing(&self, lines: &[String]) {
        for line in lines {
            println!("  {}", self.paint("34", line));
        }
    }

    pub(super) fn suggestion(&self, what: &str, command: &str) {
        println!("  {}\n      {command}", self.paint("2", what));
    }

    /// Something that was checked.
    pub(super) fn claim(&mut self, holds: bool, text: &str) {
        let (mark, colour) = match (holds, self.terminal) {
            (true, true) => ("✓", "32"),
            (false, true) => ("✗", "1;31"),
            (true, false) => ("ok:", ""),
            (false, false) => ("WRONG:", ""),
        };
        self.wrong += usize::from(!holds);
        println!("  {} {text}", self.paint(colour, mark));
    }

    /// A share of a whole.
    pub(super) fn share(&self, name: &str, count: usize, whole: usize) {
        let percent = 100.0 * count_as_f64(count) / count_as_f64(whole.max(1));
        let bar = match self.terminal {
            true => self.paint("34", &"█".repeat(BAR * count / whole.max(1))),
            false => "#".repeat(BAR * count / whole.max(1)),
        };
        println!("  {name:<34} {count:>4}  {percent:>5.1} %  {bar}");
    }

    pub(super) fn wrong_claims(&self) -> usize {
        self.wrong
    }
}

/// Counts here are some hundreds.
fn count_as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
