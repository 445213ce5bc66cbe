//! What a file of `tests/scenarios` says; `tests/scenarios/README.md` explains it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use causeway_tests::packet_bed::POD_PORT;
use lb_model::Protocol;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::folder;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What is shown, in a sentence; for the reader.
    #[serde(rename = "shows")]
    _shows: String,
    /// Fields of KubeProxyConfiguration.
    #[serde(default)]
    pub(crate) configuration: Map<String, Value>,
    pub(crate) steps: Vec<Step>,
}

/// What happens next, and what holds then.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// Objects as an API server has them, in the order in which they are heard of.
    #[serde(default)]
    pub(crate) apply: Vec<Value>,
    /// `Kind/name` in namespace default, heard of after `apply`.
    #[serde(default)]
    pub(crate) delete: Vec<String>,
    /// Fields that are complained about.
    #[serde(default)]
    pub(crate) complaints: usize,
    #[serde(default)]
    pub(crate) cases: Vec<Case>,
}

/// Packets, and what becomes of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Connections and UDP flows of this name, which stay open: those that earlier cases opened,
    /// or, if there are none, new ones. Without a name everything is new.
    pub(crate) flow: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) from: Vec<Who>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) to: Vec<SocketAddr>,
    #[serde(default = "tcp")]
    pub(crate) protocols: Vec<Transport>,
    /// How large datagrams of UDP are, and their answers.
    #[serde(default = "one")]
    pub(crate) bytes: usize,
    expect: Expected,
    /// Data planes that do something else, and why.
    #[serde(default)]
    but: BTreeMap<String, But>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct But {
    expect: Expected,
    #[serde(rename = "because")]
    _because: String,
}

impl Case {
    /// What `plane` does; `None`: what the model says.
    pub(crate) fn expected(&self, plane: Option<&str>) -> &Expected {
        let but = plane.and_then(|plane| self.but.get(plane));
        but.map_or(&self.expect, |but| &but.expect)
    }
}

/// A sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Node,
    Pod(usize),
    Client,
    Stranger,
}

/// What becomes of a connection.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expected {
    /// An error comes back.
    Refused,
    /// Nothing comes back.
    Silence,
    /// It is sent on as it came.
    Untouched,
    /// The sender is told that a datagram is larger than the MTU on its way (`EMSGSIZE`, udp(7)).
    TooLarge,
    #[serde(untagged)]
    Answered(Answered),
}

/// Who answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answered {
    /// Each of them sooner or later, nobody else.
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) reaches: Vec<Endpoint>,
    /// As whom they see the sender, where that is no matter of routes. (A pod that reaches itself
    /// always sees the node.)
    pub(crate) source: Option<Source>,
    /// One of them is reached, always the same; by a flow, the one that it reached before.
    #[serde(default)]
    pub(crate) stays: bool,
    /// A first datagram is too large; later ones are sent in fragments.
    #[serde(default)]
    pub(crate) learns_mtu: bool,
    /// Seconds after which the sender, having stayed, may reach another one.
    pub(crate) forgotten_after: Option<u64>,
}

/// As whom an endpoint sees the sender.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// As itself; but a pod that reaches itself sees the node.
    Kept,
    /// As itself, also where a pod reaches itself.
    Direct,
    /// As the node.
    Node,
}

/// A pod and its port, `pod1` or `pod1:9090`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) pod: usize,
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Sctp,
    /// ICMP echo, whose port means nothing.
    Ping,
}

impl Transport {
    /// `None`: no Service has ports of it, so that the walkers leave it out.
    pub(crate) const fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Tcp => Some(Protocol::Tcp),
            Self::Udp => Some(Protocol::Udp),
            Self::Sctp => Some(Protocol::Sctp),
            Self::Ping => None,
        }
    }
}

fn tcp() -> Vec<Transport> {
    vec![Transport::Tcp]
}

const fn one() -> usize {
    1
}

impl FromStr for Who {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "node" => Self::Node,
            "client" => Self::Client,
            "stranger" => Self::Stranger,
            _ => Self::Pod(pod(text)?),
        })
    }
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let port = match port {
            "" => POD_PORT,
            port => port.parse().map_err(|_| format!("{text}: no port"))?,
        };
        let pod = pod(name)?;
        Ok(Self { pod, port })
    }
}

fn pod(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("pod").and_then(|n| n.parse().ok());
    let known = number.filter(|number| (1..=3).contains(number));
    known.ok_or_else(|| format!("{text}: not pod1, pod2 or pod3"))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let all = match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    };
    let parse = |text: String| text.parse().map_err(|_| D::Error::custom(text));
    all.into_iter().map(parse).collect()
}

/// Reads `name`.
pub(crate) fn read(name: &str) -> Scenario {
    let path = folder().join(format!("{}.yaml", name.replace('_', "-")));
    let value: Value = parse(&std::fs::read_to_string(&path).unwrap());
    serde_path_to_error::deserialize(value).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads YAML.
pub(crate) fn parse(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}
