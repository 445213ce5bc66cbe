//! What is said about host ports.

use std::net::IpAddr;

use cni_types::{Cidr, Code, Error, Object, PortMapping, Protocol};
use nodekit::nft::Family;

use super::condition::{self, Condition};
use super::rules::Options;
use crate::call::Call;

/// The highest bit of a packet's mark.
const HIGHEST_BIT: u64 = 31;

/// The ports wanted, with how they are handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(super) mappings: Vec<PortMapping>,
    pub(super) settings: Settings,
    /// Where they are in iptables instead.
    pub(super) iptables: Option<Options>,
}

/// What all ports of a network share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// Connections whose answers would not come back by the node are masqueraded.
    pub(super) snat: bool,
    /// All connections by a host port are.
    pub(super) masquerade_all: bool,
    /// The bit of a packet's mark that says so too.
    pub(super) mark: Option<u32>,
    pub(super) conditions_v4: Vec<Condition>,
    pub(super) conditions_v6: Vec<Condition>,
}

impl Config {
    /// Reads and checks the keys of `portmap`; `None` where no port is wanted.
    ///
    /// # Errors
    /// Code 2, 6 or 7 naming the key.
    pub(crate) fn read(call: &Call) -> Result<Option<Self>, Error> {
        let object = call.config.object();
        let iptables = match is_iptables(call)? {
            true => Some(options(&object)?),
            false => None,
        };
        let settings = Settings::read(&object, iptables.is_none())?;
        let mappings = mappings(call)?;
        Ok((!mappings.is_empty()).then_some(Self {
            mappings,
            settings,
            iptables,
        }))
    }

    /// Those that apply to a family.
    pub(super) fn of_family(&self, family: Family) -> impl Iterator<Item = &PortMapping> {
        let of_family = move |mapping: &&PortMapping| {
            let ip = mapping.host_ip;
            ip.is_none_or(|ip| ip.is_ipv4() == (family == Family::Ip))
        };
        self.mappings.iter().filter(of_family)
    }
}

impl Settings {
    fn read(object: &Object<'_>, with_conditions: bool) -> Result<Self, Error> {
        let conditions = |key, family| match with_conditions {
            true => condition::read(object, key, family),
            false => Ok(Vec::new()),
        };
        let bit = object.number("markMasqBit", HIGHEST_BIT)?;
        Ok(Self {
            snat: object.boolean("snat")?.unwrap_or(true),
            masquerade_all: object.boolean("masqAll")?.unwrap_or_default(),
            mark: bit.map(|bit| 1 << bit),
            conditions_v4: conditions("conditionsV4", Family::Ip)?,
            conditions_v6: conditions("conditionsV6", Family::Ip6)?,
        })
    }
}

/// Whether the ports are in iptables: asked for, or implied by a chain of theirs. The combined
/// type has all in one place.
///
/// # Errors
/// Code 2, 6 or 7 naming the key.
pub(super) fn is_iptables(call: &Call) -> Result<bool, Error> {
    let object = call.config.object();
    let chain = object.filled_text("externalSetMarkChain")?;
    if chain.is_some() && object.get("markMasqBit").is_some() {
        let expected = "only one of externalSetMarkChain and markMasqBit";
        return Err(object.invalid("externalSetMarkChain", expected));
    }
    let backend = object.filled_text("backend")?;
    match (backend, chain) {
        (Some("nftables"), None) | (None, None) => Ok(false),
        (Some("iptables"), _) if call.is_combined() => {
            Err(object.unsupported("backend", "nftables, unless in the type portmap"))
        }
        (Some("iptables"), _) => Ok(true),
        (None, Some(_)) if !call.is_combined() => Ok(true),
        (None | Some("nftables"), Some(_)) => {
            let expected = "none: chains to jump to are of iptables, and the backend is nftables";
            Err(object.unsupported("externalSetMarkChain", expected))
        }
        (Some(_), _) => Err(object.invalid("backend", "nftables or iptables")),
    }
}

fn options(object: &Object<'_>) -> Result<Options, Error> {
    let conditions = |key| {
        let words = object.texts(key)?;
        let first = words.first().map_or("-", String::as_str);
        if first.is_empty() || first.starts_with(['-', '!']) {
            let filled = words.into_iter().filter(|word| !word.is_empty());
            return Ok(filled.collect());
        }
        let expected = "words of iptables, which is the backend";
        Err(object.invalid(key, expected))
    };
    Ok(Options {
        set_mark: object
            .filled_text("externalSetMarkChain")?
            .map(str::to_owned),
        conditions_v4: conditions("conditionsV4")?,
        conditions_v6: conditions("conditionsV6")?,
    })
}

/// The runtime's ports. A host port of 0 asks for none.
fn mappings(call: &Call) -> Result<Vec<PortMapping>, Error> {
    let mut wanted: Vec<PortMapping> = Vec::new();
    for (index, mapping) in call.config.runtime()?.port_mappings.into_iter().enumerate() {
        let place = format!("runtimeConfig.portMappings[{index}]");
        if mapping.host_port == 0 {
            continue;
        }
        if mapping.container_port == 0 {
            let message = format!("{place}.containerPort: 0; expected a port from 1 to 65535");
            return Err(Error::new(Code::INVALID_CONFIG, message));
        }
        match wanted.iter().find(|other| is_same_port(other, &mapping)) {
            None => wanted.push(mapping),
            Some(other) if other.container_port == mapping.container_port => {}
            Some(other) => {
                let message = format!(
                    "{place}.hostPort: {} leads to container port {} already",
                    name_of(other),
                    other.container_port
                );
                return Err(Error::new(Code::INVALID_CONFIG, message));
            }
        }
    }
    Ok(wanted)
}

fn is_same_port(one: &PortMapping, other: &PortMapping) -> bool {
    let port = |mapping: &PortMapping| (mapping.protocol, mapping.host_port);
    port(one) == port(other) && specific(one) == specific(other)
}

/// The host's address that a port is bound to; none for all of them.
pub(super) fn specific(mapping: &PortMapping) -> Option<IpAddr> {
    mapping.host_ip.filter(|ip| !ip.is_unspecified())
}

/// A host port in words, as errors have it.
pub(super) fn name_of(mapping: &PortMapping) -> String {
    let PortMapping {
        host_port,
        protocol,
        ..
    } = mapping;
    match specific(mapping) {
        None => format!("host port {host_port}/{protocol}"),
        Some(IpAddr::V6(ip)) => format!("host port [{ip}]:{host_port}/{protocol}"),
        Some(ip) => format!("host port {ip}:{host_port}/{protocol}"),
    }
}

/// The number of a protocol (IANA).
pub(super) fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The first address of each family.
pub(super) fn first_of_each(addresses: &[Cidr]) -> impl Iterator<Item = Cidr> {
    let first = |ipv4| {
        let mut all = addresses.iter();
        all.find(move |cidr| cidr.address().is_ipv4() == ipv4)
    };
    [first(true), first(false)].into_iter().flatten().copied()
}
