use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::{Code, Error, Object};

/// What identifies one attachment of a container to a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Attachment {
    /// The runtime's name for the container: alphanumeric first, then `[A-Za-z0-9_.-]`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in the container: at most 15 bytes.
    pub ifname: String,
}

/// The longest container id taken, in bytes: it becomes part of a file's name and of a comment in
/// the kernel. Runtimes use 64.
const LONGEST_CONTAINER_ID: usize = 200;

/// The longest interface name, in bytes: IFNAMSIZ less the final zero (linux/if.h).
const LONGEST_IFNAME: usize = 15;

impl Attachment {
    /// Checks both parts.
    ///
    /// # Errors
    /// What is wrong, with the value and what is accepted.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, String> {
        let id = container_id.as_bytes();
        if id.len() > LONGEST_CONTAINER_ID
            || !id.first().is_some_and(u8::is_ascii_alphanumeric)
            || !id
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
        {
            return Err(format!(
                "container id {container_id:?}; accepted are 1 to {LONGEST_CONTAINER_ID} of \
                 letters, digits, _ . and -, a letter or digit first"
            ));
        }
        let refused = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
        if ifname.is_empty()
            || ifname.len() > LONGEST_IFNAME
            || ifname == "."
            || ifname == ".."
            || ifname.contains(refused)
        {
            return Err(format!(
                "interface name {ifname:?}; accepted are 1 to {LONGEST_IFNAME} bytes without \
                 / : or white space, and neither . nor .."
            ));
        }
        Ok(Self {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// Reads one entry of the list that GC is given.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong kind, 7 for a name that cannot be one.
    pub(crate) fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let id = object.text("containerID")?.unwrap_or_default();
        let ifname = object.text("ifname")?.unwrap_or_default();
        Self::new(id, ifname).map_err(|why| {
            Error::new(Code::INVALID_CONFIG, why).at(object.path_of("containerID, ifname"))
        })
    }
}

/// What the runtime asks for, with the parameters that this operation has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Attach the container.
    Add {
        /// Whom.
        attachment: Attachment,
        /// The path of the container's network namespace.
        netns: PathBuf,
    },
    /// Detach the container; must succeed whatever is left of it.
    Del {
        /// Whom.
        attachment: Attachment,
        /// The path, unless the namespace is gone already.
        netns: Option<PathBuf>,
    },
    /// See whether the attachment is as ADD left it.
    Check {
        /// Whom.
        attachment: Attachment,
        /// The path of the container's network namespace.
        netns: PathBuf,
    },
    /// Release what belongs to no attachment of a list.
    Gc,
    /// Say whether ADD could be served.
    Status,
    /// Say which versions are served.
    Version,
}

/// The environment variables of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// CNI_COMMAND with CNI_CONTAINERID, CNI_IFNAME and CNI_NETNS.
    pub command: Command,
    /// CNI_ARGS.
    pub args: Args,
    /// CNI_PATH: the folders with plugins; empty when not given, which only matters to delegation.
    pub path: Vec<PathBuf>,
    /// CNI_NETNS_OVERRIDE: the plugin's own namespace may be the container's.
    pub netns_override: bool,
}

impl Environment {
    /// Reads the variables through `variable`; absent and empty are the same.
    /// `None` when there is no CNI_COMMAND: then nobody speaks the protocol.
    ///
    /// # Errors
    /// Code 4, naming every variable that is missing or the one that is wrong.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(word) = get("CNI_COMMAND") else {
            return Ok(None);
        };
        let command = match word.as_str() {
            "ADD" => {
                let (attachment, netns) = in_namespace(get)?;
                Command::Add { attachment, netns }
            }
            "CHECK" => {
                let (attachment, netns) = in_namespace(get)?;
                Command::Check { attachment, netns }
            }
            "DEL" => {
                let attachment = attachment(get, &[])?;
                Command::Del {
                    attachment,
                    netns: get("CNI_NETNS").map(PathBuf::from),
                }
            }
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => {
                return Err(invalid(format!(
                    "CNI_COMMAND {other:?}; accepted are ADD, DEL, CHECK, GC, STATUS, VERSION"
                )));
            }
        };
        let path = get("CNI_PATH").unwrap_or_default();
        let override_word = get("CNI_NETNS_OVERRIDE").unwrap_or_default();
        Ok(Some(Self {
            command,
            args: Args::parse(&get("CNI_ARGS").unwrap_or_default())?,
            path: path
                .split(':')
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from)
                .collect(),
            netns_override: override_word == "1" || override_word.eq_ignore_ascii_case("true"),
        }))
    }
}

fn in_namespace(get: impl Fn(&str) -> Option<String>) -> Result<(Attachment, PathBuf), Error> {
    let attachment = attachment(&get, &["CNI_NETNS"])?;
    Ok((
        attachment,
        PathBuf::from(get("CNI_NETNS").unwrap_or_default()),
    ))
}

fn attachment(get: impl Fn(&str) -> Option<String>, more: &[&str]) -> Result<Attachment, Error> {
    let needed = ["CNI_CONTAINERID", "CNI_IFNAME"]
        .into_iter()
        .chain(more.iter().copied());
    let missing: Vec<_> = needed.filter(|name| get(name).is_none()).collect();
    if !missing.is_empty() {
        return Err(invalid(format!(
            "missing from the environment: {}",
            missing.join(", ")
        )));
    }
    let value = |name| get(name).unwrap_or_default();
    Attachment::new(&value("CNI_CONTAINERID"), &value("CNI_IFNAME")).map_err(invalid)
}

fn invalid(message: String) -> Error {
    Error::new(Code::INVALID_ENVIRONMENT, message)
}

/// CNI_ARGS: `KEY=VALUE` pairs separated by `;`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(Vec<(String, String)>);

impl Args {
    /// Splits the pairs; empty pairs, as a final `;` leaves, are skipped.
    ///
    /// # Errors
    /// Code 4 for a pair without `=` or a word for `IgnoreUnknown` that is neither yes nor no.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let pairs = text.split(';').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                invalid(format!(
                    "CNI_ARGS has {pair:?}; accepted are KEY=VALUE pairs split by ;"
                ))
            })?;
            Ok((key.to_owned(), value.to_owned()))
        });
        let args = Self(pairs.collect::<Result<_, Error>>()?);
        args.ignores_unknown()?;
        Ok(args)
    }

    /// The value of a key; the last one counts.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Refuses keys that nobody knows, unless `IgnoreUnknown` is set.
    ///
    /// # Errors
    /// Code 4 naming the keys.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), Error> {
        if self.ignores_unknown()? {
            return Ok(());
        }
        let keys = self.0.iter().map(|(key, _)| key.as_str());
        let unknown: Vec<_> = keys
            .filter(|key| *key != "IgnoreUnknown" && !known.contains(key))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(invalid(format!(
            "CNI_ARGS has unknown keys: {}; known are {}, and IgnoreUnknown=1 allows others",
            unknown.join(", "),
            known.join(", ")
        )))
    }

    fn ignores_unknown(&self) -> Result<bool, Error> {
        match self.get("IgnoreUnknown").unwrap_or("0") {
            "1" | "true" | "True" | "TRUE" => Ok(true),
            "0" | "false" | "False" | "FALSE" => Ok(false),
            other => Err(invalid(format!(
                "CNI_ARGS has IgnoreUnknown={other}; accepted are 0, 1"
            ))),
        }
    }
}

/// As they stand in CNI_ARGS.
impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.iter().map(|(key, value)| format!("{key}={value}"));
        f.write_str(&pairs.collect::<Vec<_>>().join(";"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, Error> {
        Environment::read(|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    const FULL: [(&str, &str); 6] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "a1b2"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAME=web-0;MAC=0a:00:00:00:00:01",
        ),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    fn with(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        FULL.iter()
            .map(|(key, old)| (*key, if *key == name { value } else { *old }))
            .collect()
    }

    #[test]
    fn a_call_as_containerd_makes_it() {
        let environment = read(&FULL).unwrap().unwrap();
        let attachment = Attachment::new("a1b2", "eth0").unwrap();
        assert_eq!(
            environment.command,
            Command::Add {
                attachment: attachment.clone(),
                netns: "/run/netns/a".into()
            }
        );
        assert_eq!(
            environment.path,
            [PathBuf::from("/opt/cni/bin"), "/usr/lib/cni".into()]
        );
        assert_eq!(environment.args.get("MAC"), Some("0a:00:00:00:00:01"));
        assert!(environment.args.refuse_unknown(&[]).is_ok());

        let mut gone = with("CNI_COMMAND", "DEL");
        gone.retain(|(key, _)| *key != "CNI_NETNS" && *key != "CNI_PATH");
        let environment = read(&gone).unwrap().unwrap();
        assert_eq!(
            environment.command,
            Command::Del {
                attachment,
                netns: None
            }
        );
    }

    #[test]
    fn without_a_command_nobody_speaks_the_protocol() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(
            read(&[("CNI_COMMAND", "VERSION")])
                .unwrap()
                .unwrap()
                .command,
            Command::Version
        );
    }

    #[test]
    fn missing_variables_are_all_named() {
        let error = read(&[("CNI_COMMAND", "ADD")]).unwrap_err();
        assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for (name, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_CONTAINERID", "ä"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "eth 0"),
            ("CNI_IFNAME", "eth:0"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "sixteen-bytes-ab"),
            ("CNI_ARGS", "noequals"),
            ("CNI_ARGS", "IgnoreUnknown=maybe"),
        ] {
            let error = read(&with(name, value)).unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT, "{name}={value}");
        }
    }

    #[test]
    fn unknown_args_need_permission() {
        let args = Args::parse("MAC=x;FOO=1;").unwrap();
        assert!(
            args.refuse_unknown(&["MAC"])
                .unwrap_err()
                .message
                .contains("FOO")
        );
        assert!(args.refuse_unknown(&["MAC", "FOO"]).is_ok());
    }
}
