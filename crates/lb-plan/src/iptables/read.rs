//! The words of a rule, read back.

use std::iter::Peekable;

use lb_model::Protocol;

use super::name::Chain;
use super::rule::{Counter, Match, Rule, State, Target};

/// Words of one line, quotes taken off; `None` where a quote does not end.
pub(super) fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

/// The rule that `words` describe; the error is the word that is not understood.
pub(super) fn rule(words: &[String]) -> Result<Rule, String> {
    let mut reader = Reader {
        words: words.iter().map(String::as_str).peekable(),
        rule: Rule::new([], Target::Nothing),
    };
    while let Some(word) = reader.words.next() {
        reader.option(word)?;
    }
    Ok(reader.rule)
}

struct Reader<'a, I: Iterator<Item = &'a str>> {
    words: Peekable<I>,
    rule: Rule,
}

impl<'a, I: Iterator<Item = &'a str>> Reader<'a, I> {
    fn option(&mut self, word: &str) -> Result<(), String> {
        let (is, word) = match word {
            "!" => (false, self.next()?),
            word => (true, word),
        };
        let matching = match word {
            "-m" => return self.module(),
            "-j" => return self.target(),
            "-p" => Match::Protocol(protocol(self.next()?)?),
            "-d" => Match::Destination(self.parse()?, is),
            "-s" => Match::Source(self.parse()?, is),
            "-i" => Match::Interface(self.next()?.to_owned(), is),
            "--dport" => Match::Port(self.parse()?),
            other => return Err(other.to_owned()),
        };
        if !is && matches!(matching, Match::Protocol(_) | Match::Port(_)) {
            return Err("!".to_owned());
        }
        self.rule.matches.push(matching);
        Ok(())
    }

    fn module(&mut self) -> Result<(), String> {
        let matching = match self.next()? {
            // Says nothing without -p.
            "tcp" | "udp" | "sctp" => return Ok(()),
            "comment" => {
                self.expect("--comment")?;
                self.rule.comment = self.next()?.to_owned();
                return Ok(());
            }
            "addrtype" => {
                let which = self.next()?;
                self.expect("LOCAL")?;
                match which {
                    "--dst-type" => Match::ToLocal,
                    "--src-type" => Match::FromLocal,
                    other => return Err(other.to_owned()),
                }
            }
            "statistic" => self.chance()?,
            "recent" => self.recent()?,
            "mark" => self.mark()?,
            "conntrack" => self.state()?,
            "nfacct" => self.counter()?,
            other => return Err(other.to_owned()),
        };
        self.rule.matches.push(matching);
        Ok(())
    }

    fn chance(&mut self) -> Result<Match, String> {
        for word in ["--mode", "random", "--probability"] {
            self.expect(word)?;
        }
        let word = self.next()?;
        let probability: f64 = word.parse().map_err(|_| word.to_owned())?;
        let one_in = |count: &usize| format!("{}", Match::OneIn(*count)).ends_with(word);
        let counts = 1..100_000;
        // Ten digits tell one in n from one in n + 1 far beyond what a Service has.
        let count = counts.into_iter().find(one_in);
        count
            .filter(|_| probability > 0.0)
            .map(Match::OneIn)
            .ok_or_else(|| word.to_owned())
    }

    fn recent(&mut self) -> Result<Match, String> {
        self.expect("--name")?;
        let list: Chain = self.parse()?;
        match self.next()? {
            "--set" => Ok(Match::Note(list)),
            "--rcheck" => {
                self.expect("--seconds")?;
                let seconds = self.parse()?;
                self.expect("--reap")?;
                Ok(Match::Noted(list, seconds))
            }
            other => Err(other.to_owned()),
        }
    }

    fn mark(&mut self) -> Result<Match, String> {
        let is = self.words.next_if_eq(&"!").is_none();
        self.expect("--mark")?;
        let word = self.next()?;
        let (value, mask) = word.split_once('/').ok_or_else(|| word.to_owned())?;
        if value != mask {
            return Err(word.to_owned());
        }
        Ok(Match::Marked(bits(mask)?, is))
    }

    fn state(&mut self) -> Result<Match, String> {
        let is = self.words.next_if_eq(&"!").is_none();
        self.expect("--ctstate")?;
        Ok(Match::State(match (self.next()?, is) {
            ("NEW", true) => State::New,
            ("INVALID", true) => State::Invalid,
            ("RELATED,ESTABLISHED", true) => State::Established,
            ("RELATED,ESTABLISHED,DNAT", false) => State::Martian,
            (other, _) => return Err(other.to_owned()),
        }))
    }

    fn counter(&mut self) -> Result<Match, String> {
        self.expect("--nfacct-name")?;
        let name = self.next()?;
        let mut known = Counter::ALL.into_iter();
        known
            .find(|counter| counter.name() == name)
            .map(Match::Counted)
            .ok_or_else(|| name.to_owned())
    }

    fn target(&mut self) -> Result<(), String> {
        self.rule.target = match self.next()? {
            "RETURN" => Target::Return,
            "ACCEPT" => Target::Accept,
            "REJECT" => Target::Reject,
            "DROP" => Target::Drop,
            "MASQUERADE" => {
                self.expect("--random-fully")?;
                Target::Masquerade
            }
            "DNAT" => {
                self.expect("--to-destination")?;
                Target::Translate(self.parse()?)
            }
            "MARK" => match self.next()? {
                "--or-mark" => Target::SetMark(bits(self.next()?)?),
                "--xor-mark" => Target::FlipMark(bits(self.next()?)?),
                other => return Err(other.to_owned()),
            },
            chain => Target::Jump(chain.parse().map_err(|_| chain.to_owned())?),
        };
        Ok(())
    }

    fn next(&mut self) -> Result<&'a str, String> {
        self.words.next().ok_or_else(|| "the end".to_owned())
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        match self.next()? {
            found if found == word => Ok(()),
            other => Err(other.to_owned()),
        }
    }

    fn parse<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.next()?;
        word.parse().map_err(|_| word.to_owned())
    }
}

fn protocol(word: &str) -> Result<Protocol, String> {
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    known
        .into_iter()
        .find(|protocol| protocol.to_string() == word)
        .ok_or_else(|| word.to_owned())
}

fn bits(word: &str) -> Result<u32, String> {
    let digits = word.strip_prefix("0x").ok_or_else(|| word.to_owned())?;
    u32::from_str_radix(digits, 16).map_err(|_| word.to_owned())
}
