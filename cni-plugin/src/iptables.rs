//! Changes of tables of iptables by what stands there, safe against others that change them at the
//! same time.

use std::collections::BTreeSet;

use cni_types::{Code, Error};
use nodekit::xtables::{self, Family, Input, Table, Xtables};

use crate::failure;

/// How often it is tried against others that change the same things at once.
const ATTEMPTS: usize = 8;

/// The longest name of a chain in bytes (XT_EXTENSION_MAXNAMELEN, linux/netfilter/x_tables.h, less
/// its end).
const LONGEST_CHAIN: usize = 28;

/// The longest comment in bytes (XT_MAX_COMMENT_LEN, linux/netfilter/xt_comment.h).
const LONGEST_COMMENT: usize = 255;

/// Carries out the commands that follow from what there is, all or none; again where somebody
/// else was faster.
pub(crate) fn change(
    family: Family,
    table: Table,
    commands: impl Fn(&Listing) -> Vec<Vec<String>>,
) -> Result<(), Error> {
    let programs = programs(family)?;
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        let commands = commands(&Listing::read(&programs, table)?);
        if commands.is_empty() {
            return Ok(());
        }
        let mut input = Input::default();
        input.table(table);
        for command in &commands {
            input.rule(command.iter().map(String::as_str));
        }
        match programs.restore(&input.finish()) {
            Err(error @ xtables::Error::Refused { .. }) => refused = Some(failed(error)),
            other => return other.map_err(failed),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// As [`change`], for commands that only take away: where the programs are not installed there is
/// nothing of theirs.
///
/// # Errors
/// Code 100 with what iptables said.
pub(crate) fn take_away(
    family: Family,
    table: Table,
    commands: impl Fn(&Listing) -> Vec<Vec<String>>,
) -> Result<(), Error> {
    match Xtables::find(family) {
        Err(xtables::Error::Missing { .. }) => Ok(()),
        _ => change(family, table, commands),
    }
}

fn programs(family: Family) -> Result<Xtables, Error> {
    Xtables::find(family).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn failed(error: xtables::Error) -> Error {
    let code = match error {
        xtables::Error::Refused { code: Some(4), .. } => Code::TRY_AGAIN,
        _ => failure::KERNEL,
    };
    Error::new(code, error.to_string())
}

/// What stands in a family's table now.
///
/// # Errors
/// Code 100 with what iptables said.
pub(crate) fn read(family: Family, table: Table) -> Result<Listing, Error> {
    Listing::read(&programs(family)?, table)
}

/// Sees whether the programs are there.
///
/// # Errors
/// Code 100 when they aren't.
pub(crate) fn probe() -> Result<(), Error> {
    [Family::Ip, Family::Ip6]
        .into_iter()
        .try_for_each(|family| programs(family).map(drop))
}

/// What stands in a table.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) chains: BTreeSet<String>,
    /// The rules of all chains, word by word, less the command `-A`.
    pub(crate) rules: Vec<Vec<String>>,
}

impl Listing {
    fn read(programs: &Xtables, table: Table) -> Result<Self, Error> {
        let mut listing = Self::default();
        programs
            .save(Some(table), &mut |line| listing.take(line))
            .map_err(failed)?;
        Ok(listing)
    }

    fn take(&mut self, line: &str) {
        if let Some(chain) = line.strip_prefix(':') {
            self.chains
                .extend(chain.split(' ').next().map(str::to_owned));
        }
        if let Some(rule) = line.strip_prefix("-A ") {
            self.rules.push(split(rule));
        }
    }
}

/// The words of a listed rule; those with a space in them stand in double quotes.
fn split(rule: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quoted = false;
    let mut characters = rule.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// A rule's comment.
pub(crate) fn comment_of(rule: &[String]) -> Option<&String> {
    let at = rule.iter().position(|word| word == "--comment")?;
    rule.get(at + 1)
}

/// The name of a pod's own chain, as the reference makes it.
pub(crate) fn pod_chain(prefix: &str, network: &str, container_id: &str) -> String {
    let digest = hmac_sha512::Hash::hash(format!("{network}{container_id}").as_bytes());
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    let mut name: String = [prefix.to_owned()].into_iter().chain(digits).collect();
    name.truncate(LONGEST_CHAIN);
    name
}

/// Whose a rule is, in the reference's words.
pub(crate) fn pod_comment(prefix: &str, network: &str, container_id: &str) -> String {
    let mut comment = format!("{prefix}name: \"{network}\" id: \"{container_id}\"");
    if comment.len() > LONGEST_COMMENT {
        comment.truncate(LONGEST_COMMENT - 2);
        comment.push_str("...");
        comment.truncate(LONGEST_COMMENT);
    }
    comment
}

/// A command about a rule.
pub(crate) fn words(command: &str, rule: Vec<String>) -> Vec<String> {
    [vec![command.to_owned()], rule].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_split_into_their_words() {
        let rule = r#"X -m comment --comment "CNI \"x\" rules" -j Y"#;
        let comment = r#"CNI "x" rules"#;
        assert_eq!(
            split(rule),
            ["X", "-m", "comment", "--comment", comment, "-j", "Y"]
        );
        assert_eq!(split(r#"X "" -j"#), ["X", "", "-j"]);
        assert!(split("").is_empty());
    }
}
