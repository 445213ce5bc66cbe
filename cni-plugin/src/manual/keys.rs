//! The keys of a network's configuration.

use super::{Key, Section};

const fn key(name: &'static str, default: &'static str, text: &'static str) -> Key {
    Key {
        name,
        default,
        text,
    }
}

/// Every plugin with its keys.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: "causeway-cni, bridge",
        text: "A pod on a bridge. Under the name bridge the defaults are the reference plugin's.",
        keys: &[
            key("bridge", "cni0", "the bridge, which is made where needed"),
            key(
                "isGateway",
                "false",
                "the bridge has the gateways' addresses, and the node forwards",
            ),
            key(
                "isDefaultGateway",
                "false",
                "the pod's default routes lead to the gateways; implies isGateway",
            ),
            key(
                "forceAddress",
                "false",
                "an address of the bridge that is in the way is replaced",
            ),
            key(
                "ipMasq",
                "false",
                "what leaves the pod's subnet has the node's address",
            ),
            key(
                "ipMasqBackend",
                "nftables",
                "nftables, or iptables, where each call runs their programs",
            ),
            key(
                "nonMasqueradeCIDRs",
                "",
                "destinations that see the pod's own address all the same",
            ),
            key("mtu", "the kernel's", "the MTU of the pod's link, in bytes"),
            key(
                "hairpinMode",
                "true; as bridge false",
                "a pod reaches itself by a Service's address",
            ),
            key(
                "promiscMode",
                "false",
                "the bridge takes every frame; excludes hairpinMode",
            ),
            key(
                "portIsolation",
                "false",
                "pods reach the node but not each other",
            ),
            key(
                "vlan",
                "",
                "the VLAN of the pod's untagged frames, 1 to 4094",
            ),
            key(
                "vlanTrunk",
                "",
                "VLANs that the pod sees tagged: a list of {id} or {minID, maxID}",
            ),
            key(
                "preserveDefaultVlan",
                "true",
                "the port stays in the kernel's default VLAN as well",
            ),
            key(
                "macspoofchk",
                "false",
                "frames with another source address than the pod's are dropped",
            ),
            key(
                "disableContainerInterface",
                "false",
                "the pod's interface is left down; excludes ipam",
            ),
            key(
                "enabledad",
                "false",
                "duplicate address detection of IPv6, which delays a pod by a second or two",
            ),
            key(
                "dns",
                "",
                "name resolution for the result: nameservers, domain, search, options",
            ),
            key(
                "ipam",
                "",
                "where addresses come from, by its key type: host-local, static, or a plugin in CNI_PATH",
            ),
            key(
                "runtimeConfig.mac",
                "",
                "the pod's hardware address; also args.cni.mac and MAC in CNI_ARGS",
            ),
            key("runtimeConfig.dns", "", "name resolution, in place of dns"),
        ],
    },
    Section {
        title: "host-local (in ipam)",
        text: "Addresses from ranges, one of each set. After a reboot those of pods that are gone are given back.",
        keys: &[
            key(
                "ranges",
                "",
                "a list of sets, each a list of {subnet, rangeStart, rangeEnd, gateway}",
            ),
            key(
                "subnet",
                "",
                "with rangeStart, rangeEnd and gateway: a single range",
            ),
            key(
                "rangeStart",
                "the subnet's first",
                "the first address to give",
            ),
            key("rangeEnd", "the subnet's last", "the last address to give"),
            key(
                "gateway",
                "the subnet's first",
                "the gateway, which is never given",
            ),
            key(
                "routes",
                "",
                "routes for the pod: {dst, gw, mtu, advmss, priority, table, scope}",
            ),
            key(
                "dataDir",
                "/var/lib/cni/networks",
                "where reservations are kept",
            ),
            key(
                "resolvConf",
                "",
                "a file in the form of resolv.conf(5), for the result's dns",
            ),
            key(
                "runtimeConfig.ipRanges",
                "",
                "range sets that go before ranges",
            ),
            key(
                "runtimeConfig.ips",
                "",
                "the addresses to give; also args.cni.ips and IP in CNI_ARGS",
            ),
        ],
    },
    Section {
        title: "static (in ipam)",
        text: "Addresses that are written down.",
        keys: &[
            key(
                "addresses",
                "",
                "a list of {address, gateway}; IP and GATEWAY in CNI_ARGS add to it",
            ),
            key("routes", "", "as with host-local"),
            key("dns", "", "name resolution for the result"),
            key(
                "runtimeConfig.ips",
                "",
                "addresses with prefixes in place of addresses; else args.cni.ips",
            ),
        ],
    },
    Section {
        title: "ptp",
        text: "A pod on a link of its own, without a bridge.",
        keys: &[
            key(
                "ipMasq",
                "false",
                "as with bridge, as are ipMasqBackend and nonMasqueradeCIDRs",
            ),
            key("mtu", "the kernel's", "the MTU of the pod's link, in bytes"),
            key("dns", "", "as with bridge"),
            key("ipam", "", "as with bridge; needed"),
        ],
    },
    Section {
        title: "firewall",
        text: "Which connections reach a pod through the node; chained, or part of causeway-cni.",
        keys: &[
            key(
                "ingressPolicy",
                "open",
                "open: nothing is refused; same-bridge: pods of other bridges get no connection; \
                 isolated: nor do those of the same one",
            ),
            key(
                "backend",
                "nftables",
                "iptables makes the pods exceptions in these, too, for nodes where they drop what \
                 they don't know; firewalld is not supported",
            ),
            key(
                "iptablesAdminChainName",
                "CNI-ADMIN",
                "the chain before all pods' rules; asks for the backend iptables",
            ),
        ],
    },
    Section {
        title: "portmap",
        text: "Host ports; chained, or part of causeway-cni. They come as runtimeConfig.portMappings.",
        keys: &[
            key(
                "runtimeConfig.portMappings",
                "",
                "a list of {hostPort, containerPort, protocol, hostIP}; tcp, udp or sctp",
            ),
            key(
                "snat",
                "true",
                "what would not be answered by way of the node is masqueraded: from the pod itself, from localhost",
            ),
            key(
                "masqAll",
                "false",
                "all connections by a host port are masqueraded",
            ),
            key(
                "markMasqBit",
                "",
                "packets with this bit of their mark, 0 to 31, are masqueraded too",
            ),
            key(
                "conditionsV4",
                "",
                "matches that IPv4 packets must meet, in the words of nft or iptables",
            ),
            key("conditionsV6", "", "the same for IPv6"),
            key(
                "backend",
                "nftables",
                "nftables, or iptables, where each call runs their programs; as type portmap",
            ),
            key(
                "externalSetMarkChain",
                "",
                "a chain of iptables that marks what is to be masqueraded; asks for that backend",
            ),
        ],
    },
    Section {
        title: "bandwidth",
        text: "Limits of a pod's traffic; chained, or part of causeway-cni. Rate and burst go together.",
        keys: &[
            key("ingressRate", "", "into the pod, bits per second"),
            key("ingressBurst", "", "into the pod, bits"),
            key("egressRate", "", "out of the pod, bits per second"),
            key("egressBurst", "", "out of the pod, bits"),
            key(
                "runtimeConfig.bandwidth",
                "",
                "the same four, where the configuration has none",
            ),
        ],
    },
    Section {
        title: "tuning",
        text: "Settings of a pod's namespace and interface; chained. DEL gives back what was before.",
        keys: &[
            key(
                "sysctl",
                "",
                "kernel parameters and their values; IFNAME in a name stands for the interface",
            ),
            key(
                "mac",
                "",
                "the hardware address; also runtimeConfig.mac, args.cni and MAC in CNI_ARGS",
            ),
            key("mtu", "", "the MTU, in bytes"),
            key("promisc", "", "the interface takes every frame"),
            key("allmulti", "", "the interface takes every multicast frame"),
            key("txQLen", "", "the length of the transmit queue, in packets"),
            key(
                "dataDir",
                "/run/cni/tuning",
                "where is written down what was before",
            ),
        ],
    },
    Section {
        title: "loopback",
        text: "Sets the pod's lo up. It has no keys.",
        keys: &[],
    },
];
