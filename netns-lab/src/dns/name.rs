//! What a name in the cluster's domain stands for.

use std::net::IpAddr;

use hickory_server::proto::rr::Name;

/// What was asked for, by the shape of its name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The domain itself, or `svc` or `pod` in it: exists, and has nothing to say.
    Domain,
    /// `NAMESPACE.svc`: exists if the namespace does.
    Namespace(String),
    /// `SERVICE.NAMESPACE.svc`
    Service { namespace: String, service: String },
    /// `HOST.SERVICE.NAMESPACE.svc`, the host a hostname or an address with dashes.
    Endpoint {
        namespace: String,
        service: String,
        host: String,
    },
    /// `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc`
    Port {
        namespace: String,
        service: String,
        port: String,
        protocol: String,
    },
    /// `1-2-3-4.NAMESPACE.pod`
    PodAddress { namespace: String, address: IpAddr },
    /// `4.3.2.1.in-addr.arpa` and the like.
    Reverse(IpAddr),
    /// In the domain, but of no known shape.
    Nothing,
    /// Not in the domain.
    Elsewhere,
}

impl Asked {
    /// Reads a name in lower case.
    pub(super) fn parse(name: &Name, domain: &Name) -> Self {
        if !domain.zone_of(name) {
            let host = name.parse_arpa_name().ok();
            let host = host.filter(|network| network.prefix_len() == network.max_prefix_len());
            return host.map_or(Self::Elsewhere, |network| Self::Reverse(network.addr()));
        }
        let labels: Vec<String> = name
            .iter()
            .map(|label| String::from_utf8_lossy(label).into_owned())
            .collect();
        let inside = labels.len().saturating_sub(domain.iter().len());
        let labels: Vec<&str> = labels[..inside].iter().map(String::as_str).collect();
        let owned = |text: &str| text.to_owned();
        match &*labels {
            [] | ["svc" | "pod"] => Self::Domain,
            [namespace, "svc" | "pod"] => Self::Namespace(owned(namespace)),
            [service, namespace, "svc"] => Self::Service {
                namespace: owned(namespace),
                service: owned(service),
            },
            [host, service, namespace, "svc"] => Self::Endpoint {
                namespace: owned(namespace),
                service: owned(service),
                host: owned(host),
            },
            [port, protocol, service, namespace, "svc"] => {
                match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                    (Some(port), Some(protocol)) => Self::Port {
                        namespace: owned(namespace),
                        service: owned(service),
                        port: owned(port),
                        protocol: owned(protocol),
                    },
                    _ => Self::Nothing,
                }
            }
            [address, namespace, "pod"] => {
                undashed(address).map_or(Self::Nothing, |address| Self::PodAddress {
                    namespace: owned(namespace),
                    address,
                })
            }
            _ => Self::Nothing,
        }
    }
}

/// `10-1-0-4` as an address.
fn undashed(host: &str) -> Option<IpAddr> {
    host.replace('-', ".")
        .parse()
        .or_else(|_| host.replace('-', ":").parse())
        .ok()
}

/// An address as a label.
pub(super) fn dashed(address: &str) -> String {
    address.replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Asked {
        let domain = Name::from_ascii("cluster.local.").unwrap();
        Asked::parse(&Name::from_ascii(name).unwrap(), &domain)
    }

    #[test]
    fn names_have_shapes() {
        let (namespace, service) = ("shop".to_owned(), "redis".to_owned());
        for (name, expected) in [
            ("cluster.local.", Asked::Domain),
            ("svc.cluster.local.", Asked::Domain),
            (
                "shop.svc.cluster.local.",
                Asked::Namespace(namespace.clone()),
            ),
            (
                "redis.shop.svc.cluster.local.",
                Asked::Service {
                    namespace: namespace.clone(),
                    service: service.clone(),
                },
            ),
            (
                "10-1-0-4.shop.pod.cluster.local.",
                Asked::PodAddress {
                    namespace,
                    address: "10.1.0.4".parse().unwrap(),
                },
            ),
            ("x.shop.pod.cluster.local.", Asked::Nothing),
            ("redis.shop.cluster.local.", Asked::Nothing),
            ("a.b.redis.shop.svc.cluster.local.", Asked::Nothing),
            ("example.org.", Asked::Elsewhere),
            ("cluster.local.example.org.", Asked::Elsewhere),
            (
                "1.0.96.10.in-addr.arpa.",
                Asked::Reverse("10.96.0.1".parse().unwrap()),
            ),
            ("0.96.10.in-addr.arpa.", Asked::Elsewhere),
        ] {
            assert_eq!(asked(name), expected, "{name}");
        }
    }
}
