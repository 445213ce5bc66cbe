//! The administrator's list of settings that configurations may make.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use cni_types::{Code, Error};
use regex_lite::Regex;

/// Where it is, as in the reference. Without the file everything of `net` may be set.
pub(super) const PATH: &str = "/etc/cni/tuning/allowlist.conf";

/// Regular expressions, one a line, one of which must be found in a setting's name.
#[derive(Debug)]
pub(super) struct Allowlist(Vec<Regex>);

impl Allowlist {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// Code 5 when it can't be read, 7 for a line that is no regular expression.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                return Err(Error::new(Code::IO, message));
            }
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let parse = |line: &str| {
            Regex::new(line).map_err(|error| {
                let message = format!(
                    "{}: {line:?} is no regular expression: {error}",
                    path.display()
                );
                Error::new(Code::INVALID_CONFIG, message)
            })
        };
        lines
            .map(parse)
            .collect::<Result<_, _>>()
            .map(|all| Some(Self(all)))
    }

    /// Sees whether all names, as they are written in the configuration, are allowed.
    ///
    /// # Errors
    /// Code 7 naming the first that isn't, and the list.
    pub(super) fn check<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
        let is_allowed = |name: &&str| self.0.iter().any(|allowed| allowed.is_match(name));
        let Some(name) = names.into_iter().find(|name| !is_allowed(name)) else {
            return Ok(());
        };
        let allowed: Vec<_> = self.0.iter().map(Regex::as_str).collect();
        let message = format!(
            "sysctl {name:?} is not allowed by {PATH}; allowed are: {}",
            allowed.join(" ")
        );
        Err(Error::new(Code::INVALID_CONFIG, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_anywhere_in_a_name_unless_anchored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allowlist.conf");
        assert!(Allowlist::read(&path).unwrap().is_none());
        fs::write(
            &path,
            "\n^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\r\n  tcp_(rmem|wmem)\n",
        )
        .unwrap();
        let list = Allowlist::read(&path).unwrap().unwrap();
        assert!(list.check([]).is_ok());
        let good = ["net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/tcp_rmem"];
        assert!(list.check(good).is_ok());
        for name in ["net.ipv4.conf.all.arp_filter", "net.core.somaxconn"] {
            let error = list.check([good[0], name]).unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG);
            assert!(error.message.contains(name), "{error}");
        }
        fs::write(&path, "").unwrap();
        assert!(
            Allowlist::read(&path)
                .unwrap()
                .unwrap()
                .check(good)
                .is_err()
        );
        fs::write(&path, "net[").unwrap();
        let error = Allowlist::read(&path).unwrap_err();
        assert!(error.message.contains("net["), "{error}");
        assert_eq!(Allowlist::read(folder.path()).unwrap_err().code, Code::IO);
    }
}
