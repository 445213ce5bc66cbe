//! Names of chains, as kube-proxy gives them: other software looks for them.

use std::fmt;
use std::str::FromStr;

use lb_model::Protocol;
use sha2::{Digest, Sha256};

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Accept, reject or drop.
    Filter,
    /// Translate.
    Nat,
    /// Holds nothing of ours but a canary.
    Mangle,
}

impl Table {
    /// All that we write to, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Filter, Self::Nat, Self::Mangle];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Mangle => "mangle",
        }
    }
}

/// A chain of ours, or one that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// Before the way is chosen (built in).
    Prerouting,
    /// To this node (built in).
    Input,
    /// Through this node (built in).
    Forward,
    /// From this node (built in).
    Output,
    /// When the way is chosen (built in).
    Postrouting,
    /// Where every VIP begins; in the table filter, ClusterIPs that lead nowhere.
    Services,
    /// In the table filter: external addresses and node ports that lead nowhere.
    ExternalServices,
    /// Where every node port begins; in the table filter, health checks that are let in.
    NodePorts,
    /// Rewrites the source of what is marked.
    KubePostrouting,
    /// Marks.
    MarkMasq,
    /// Lets marked and established connections through.
    KubeForward,
    /// Drops what no source range of a balancer's address let in.
    ProxyFirewall,
    /// Drops what comes from outside for 127.0.0.0/8; the kubelet has the same.
    Firewall,
    /// Says whether somebody flushed the table.
    Canary,
    /// Of one Service port or endpoint.
    Of(Kind, Hash),
    /// Of kube-proxy's mode ipvs. Never written, only removed.
    Ipvs(IpvsChain),
}

/// The chains that only kube-proxy's mode ipvs has (`pkg/proxy/ipvs/proxier.go` of Kubernetes 1.36).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpvsChain {
    /// Marks what aims at node ports; in the table filter, health checks that are let in.
    NodePort,
    /// Marks what aims at balancers' addresses.
    LoadBalancer,
    /// Drops what no source range of a balancer's address let in.
    SourceRanges,
    /// Rejects what aims at a Service's address, but not at a port of it.
    Filter,
    /// Keeps this node's own packets from balancers' addresses.
    OutFilter,
}

/// What the chain of a Service port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Chooses among the endpoints of traffic policy Cluster.
    Cluster,
    /// Chooses among the endpoints of traffic policy Local.
    Local,
    /// What aims at an external address or node port: masquerade and traffic policy.
    External,
    /// The source ranges of a balancer's addresses.
    Ranges,
    /// Translates to one endpoint.
    Endpoint,
}

/// The 16 characters that tell chains of one kind apart: the beginning of the base32 (RFC 4648) of
/// the SHA-256 of what the chain is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 16]);

/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl Hash {
    /// Of `words`, one after the other.
    fn of(words: [&str; 3]) -> Self {
        let mut digest = Sha256::new();
        for word in words {
            digest.update(word.as_bytes());
        }
        let digest = digest.finalize();
        let mut characters = [0; 16];
        // 16 characters of 5 bits are 10 bytes: five bytes give eight characters.
        for (bytes, characters) in digest.chunks(5).zip(characters.chunks_mut(8)) {
            let bits = bytes
                .iter()
                .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            for (place, character) in characters.iter_mut().enumerate() {
                let five = bits >> (35 - 5 * place) & 31;
                let index = usize::try_from(five).unwrap_or_default();
                *character = BASE32.get(index).copied().unwrap_or_default();
            }
        }
        Self(characters)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Chain {
    /// The chain of `kind` for the Service port `port` (`namespace/name:port`, without the colon
    /// where the port has no name).
    pub fn of_port(kind: Kind, port: &str, protocol: Protocol) -> Self {
        Self::Of(kind, Hash::of([port, &protocol.to_string(), ""]))
    }

    /// The chain of `endpoint` (`address:port`) behind a Service port.
    pub fn of_endpoint(port: &str, protocol: Protocol, endpoint: &str) -> Self {
        let hash = Hash::of([port, &protocol.to_string(), endpoint]);
        Self::Of(Kind::Endpoint, hash)
    }

    /// Whether the kernel has it by itself.
    pub const fn is_built_in(self) -> bool {
        matches!(
            self,
            Self::Prerouting | Self::Input | Self::Forward | Self::Output | Self::Postrouting
        )
    }

    /// Those of ours that are always there, in `table`.
    pub const fn fixed(table: Table) -> &'static [Self] {
        match table {
            Table::Filter => &[
                Self::Services,
                Self::ExternalServices,
                Self::KubeForward,
                Self::NodePorts,
                Self::ProxyFirewall,
                Self::Canary,
            ],
            Table::Nat => &[
                Self::Services,
                Self::NodePorts,
                Self::KubePostrouting,
                Self::MarkMasq,
                Self::Canary,
            ],
            Table::Mangle => &[Self::Canary],
        }
    }
}

const NAMES: [(Chain, &str); 19] = [
    (Chain::Prerouting, "PREROUTING"),
    (Chain::Input, "INPUT"),
    (Chain::Forward, "FORWARD"),
    (Chain::Output, "OUTPUT"),
    (Chain::Postrouting, "POSTROUTING"),
    (Chain::Services, "KUBE-SERVICES"),
    (Chain::ExternalServices, "KUBE-EXTERNAL-SERVICES"),
    (Chain::NodePorts, "KUBE-NODEPORTS"),
    (Chain::KubePostrouting, "KUBE-POSTROUTING"),
    (Chain::MarkMasq, "KUBE-MARK-MASQ"),
    (Chain::KubeForward, "KUBE-FORWARD"),
    (Chain::ProxyFirewall, "KUBE-PROXY-FIREWALL"),
    (Chain::Firewall, "KUBE-FIREWALL"),
    (Chain::Canary, "KUBE-PROXY-CANARY"),
    (Chain::Ipvs(IpvsChain::NodePort), "KUBE-NODE-PORT"),
    (Chain::Ipvs(IpvsChain::LoadBalancer), "KUBE-LOAD-BALANCER"),
    (
        Chain::Ipvs(IpvsChain::SourceRanges),
        "KUBE-SOURCE-RANGES-FIREWALL",
    ),
    (Chain::Ipvs(IpvsChain::Filter), "KUBE-IPVS-FILTER"),
    (Chain::Ipvs(IpvsChain::OutFilter), "KUBE-IPVS-OUT-FILTER"),
];

const KINDS: [(Kind, &str); 5] = [
    (Kind::Cluster, "KUBE-SVC-"),
    (Kind::Local, "KUBE-SVL-"),
    (Kind::External, "KUBE-EXT-"),
    (Kind::Ranges, "KUBE-FW-"),
    (Kind::Endpoint, "KUBE-SEP-"),
];

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Of(kind, hash) = self {
            let prefix = KINDS.iter().find(|(known, _)| known == kind);
            f.write_str(prefix.map_or("", |(_, prefix)| prefix))?;
            return f.write_str(hash.as_str());
        }
        let name = NAMES.iter().find(|(known, _)| known == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// Not the name of a chain of ours, nor of a built-in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignChain;

impl FromStr for Chain {
    type Err = ForeignChain;

    fn from_str(name: &str) -> Result<Self, ForeignChain> {
        if let Some((chain, _)) = NAMES.iter().find(|(_, known)| *known == name) {
            return Ok(*chain);
        }
        let kind = KINDS.iter().find_map(|(kind, prefix)| {
            let hash: [u8; 16] = name.strip_prefix(prefix)?.as_bytes().try_into().ok()?;
            let ours = hash.iter().all(|byte| BASE32.contains(byte));
            ours.then_some(Self::Of(*kind, Hash(hash)))
        });
        kind.ok_or(ForeignChain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kube_proxys() {
        for (kind, port, protocol, name) in [
            (
                Kind::Cluster,
                "default/kubernetes:https",
                Protocol::Tcp,
                "KUBE-SVC-NPX46M4PTMTKRN6Y",
            ),
            (
                Kind::Cluster,
                "kube-system/kube-dns:dns",
                Protocol::Udp,
                "KUBE-SVC-TCOU7JCQXEZGVUNU",
            ),
            (
                Kind::Cluster,
                "kube-system/kube-dns:dns-tcp",
                Protocol::Tcp,
                "KUBE-SVC-ERIFXISQEP7F7OF4",
            ),
            (
                Kind::Local,
                "ns1/svc1:p80",
                Protocol::Tcp,
                "KUBE-SVL-XPGD46QRK7WJZT7O",
            ),
            (
                Kind::External,
                "ns1/svc1:p80",
                Protocol::Tcp,
                "KUBE-EXT-XPGD46QRK7WJZT7O",
            ),
            (
                Kind::Ranges,
                "ns1/svc1:p80",
                Protocol::Tcp,
                "KUBE-FW-XPGD46QRK7WJZT7O",
            ),
        ] {
            assert_eq!(Chain::of_port(kind, port, protocol).to_string(), name);
        }
        let endpoint = Chain::of_endpoint("ns1/svc1:p80", Protocol::Tcp, "10.180.0.1:80");
        assert_eq!(endpoint.to_string(), "KUBE-SEP-SXIVWICOYRO3J4NJ");
    }

    #[test]
    fn a_chain_reads_back_from_its_name() {
        let hash = Hash::of(["a", "b", "c"]);
        let ours = NAMES.iter().map(|(chain, _)| *chain);
        let of_ports = KINDS.iter().map(|(kind, _)| Chain::Of(*kind, hash));
        for chain in ours.chain(of_ports) {
            assert_eq!(chain.to_string().parse(), Ok(chain));
            assert!(chain.to_string().len() <= 28);
        }
        for name in [
            "KUBE-SVC-",
            "KUBE-SVC-abcdefghijklmnop",
            "KUBE-KUBELET-CANARY",
            "DOCKER",
            "",
        ] {
            assert_eq!(name.parse::<Chain>(), Err(ForeignChain));
        }
    }
}
