//! What must hold for any listing. Nothing may panic; what is ours is removed, and nothing else.

use std::collections::BTreeSet;

use lb_plan::iptables::{Chain, Listing, Table};

/// What `iptables-save` wrote.
pub(crate) fn listing(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    removes_what_is_ours(&text, Listing::removal);
    removes_what_is_ours(&text, Listing::ipvs_removal);
}

fn removes_what_is_ours(text: &str, removal: fn(&Listing) -> Option<String>) {
    let found = heard(text);
    let Some(input) = removal(&found) else {
        return;
    };
    // Three lines for a chain, one for a rule, two for a table.
    assert!(input.len() <= 4 * text.len() + 200, "{input}");
    let removed = Removed::by(&input);
    for (_, chain) in &removed.emptied {
        assert!(is_ours(chain) && text.contains(chain), "{input}");
    }
    assert!(removed.chains.is_subset(&removed.emptied), "{input}");
    let after = removed.from(text);
    assert_eq!(removal(&heard(&after)), None, "{text}{input}");
}

fn heard(text: &str) -> Listing {
    let mut found = Listing::default();
    lines(text).for_each(|line| found.line(line));
    found
}

/// As nodekit hands them over.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').map(str::trim_end)
}

/// What an input takes away, each with its table.
#[derive(Default)]
struct Removed<'a> {
    emptied: BTreeSet<(&'a str, &'a str)>,
    rules: BTreeSet<(&'a str, &'a str)>,
    chains: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Removed<'a> {
    fn by(removal: &'a str) -> Self {
        let mut all = Self::default();
        let mut table = None;
        for line in removal.lines() {
            if let Some(name) = line.strip_prefix('*') {
                assert_eq!(table.replace(name), None, "{removal}");
                assert!(Table::ALL.iter().any(|table| table.name() == name));
                continue;
            }
            let name = table.expect("a table before its lines");
            let chain = line
                .strip_prefix(':')
                .and_then(|rest| rest.strip_suffix(" - [0:0]"));
            if line == "COMMIT" {
                table = None;
            } else if let Some(rule) = line.strip_prefix("-D ") {
                all.rules.insert((name, rule));
            } else if let Some(chain) = line.strip_prefix("-X ") {
                all.chains.insert((name, chain));
            } else {
                all.emptied.insert((name, chain.expect("a chain")));
            }
        }
        assert_eq!(table, None, "{removal}");
        all
    }

    /// What is left of a listing; all rules that are removed must be there.
    fn from(&self, text: &str) -> String {
        let mut missing: BTreeSet<(&str, &str)> = self.rules.clone();
        let (mut table, mut left) = ("", String::new());
        for line in lines(text) {
            table = line.strip_prefix('*').unwrap_or(table);
            let word = |rest: &'_ str| rest.split(' ').next().unwrap_or_default().to_owned();
            let chain = line.strip_prefix(':').map(word);
            let rule = line.strip_prefix("-A ");
            let from = rule.map(word);
            let rule = rule.map(|rule| (table, rule));
            if let Some(rule) = &rule {
                missing.remove(rule);
            }
            let goes = rule.is_some_and(|rule| self.rules.contains(&rule))
                || chain.is_some_and(|chain| self.chains.contains(&(table, &chain)))
                || from.is_some_and(|from| self.emptied.contains(&(table, &from)));
            if !goes {
                left.push_str(line);
                left.push('\n');
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
        left
    }
}

fn is_ours(chain: &str) -> bool {
    let chain = chain.parse::<Chain>();
    chain.is_ok_and(|chain| !chain.is_built_in())
}
