//! The tables as texts.

use std::fmt::Write as _;

use cni_types::Supported;

use super::keys::SECTIONS;
use super::{COMMANDS, Command};
use crate::role::Role;

const PURPOSE: &str =
    "pods on a bridge, with addresses, host ports, filters and limits, in one call";

/// The width of help, in characters.
const WIDTH: usize = 90;

/// Where the explanation of an option begins, in characters.
const INDENT: usize = 28;

/// What a runtime does with the program, in a few lines.
pub(crate) fn about() -> String {
    format!(
        "causeway-cni {}: {PURPOSE}\n\
         CNI protocol versions supported: {}\n\
         Types: {}\n\
         A container runtime runs it, with CNI_COMMAND in the environment and the network's\n\
         configuration on standard input. Linked to one of the types it is that plugin.\n\
         causeway-cni --help tells what else it does.\n",
        env!("CARGO_PKG_VERSION"),
        Supported::ALL,
        Role::names(),
    )
}

/// `--help`.
pub(crate) fn help() -> String {
    let mut text = about()
        .lines()
        .take(5)
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    for command in COMMANDS {
        text.push('\n');
        wrap(&mut text, 0, &synopsis(command));
        wrap(&mut text, 4, &format!("{}.", command.summary));
        wrap(&mut text, 4, command.text);
        for option in command.options {
            let head = format!("    {} {}", option.name, option.value);
            let _ = write!(text, "{:INDENT$}", head.trim_end());
            let mut rest = String::new();
            wrap(&mut rest, INDENT, option.text);
            text.push_str(rest.trim_start());
        }
    }
    text
}

fn synopsis(command: &Command) -> String {
    let mut text = format!("causeway-cni {}", command.name);
    for option in command.options {
        let shown = format!("{} {}", option.name, option.value);
        let _ = write!(text, " [{}]", shown.trim_end());
    }
    text
}

/// Appends words in lines of a bounded width; nothing for no words.
fn wrap(text: &mut String, indent: usize, words: &str) {
    let mut width = 0;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length <= WIDTH {
            text.push(' ');
            width += 1 + length;
            text.push_str(word);
            continue;
        }
        if width > 0 {
            text.push('\n');
        }
        let _ = write!(text, "{:indent$}{word}", "");
        width = indent + length;
    }
    if width > 0 {
        text.push('\n');
    }
}

/// Every key of a network's configuration, as Markdown.
pub(crate) fn keys_table() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let _ = write!(text, "### {}\n\n{}\n\n", section.title, section.text);
        if section.keys.is_empty() {
            continue;
        }
        text.push_str("| Key | Default | Meaning |\n|---|---|---|\n");
        for key in section.keys {
            let meaning = key.text.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {} | {meaning} |", key.name, key.default);
        }
        text.push('\n');
    }
    format!("{}\n", text.trim_end())
}

/// The page for man(1), in the macros of man(7).
pub(crate) fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH CAUSEWAY\\-CNI 8 \"\" \"causeway\\-cni {version}\" \"System Administration\"\n\
         .SH NAME\ncauseway\\-cni \\- {}\n.SH SYNOPSIS\n",
        escaped(PURPOSE)
    );
    for command in COMMANDS {
        let _ = writeln!(text, ".B causeway\\-cni {}", command.name);
        for option in command.options {
            let shown = format!("{} {}", option.name, option.value);
            let _ = writeln!(text, "[{}]", escaped(shown.trim_end()));
        }
        text.push_str(".br\n");
    }
    text.push_str(".SH DESCRIPTION\n");
    for line in about().lines().skip(1).take(4) {
        let _ = writeln!(text, "{}", escaped(line));
        if !line.ends_with("network's") {
            text.push_str(".br\n");
        }
    }
    text.push_str(".SH SUBCOMMANDS\n");
    for command in COMMANDS {
        let _ = writeln!(text, ".SS {}", command.name);
        let _ = writeln!(text, "{}.", escaped(command.summary));
        if !command.text.is_empty() {
            let _ = writeln!(text, "{}", escaped(command.text));
        }
        for option in command.options {
            let shown = format!("{} {}", option.name, option.value);
            let _ = write!(text, ".TP\n.B {}\n", escaped(shown.trim_end()));
            let _ = writeln!(text, "{}", escaped(option.text));
        }
    }
    text.push_str(".SH CONFIGURATION\nKeys of a network's configuration, by plugin.\n");
    for section in SECTIONS {
        let _ = write!(
            text,
            ".SS {}\n{}\n",
            escaped(section.title),
            escaped(section.text)
        );
        for key in section.keys {
            let _ = write!(text, ".TP\n.B {}\n{}", escaped(key.name), escaped(key.text));
            if !key.default.is_empty() {
                let _ = write!(text, "; default: {}", escaped(key.default));
            }
            text.push('\n');
        }
    }
    text.push_str(
        ".SH EXIT STATUS\n0 for success, 1 for a failure, 2 for a command line that is none.\n\
         As a plugin it prints the error object of the specification on standard output.\n\
         .SH FILES\n.TP\n.I /var/lib/cni/networks\nreservations of host\\-local, in the layout of \
         the reference plugin\n",
    );
    text
}

/// A text for roff: hyphens of names stay hyphens, and no line begins with a request.
fn escaped(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('`', "");
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_option_in_lines_of_a_bounded_width() {
        let text = help();
        for command in COMMANDS {
            assert!(text.contains(&format!("causeway-cni {}", command.name)));
            for option in command.options {
                assert!(text.contains(option.name) && page().contains(&escaped(option.name)));
            }
        }
        for line in text.lines().skip(5) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn every_key_is_one_that_the_sources_read() {
        let mut sources = String::new();
        let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folders = vec![package.join("src"), package.join("../crates/cni-types/src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("manual/keys.rs") {
                    sources.push_str(&std::fs::read_to_string(path).unwrap());
                }
            }
        }
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            let (_, last) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            assert!(sources.contains(&format!("\"{last}\"")), "{}", key.name);
        }
    }

    #[test]
    fn the_page_is_made_of_known_requests() {
        let page = page();
        for line in page.lines() {
            assert!(!line.is_empty() && !line.starts_with('\''), "{line:?}");
            if line.starts_with('.') {
                let request = line.split(' ').next().unwrap_or_default();
                let known = [".TH", ".SH", ".SS", ".TP", ".B", ".I", ".br"];
                assert!(known.contains(&request), "{line}");
            }
        }
        for section in SECTIONS {
            for key in section.keys {
                assert!(page.contains(&escaped(key.name)) && keys_table().contains(key.name));
            }
        }
    }
}
