//! Strings become values here, and what does not is complained about by field.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::frontend::Protocol;
use crate::model::Complaint;

/// At most so many complaints about one object are kept; a last one counts the rest.
const MAX_COMPLAINTS: usize = 32;
/// A complaint quotes at most so many characters of the value.
const MAX_QUOTED: usize = 100;
/// `metadata.name` (RFC 1123 subdomain), in bytes.
const MAX_NAME: usize = 253;
/// Label values, port names and namespaces, in bytes.
const MAX_LABEL: usize = 63;

/// The object that is being read, and what could not be used of it.
pub(super) struct Door<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    complaints: &'a mut Vec<Complaint>,
    suppressed: usize,
}

impl<'a> Door<'a> {
    pub(super) fn new(
        kind: &'static str,
        namespace: &'a str,
        name: &'a str,
        complaints: &'a mut Vec<Complaint>,
    ) -> Self {
        Self {
            kind,
            namespace,
            name,
            complaints,
            suppressed: 0,
        }
    }

    pub(super) fn complain(
        &mut self,
        field: impl fmt::Display,
        value: impl fmt::Display,
        accepted: &'static str,
    ) {
        if self.complaints.len() >= MAX_COMPLAINTS {
            self.suppressed += 1;
            return;
        }
        let (field, value) = (field.to_string(), quoted(&value.to_string()));
        self.push(field, value, accepted);
    }

    fn push(&mut self, field: String, value: String, accepted: &'static str) {
        let name = quoted(self.name);
        let object = match self.namespace {
            "" => format!("{} {name}", self.kind),
            namespace => format!("{} {}/{name}", self.kind, quoted(namespace)),
        };
        self.complaints.push(Complaint {
            object,
            field,
            value,
            accepted,
        });
    }

    /// Whether namespace and name can be an object's.
    pub(super) fn named(&mut self) -> bool {
        let accepted = "1 to 253 of a-z, 0-9, - and .";
        let (namespace, name) = (self.namespace, self.name);
        if !is_name(namespace) {
            self.complain("metadata.namespace", namespace, accepted);
            return false;
        }
        if !is_name(name) {
            self.complain("metadata.name", name, accepted);
            return false;
        }
        true
    }

    /// The first `max` of `list`.
    pub(super) fn bounded<'l, T>(
        &mut self,
        field: &str,
        list: &'l [T],
        max: usize,
        accepted: &'static str,
    ) -> &'l [T] {
        if list.len() > max {
            self.complain(field, format_args!("{} entries", list.len()), accepted);
        }
        &list[..list.len().min(max)]
    }

    /// A unicast address that a packet can be sent to.
    pub(super) fn address(&mut self, field: fmt::Arguments<'_>, value: &str) -> Option<IpAddr> {
        match value.parse::<IpAddr>() {
            Ok(ip) if is_reachable(ip) => Some(ip),
            _ => {
                self.complain(
                    field,
                    value,
                    "an IPv4 or IPv6 unicast address, neither unspecified nor loopback",
                );
                None
            }
        }
    }

    /// A network in CIDR notation; bits behind the prefix are cleared.
    pub(super) fn network(&mut self, field: fmt::Arguments<'_>, value: &str) -> Option<IpNetwork> {
        let network = cidr(value);
        if network.is_none() {
            self.complain(
                field,
                value,
                "a network in CIDR notation, as 10.0.0.0/8 or fd00::/8",
            );
        }
        network
    }

    pub(super) fn port(&mut self, field: fmt::Arguments<'_>, value: i32) -> Option<u16> {
        let port = u16::try_from(value).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.complain(field, value, "1 to 65535");
        }
        port
    }

    pub(super) fn protocol(&mut self, field: fmt::Arguments<'_>, value: &str) -> Option<Protocol> {
        match value {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => {
                self.complain(field, value, "TCP, UDP or SCTP");
                None
            }
        }
    }

    /// A port's name or a label's value.
    pub(super) fn label(&mut self, field: fmt::Arguments<'_>, value: &str) -> Option<Box<str>> {
        if value.len() > MAX_LABEL {
            self.complain(field, value, "at most 63 bytes");
            return None;
        }
        Some(value.into())
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        if self.suppressed > 0 {
            let value = format!("{} more", self.suppressed);
            self.push("…".to_owned(), value, "fields as their API describes them");
        }
    }
}

/// Whether `name` can be a namespace's or an object's name.
pub(super) fn is_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn is_reachable(ip: IpAddr) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    !special
        && match ip {
            IpAddr::V4(ip) => !ip.is_broadcast(),
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none() && !ip.is_unicast_link_local(),
        }
}

fn cidr(value: &str) -> Option<IpNetwork> {
    // `IpNetwork` also reads bare addresses and netmasks, which the API does not mean.
    let (ip, prefix) = value.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let digits = (1..=3).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix: u8 = if digits {
        prefix.parse().ok()?
    } else {
        return None;
    };
    let network = IpNetwork::new(ip, prefix).ok()?.network();
    IpNetwork::new(network, prefix).ok()
}

fn quoted(value: &str) -> String {
    match value.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
