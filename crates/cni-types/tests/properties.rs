//! What holds for every input, tried with inputs made of good ones; `fuzz/` tries the same with
//! inputs that it finds itself.

#[cfg(test)]
#[path = "properties/changed.rs"]
mod changed;
#[cfg(test)]
#[path = "properties/check.rs"]
mod check;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::changed::changed;
    use super::check;

    const CONFIGURATIONS: &[&str] = &[
        r#"{"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipMasq": true, "ipam":
            {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}, "dns":
            {"nameservers": ["10.96.0.10"], "domain": "d", "search": ["s"], "options": ["o"]},
            "args": {"cni": {"ips": ["10.1.0.9/24"], "mac": "0a:58:0a:f4:00:05"}},
            "cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]}"#,
        r#"{"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"], "name": "net", "plugins":
            [{"type": "bridge", "capabilities": {"ips": true}}, {"type": "portmap"}]}"#,
    ];

    const RUNTIME: &[&str] = &[
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP":
            "192.0.2.1"}, {"HostPort": 53, "ContainerPort": 53, "Protocol": "UDP"}], "ipRanges":
            [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.9"}]]}"#,
        r#"{"bandwidth": {"ingressRate": 1000000, "ingressBurst": 500000}, "ips": ["10.1.0.9",
            "fd00::9/64"], "mac": "0a:58:0a:f4:00:05", "dns": {"servers": ["10.96.0.10"],
            "searches": ["svc"], "options": ["ndots:5"]}, "ipRanges": [{"Subnet": "fd00::/64"}]}"#,
    ];

    const RESULTS: &[&str] = &[
        r#"{"cniVersion": "1.1.0", "interfaces": [{"name": "br0", "mac": "0a:00:00:00:00:01"},
            {"name": "eth0", "mtu": 1500, "sandbox": "/run/netns/a"}], "ips": [{"address":
            "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}, {"address": "fd01::2/64",
            "interface": -1}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400,
            "priority": 5, "table": 9, "scope": 253}], "dns": {"nameservers": ["10.96.0.10"]}}"#,
        r#"{"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes":
            [{"dst": "0.0.0.0/0"}]}, "ip6": {"ip": "fd01::2/64"}, "dns": {"search": ["svc"]}}"#,
    ];

    const ENVIRONMENTS: &[&str] = &[
        "CNI_COMMAND=ADD\nCNI_CONTAINERID=a1b2\nCNI_NETNS=/run/netns/a\nCNI_IFNAME=eth0\n\
         CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web-0;MAC=0a:00:00:00:00:01\n\
         CNI_PATH=/opt/cni/bin:/usr/lib/cni",
        "CNI_COMMAND=DEL\nCNI_CONTAINERID=a1b2\nCNI_IFNAME=eth0\nCNI_NETNS_OVERRIDE=TRUE",
        "CNI_COMMAND=GC\nCNI_PATH=:a::/b:",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn configurations(bytes in changed(CONFIGURATIONS)) {
            check::configuration(&bytes);
        }

        #[test]
        fn runtime_configurations(bytes in changed(RUNTIME)) {
            check::runtime_config(&bytes);
        }

        #[test]
        fn results_before(bytes in changed(RESULTS)) {
            check::prev_result(&bytes);
        }

        #[test]
        fn environments(bytes in changed(ENVIRONMENTS)) {
            check::environment(&bytes);
        }
    }

    #[test]
    fn good_inputs_are_read() {
        use cni_types::{Object, RuntimeConfig, Success, Version};
        for text in RESULTS {
            let value = serde_json::from_str(text).unwrap();
            assert!(
                Success::from_json(&value, Version::NEWEST).is_ok(),
                "{text}"
            );
        }
        for text in RUNTIME {
            let value = serde_json::from_str(text).unwrap();
            let object = Object::new("", &value).unwrap();
            assert!(RuntimeConfig::from_object(&object).is_ok(), "{text}");
        }
        for text in CONFIGURATIONS {
            assert!(
                cni_types::PluginConfig::decode(text.as_bytes()).is_ok(),
                "{text}"
            );
        }
    }
}
