//! The command line: what an operator says. A runtime gives no argument.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use cni_types::Error;

use crate::manual::{self, COMMANDS, Command};
use crate::{install, state};

/// What an operator gets for a command line that is none.
const USAGE: u8 = 2;

/// Does what the arguments say.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let first = arguments.next().unwrap_or_default();
    let word = first.to_string_lossy();
    if matches!(&*word, "help" | "--help" | "-h") {
        return printed(&manual::help());
    }
    if matches!(&*word, "--version" | "-V") {
        return printed(&format!("causeway-cni {}\n", env!("CARGO_PKG_VERSION")));
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == word) else {
        let names: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
        return misused(&format!(
            "{word:?} is no subcommand; accepted are {}, --help, --version",
            names.join(", ")
        ));
    };
    match Given::parse(command, arguments) {
        Ok(given) if given.wants_help => printed(&manual::help()),
        Ok(given) => done(&given),
        Err(why) => misused(&format!("{}: {why}", command.name)),
    }
}

fn done(given: &Given) -> ExitCode {
    let done = match given.command.name {
        "install" => install::install(given),
        "uninstall" => install::uninstall(given),
        "state" => state::print(given),
        "options" => Ok(manual::keys_table()),
        _ => Ok(manual::page()),
    };
    match done {
        Ok(text) => printed(&text),
        Err(error) => {
            eprintln!("causeway-cni {}: {error}", given.command.name);
            ExitCode::FAILURE
        }
    }
}

fn printed(text: &str) -> ExitCode {
    use std::io::Write;
    // Whoever reads only the first lines, as head(1) does, has what he wants.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn misused(why: &str) -> ExitCode {
    eprintln!("causeway-cni: {why}");
    ExitCode::from(USAGE)
}

/// A subcommand with the options that were given.
#[derive(Debug)]
pub(crate) struct Given {
    command: &'static Command,
    values: Vec<(&'static str, OsString)>,
    wants_help: bool,
}

impl Given {
    fn parse(
        command: &'static Command,
        mut arguments: impl Iterator<Item = OsString>,
    ) -> Result<Self, String> {
        let mut given = Self {
            command,
            values: Vec::new(),
            wants_help: false,
        };
        while let Some(argument) = arguments.next() {
            let text = argument
                .to_str()
                .ok_or_else(|| format!("{argument:?} is not text"))?;
            let (name, joined) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text, None),
            };
            if matches!(name, "--help" | "-h") {
                given.wants_help = true;
                continue;
            }
            let Some(option) = command.options.iter().find(|option| option.name == name) else {
                let names: Vec<_> = command.options.iter().map(|option| option.name).collect();
                return Err(format!("{name:?}; accepted are {}", names.join(", ")));
            };
            if given.is_on(option.name) {
                return Err(format!("{name} is given twice"));
            }
            let value = match (option.value, joined) {
                ("", None) => OsString::new(),
                ("", Some(_)) => return Err(format!("{name} takes no value")),
                (_, Some(value)) => value,
                (value, None) => arguments
                    .next()
                    .ok_or_else(|| format!("{name}: missing; accepted is {value}"))?,
            };
            given.values.push((option.name, value));
        }
        Ok(given)
    }

    /// Whether an option was given.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn value(&self, name: &str) -> Option<&OsStr> {
        let found = self.values.iter().find(|(given, _)| *given == name);
        found.map(|(_, value)| value.as_os_str())
    }

    /// A path that was given.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// A path that must be given.
    ///
    /// # Errors
    /// That it wasn't.
    pub(crate) fn needed_path(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path(name).filter(|path| !path.as_os_str().is_empty());
        path.ok_or_else(|| install::refused(format!("{name}: missing; accepted is a folder")))
    }

    /// A text that was given.
    ///
    /// # Errors
    /// What is no text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) => Ok(Some(text)),
            None => Err(install::refused(format!("{name}: {value:?} is not text"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, words: &[&str]) -> Result<Given, String> {
        let command = COMMANDS
            .iter()
            .find(|command| command.name == name)
            .unwrap();
        Given::parse(command, words.iter().map(OsString::from))
    }

    #[test]
    fn values_stand_beside_or_behind_their_option() {
        let given = parse("install", &["--bin-dir", "/a", "--links", "--mtu=1400"]).unwrap();
        assert_eq!(given.path("--bin-dir"), Some("/a".into()));
        assert_eq!(given.text("--mtu").unwrap(), Some("1400"));
        assert!(given.is_on("--links") && !given.is_on("--force"));
        assert!(given.needed_path("--conf-dir").is_err());
        assert!(parse("state", &["--help"]).unwrap().wants_help);
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for (words, why) in [
            (&["--bin"][..], "accepted are --bin-dir, "),
            (&["dir"], "\"dir\""),
            (&["--bin-dir"], "missing; accepted is DIR"),
            (&["--links=yes"], "takes no value"),
            (&["--links", "--links"], "given twice"),
        ] {
            let error = parse("install", words).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
