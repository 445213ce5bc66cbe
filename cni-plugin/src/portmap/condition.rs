//! Conditions on the traffic that host ports take, in words of iptables or of nft.

use cni_types::{Cidr, Error, Object};
use nodekit::nft::{CmpOp, Expr, Family, MetaKey, Register, Value};

use crate::masquerade::subnet;
use crate::tables::address_key;

const REGISTER: Register = Register::word(0);

/// The longest interface name in bytes.
const LONGEST_NAME: usize = 15;

const ACCEPTED: &str = "iptables' [!] -s CIDR, [!] -d CIDR, [!] -i NAME or nft's \
                        ip|ip6 saddr|daddr [!=] CIDR, iifname [!=] NAME";

/// What a packet must fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    what: What,
    negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Source(Cidr),
    Destination(Cidr),
    /// The interface it came in by: the whole name, or how names begin.
    Interface {
        name: String,
        prefix: bool,
    },
}

/// The words of a list of conditions, one by one.
struct Words<'a> {
    object: &'a Object<'a>,
    key: &'a str,
    family: Family,
    words: std::vec::IntoIter<String>,
}

/// Reads a list; each entry is a word or several.
///
/// # Errors
/// Code 2 naming a match that isn't among the accepted; code 7 for a value that is none.
pub(super) fn read(
    object: &Object<'_>,
    key: &str,
    family: Family,
) -> Result<Vec<Condition>, Error> {
    let texts = object.texts(key)?;
    let words: Vec<_> = texts
        .iter()
        .flat_map(|text| text.split_whitespace())
        .map(str::to_owned)
        .collect();
    let mut words = Words {
        object,
        key,
        family,
        words: words.into_iter(),
    };
    let mut conditions = Vec::new();
    while let Some(word) = words.words.next() {
        conditions.push(words.condition(&word)?);
    }
    Ok(conditions)
}

impl Words<'_> {
    fn condition(&mut self, first: &str) -> Result<Condition, Error> {
        let negated = first == "!";
        let owned;
        let word = if negated {
            owned = self.next("a match after !")?;
            owned.as_str()
        } else {
            first
        };
        let what = match word {
            "-s" | "--source" | "--src" => What::Source(self.cidr()?),
            "-d" | "--destination" | "--dst" => What::Destination(self.cidr()?),
            "-i" | "--in-interface" => self.interface('+')?,
            _ if negated => return Err(self.unknown(word)),
            "ip" | "ip6" => return self.of_nft(word),
            "iifname" => return self.operated(|words| words.interface('*')),
            _ => return Err(self.unknown(word)),
        };
        Ok(Condition { what, negated })
    }

    /// `ip saddr != 10.0.0.0/8`
    fn of_nft(&mut self, family: &str) -> Result<Condition, Error> {
        if family != self.family.word() {
            let expected = format!("matches of {}", self.family.word());
            return Err(self.object.invalid(self.key, &expected));
        }
        match self.next("saddr or daddr")?.as_str() {
            "saddr" => self.operated(|words| Ok(What::Source(words.cidr()?))),
            "daddr" => self.operated(|words| Ok(What::Destination(words.cidr()?))),
            other => Err(self.unknown(&format!("{family} {other}"))),
        }
    }

    /// An operator, if there is one, and what it is about.
    fn operated(
        &mut self,
        what: impl FnOnce(&mut Self) -> Result<What, Error>,
    ) -> Result<Condition, Error> {
        let operator = self.words.as_slice().first().map(String::as_str);
        let negated = matches!(operator, Some("!=" | "ne"));
        if negated || matches!(operator, Some("==" | "eq")) {
            self.words.next();
        }
        let what = what(self)?;
        Ok(Condition { what, negated })
    }

    fn cidr(&mut self) -> Result<Cidr, Error> {
        let word = self.next("an address")?;
        let ipv4 = self.family == Family::Ip;
        let parsed = word.parse::<Cidr>().ok().or_else(|| {
            let address: std::net::IpAddr = word.parse().ok()?;
            Cidr::new(address, if address.is_ipv4() { 32 } else { 128 }).ok()
        });
        parsed
            .filter(|cidr| cidr.address().is_ipv4() == ipv4)
            .ok_or_else(|| {
                let version = if ipv4 { "IPv4" } else { "IPv6" };
                let expected =
                    format!("{version} addresses with or without a prefix, where {word:?} stands");
                self.object.invalid(self.key, &expected)
            })
    }

    fn interface(&mut self, wildcard: char) -> Result<What, Error> {
        let word = self.next("an interface's name")?;
        let unquoted = word.trim_matches('"');
        let (name, prefix) = match unquoted.strip_suffix(wildcard) {
            Some(start) => (start, true),
            None => (unquoted, false),
        };
        if name.is_empty() || name.len() > LONGEST_NAME {
            let expected = format!("an interface's name, where {word:?} stands");
            return Err(self.object.invalid(self.key, &expected));
        }
        let name = name.to_owned();
        Ok(What::Interface { name, prefix })
    }

    fn next(&mut self, expected: &str) -> Result<String, Error> {
        let word = self.words.next();
        word.ok_or_else(|| {
            self.object
                .invalid(self.key, &format!("{expected} at its end"))
        })
    }

    fn unknown(&self, word: &str) -> Error {
        let expected = format!("{ACCEPTED}; {word:?} is none of these");
        self.object.unsupported(self.key, &expected)
    }
}

impl Condition {
    /// Evaluation ends where it isn't fulfilled.
    pub(super) fn exprs(&self, family: Family) -> Vec<Expr> {
        let op = if self.negated { CmpOp::Ne } else { CmpOp::Eq };
        let compare = |value| Expr::Cmp {
            op,
            from: REGISTER,
            value,
        };
        let (load, cidr) = match &self.what {
            What::Source(cidr) => (Expr::source_address(family, REGISTER), cidr),
            What::Destination(cidr) => (Expr::destination_address(family, REGISTER), cidr),
            What::Interface { name, prefix } => {
                let key = MetaKey::Iifname;
                // The kernel compares as many bytes as it is given.
                let value = if *prefix {
                    Value::new(name.as_bytes())
                } else {
                    Value::interface(name)
                };
                return vec![Expr::Meta { key, to: REGISTER }, compare(value)];
            }
        };
        let bytes = if family == Family::Ip { 4 } else { 16 };
        vec![
            load,
            Expr::mask_prefix(REGISTER, cidr.prefix(), bytes),
            compare(address_key(subnet(*cidr).address())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use cni_types::Code;
    use serde_json::{Value as Json, json};

    use super::*;

    fn parse(list: &Json, family: Family) -> Result<Vec<Condition>, Error> {
        let value = json!({"conditionsV4": list});
        read(&Object::new("", &value).unwrap(), "conditionsV4", family)
    }

    #[test]
    fn both_languages_say_the_same() {
        for (iptables, nft) in [
            (json!(["-s", "10.0.0.0/8"]), json!(["ip saddr 10.0.0.0/8"])),
            (
                json!(["!", "-d", "192.0.2.1"]),
                json!(["ip", "daddr", "!=", "192.0.2.1/32"]),
            ),
            (
                json!(["!", "--in-interface", "eth+"]),
                json!(["iifname != \"eth*\""]),
            ),
            (json!(["-i", "eth0"]), json!(["iifname eq eth0"])),
            (
                json!(["!", "--source", "10.0.0.0/8", "-i", "eth0"]),
                json!(["ip saddr != 10.0.0.0/8", "iifname eth0"]),
            ),
        ] {
            let said = parse(&iptables, Family::Ip).unwrap();
            assert_eq!(said, parse(&nft, Family::Ip).unwrap(), "{iptables}");
            assert!(!said.is_empty());
        }
        assert_eq!(parse(&json!([]), Family::Ip).unwrap(), []);
        assert_eq!(parse(&json!([""]), Family::Ip).unwrap(), []);
    }

    #[test]
    fn what_is_not_taken_is_named() {
        for (list, word) in [
            (json!(["-m", "mark", "--mark", "1"]), "-m"),
            (json!(["!", "--sport", "80"]), "--sport"),
            (json!(["tcp dport 80"]), "tcp"),
            (json!(["ip protocol tcp"]), "ip protocol"),
            (json!(["!", "ip", "saddr", "10.0.0.0/8"]), "ip"),
        ] {
            let error = parse(&list, Family::Ip).unwrap_err();
            assert_eq!(error.code, Code::UNSUPPORTED_FIELD, "{error}");
            assert!(
                error.message.starts_with("unsupported conditionsV4"),
                "{error}"
            );
            assert!(error.message.contains(&format!("{word:?}")), "{error}");
        }
        for list in [
            json!(["-s"]),
            json!(["!"]),
            json!(["-s", "fd00::/8"]),
            json!(["-s", "10.0.0.0/33"]),
            json!(["-i", "a-name-of-16-byte"]),
            json!(["-i", "+"]),
            json!(["ip6 saddr fd00::/8"]),
        ] {
            let error = parse(&list, Family::Ip).unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG, "{list} {error}");
        }
    }
}
