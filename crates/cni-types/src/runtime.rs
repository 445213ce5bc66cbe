use std::fmt;
use std::net::IpAddr;

use crate::{Cidr, Dns, Error, MacAddress, Object};

/// What the runtime adds for the capabilities a plugin declared (`runtimeConfig`, the
/// specification's CONVENTIONS.md). Capabilities without a field here are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// `ipRanges`: range sets, one address is taken from each.
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// `dns`.
    pub dns: Option<Dns>,
    /// `ips`: requested addresses; one without a prefix has the whole length.
    pub ips: Vec<Cidr>,
    /// `mac`.
    pub mac: Option<MacAddress>,
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, IANA number 6.
    Tcp,
    /// UDP, IANA number 17.
    Udp,
    /// SCTP, IANA number 132.
    Sctp,
}

/// A port of the host that leads to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The port on the host.
    pub host_port: u16,
    /// The port in the container.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; absent for all.
    pub host_ip: Option<IpAddr>,
}

/// Limits of a container's traffic; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Into the container, bits per second.
    pub ingress_rate: u64,
    /// Into the container, bits.
    pub ingress_burst: u64,
    /// Out of the container, bits per second.
    pub egress_rate: u64,
    /// Out of the container, bits.
    pub egress_burst: u64,
}

/// A range of addresses inside a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpRange {
    /// The subnet.
    pub subnet: Cidr,
    /// The first address to give; absent for the subnet's first.
    pub range_start: Option<IpAddr>,
    /// The last address to give; absent for the subnet's last.
    pub range_end: Option<IpAddr>,
    /// The gateway; absent for the subnet's first address.
    pub gateway: Option<IpAddr>,
}

impl RuntimeConfig {
    /// Reads the object `runtimeConfig`.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key.
    pub fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let mappings = object.objects("portMappings")?;
        Ok(Self {
            port_mappings: mappings
                .iter()
                .map(PortMapping::from_object)
                .collect::<Result<_, _>>()?,
            ip_ranges: ip_ranges(object)?,
            bandwidth: object
                .object("bandwidth")?
                .map(|o| Bandwidth::from_object(&o))
                .transpose()?,
            dns: object
                .object("dns")?
                .map(|o| Dns::from_capability(&o))
                .transpose()?,
            ips: requested_ips(object)?,
            mac: mac(object)?,
        })
    }
}

/// `ipRanges` is a list of range sets; go-cni can only send one set, and sends it as the list.
fn ip_ranges(object: &Object<'_>) -> Result<Vec<Vec<IpRange>>, Error> {
    let set = |ranges: &[Object<'_>]| ranges.iter().map(IpRange::from_object).collect();
    let flat = object
        .get("ipRanges")
        .and_then(|v| v.get(0))
        .is_some_and(serde_json::Value::is_object);
    if flat {
        return Ok(vec![set(&object.objects("ipRanges")?)?]);
    }
    object
        .object_lists("ipRanges")?
        .iter()
        .map(|ranges| set(ranges))
        .collect()
}

/// The list `ips`, as `runtimeConfig` and `args.cni` have it.
pub(crate) fn requested_ips(object: &Object<'_>) -> Result<Vec<Cidr>, Error> {
    let parse = |text: String| {
        let whole = |address: IpAddr| Cidr::new(address, if address.is_ipv4() { 32 } else { 128 });
        let parsed = text.parse().ok().or_else(|| whole(text.parse().ok()?).ok());
        parsed.ok_or_else(|| object.invalid("ips", "IP addresses, with or without a prefix"))
    };
    object.texts("ips")?.into_iter().map(parse).collect()
}

/// The key `mac`, as `runtimeConfig` and `args.cni` have it.
pub(crate) fn mac(object: &Object<'_>) -> Result<Option<MacAddress>, Error> {
    let Some(text) = object.filled_text("mac")? else {
        return Ok(None);
    };
    let mac: Option<MacAddress> = text.parse().ok();
    mac.filter(|mac| mac.is_assignable())
        .map(Some)
        .ok_or_else(|| object.invalid("mac", "a single interface's address, as 0a:58:0a:f4:00:05"))
}

impl IpRange {
    /// Reads an object with `subnet`, `rangeStart`, `rangeEnd` and `gateway`.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key.
    pub fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let Some(subnet) = object.cidr("subnet")? else {
            return Err(object.invalid("subnet", "a subnet, as 10.1.0.0/24"));
        };
        Ok(Self {
            subnet,
            range_start: object.address("rangeStart")?,
            range_end: object.address("rangeEnd")?,
            gateway: object.address("gateway")?,
        })
    }
}

impl PortMapping {
    fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let port = |key| {
            let port = object.number(key, u64::from(u16::MAX))?.unwrap_or_default();
            Ok::<_, Error>(u16::try_from(port).unwrap_or_default())
        };
        let protocol = object.text("protocol")?.unwrap_or("tcp");
        Ok(Self {
            host_port: port("hostPort")?,
            container_port: port("containerPort")?,
            protocol: Protocol::named(protocol)
                .ok_or_else(|| object.invalid("protocol", "tcp, udp or sctp"))?,
            host_ip: object.address("hostIP")?,
        })
    }
}

impl Protocol {
    fn named(word: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        all.into_iter()
            .find(|protocol| word.eq_ignore_ascii_case(protocol.as_str()))
    }

    /// As written in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Bandwidth {
    /// Reads an object with `ingressRate`, `ingressBurst`, `egressRate` and `egressBurst`.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key.
    pub fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let number = |key| Ok(object.number(key, u64::MAX)?.unwrap_or_default());
        Ok(Self {
            ingress_rate: number("ingressRate")?,
            ingress_burst: number("ingressBurst")?,
            egress_rate: number("egressRate")?,
            egress_burst: number("egressBurst")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Code;

    fn read(value: &Value) -> Result<RuntimeConfig, Error> {
        RuntimeConfig::from_object(&Object::new("runtimeConfig", value).unwrap())
    }

    /// What encoding/json makes of go-cni's structs, which carry no tags.
    const FROM_GO_CNI: &str = r#"{
        "io.kubernetes.cri.pod-annotations": {"kubernetes.io/config.seen": "2026"},
        "portMappings": [
            {"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""},
            {"HostPort":5353,"ContainerPort":53,"Protocol":"udp","HostIP":"192.0.2.7"}
        ],
        "bandwidth": {"IngressRate":1000000,"IngressBurst":4294967295,
                      "EgressRate":2000000,"EgressBurst":4294967295},
        "dns": {"Servers":["10.96.0.10"],"Searches":["default.svc.cluster.local"],
                "Options":["ndots:5"]},
        "ipRanges": [{"Subnet":"10.1.0.0/16","RangeStart":"10.1.0.5","RangeEnd":"10.1.0.9",
                      "Gateway":"10.1.0.254"}]
    }"#;

    #[test]
    fn capabilities_as_go_cni_spells_them() {
        let config = read(&serde_json::from_str(FROM_GO_CNI).unwrap()).unwrap();
        assert_eq!(
            config.port_mappings,
            [
                PortMapping {
                    host_port: 8080,
                    container_port: 80,
                    protocol: Protocol::Tcp,
                    host_ip: None
                },
                PortMapping {
                    host_port: 5353,
                    container_port: 53,
                    protocol: Protocol::Udp,
                    host_ip: Some("192.0.2.7".parse().unwrap())
                },
            ]
        );
        let bandwidth = config.bandwidth.unwrap();
        assert_eq!(
            (bandwidth.ingress_rate, bandwidth.egress_rate),
            (1_000_000, 2_000_000)
        );
        assert_eq!(bandwidth.egress_burst, u64::from(u32::MAX));
        let dns = config.dns.unwrap();
        assert_eq!(dns.nameservers, ["10.96.0.10"]);
        assert_eq!(dns.search, ["default.svc.cluster.local"]);
        assert_eq!(dns.options, ["ndots:5"]);
        let range = &config.ip_ranges[0][0];
        assert_eq!(range.subnet.to_string(), "10.1.0.0/16");
        assert_eq!(range.range_start, Some("10.1.0.5".parse().unwrap()));
        assert_eq!(range.range_end, Some("10.1.0.9".parse().unwrap()));
        assert_eq!(range.gateway, Some("10.1.0.254".parse().unwrap()));
    }

    #[test]
    fn capabilities_as_the_conventions_spell_them() {
        let config = read(&json!({
            "portMappings": [{"hostPort": 1, "containerPort": 2, "protocol": "SCTP"}],
            "ipRanges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "ips": ["10.0.0.7", "fd00::7/64"],
            "mac": "0a:00:00:00:00:07",
        }))
        .unwrap();
        assert_eq!(config.port_mappings[0].protocol, Protocol::Sctp);
        assert_eq!(config.ip_ranges.len(), 2);
        assert_eq!(
            config.ips.iter().map(Cidr::to_string).collect::<Vec<_>>(),
            ["10.0.0.7/32", "fd00::7/64"]
        );
        assert_eq!(config.mac.unwrap().to_string(), "0a:00:00:00:00:07");
    }

    #[test]
    fn wrong_values_are_named() {
        for (value, place) in [
            (
                json!({"portMappings": [{"HostPort": 70000}]}),
                "runtimeConfig.portMappings[0].hostPort",
            ),
            (
                json!({"portMappings": [{"protocol": "icmp"}]}),
                "runtimeConfig.portMappings[0].protocol",
            ),
            (
                json!({"ipRanges": [[{}]]}),
                "runtimeConfig.ipRanges[0][0].subnet",
            ),
            (json!({"ips": ["10.0.0"]}), "runtimeConfig.ips"),
            (json!({"mac": "01:00:00:00:00:00"}), "runtimeConfig.mac"),
        ] {
            let error = read(&value).unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG);
            assert!(error.message.starts_with(place), "{error}");
        }
    }
}
