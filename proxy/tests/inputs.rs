//! What holds for every input, tried with inputs made of good ones; `fuzz/` tries the same with
//! inputs that it finds itself.

#[cfg(test)]
#[path = "../../crates/cni-types/tests/properties/changed.rs"]
mod changed;
#[cfg(test)]
#[path = "inputs/check.rs"]
mod check;
#[cfg(test)]
#[path = "inputs/objects.rs"]
mod objects;

use changed::changed;
use proptest::prelude::*;

const KUBECONFIGS: &[&str] = &[
    "apiVersion: v1\nkind: Config\ncurrent-context: default\ncontexts:\n- name: default\n  context:\n    \
     cluster: default\n    namespace: default\n    user: default\nclusters:\n- name: default\n  \
     cluster:\n    certificate-authority: /none/ca.crt\n    server: https://10.0.0.1:6443\nusers:\n\
     - name: default\n  user:\n    tokenFile: /none/token\n",
    "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, \
     cluster: {server: 'http://[::1]:8080/base/', insecure-skip-tls-verify: true, proxy-url: \
     'http://10.0.0.2', tls-server-name: kubernetes}}]\nusers: [{name: u, user: {token: t, \
     client-certificate: c.pem, client-key: k/k.pem, as: system:admin, as-groups: [g], exec: \
     {apiVersion: client.authentication.k8s.io/v1, command: ./x, provideClusterInfo: true}}}]\n---\n\
     kind: Config\npreferences: {colors: true}\n",
];

const CONFIGURATIONS: &[&str] = &[
    include_str!("config/everything.yaml"),
    include_str!("config/kubeadm.yaml"),
    include_str!("config/gates.yaml"),
    "{\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\", \"kind\": \"KubeProxyConfiguration\", \
     \"mode\": \"iptables\", \"iptables\": {\"syncPeriod\": \"1m\", \"minSyncPeriod\": \"1s\"}, \
     \"logging\": {\"options\": {\"json\": {\"infoBufferSize\": \"0\"}}, \"vmodule\": [{\"x\": 1}]}}",
    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nnodePortAddresses: \
     &some\n- 10.0.0.0/8\n- all\nipvs:\n  excludeCIDRs: *some\nhostnameOverride: |\n  node\nmode: ''\n",
];

const SERVICES: &[&str] = &[
    r#"{"metadata":{"name":"redis","namespace":"default","resourceVersion":"7","creationTimestamp":
        "2026-01-02T03:04:05Z","labels":{"app":"redis"}},"spec":{"type":"LoadBalancer","clusterIP":
        "10.96.0.9","clusterIPs":["10.96.0.9","fd00::9"],"externalIPs":["192.0.2.7"],"ports":[{"name":
        "a","protocol":"TCP","port":6379,"nodePort":30000,"targetPort":"redis"},{"name":"b","protocol":
        "UDP","port":53}],"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":
        {"timeoutSeconds":9}},"loadBalancerSourceRanges":["10.0.0.0/8"],"externalTrafficPolicy":
        "Local","healthCheckNodePort":30001,"internalTrafficPolicy":"Cluster"},"status":
        {"loadBalancer":{"ingress":[{"ip":"203.0.113.9","ipMode":"VIP"}]}}}"#,
    r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"n","namespace":"default"},"spec":
        {"clusterIP":"None","ports":null}}"#,
];

const SLICES: &[&str] = &[
    r#"{"metadata":{"name":"redis-x","namespace":"default","labels":{"kubernetes.io/service-name":
        "redis"},"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":
        "2026-01-02T03:04:05Z"}},"addressType":"IPv4","endpoints":[{"addresses":["10.1.0.2"],
        "conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"node-1","hints":
        {"forZones":[{"name":"z"}],"forNodes":[{"name":"node-1"}]}},{"addresses":[],"conditions":{}}],
        "ports":[{"name":"a","protocol":"TCP","port":6379}]}"#,
];

const NODES: &[&str] = &[
    r#"{"metadata":{"name":"node-1","labels":{"topology.kubernetes.io/zone":"z"},"deletionTimestamp":
        null},"spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24","fd01::/64"],"taints":
        [{"key":"ToBeDeletedByClusterAutoscaler"}]},"status":{"addresses":[{"type":"InternalIP",
        "address":"192.0.2.1"},{"type":"Hostname","address":"node-1"}]}}"#,
];

const SERVICE_CIDRS: &[&str] =
    &[r#"{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/12","fd00::/112"]}}"#];

/// Texts, and what YAML could take for something else.
fn text() -> impl Strategy<Value = String> {
    let signs = "[-?:,\\[\\]{}#&*!|>'\"%@`~.0-9eExXyYnN+ \n\t\r\u{85}\u{2028}\u{feff}]{0,6}";
    const WORDS: [&str; 12] = [
        "null", "~", "yes", "off", "1e3", ".inf", "0x1f", "0o7", "1_000", "---", "...", "<<",
    ];
    prop_oneof![
        2 => signs,
        1 => proptest::sample::select(&WORDS[..]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kubeconfigs(bytes in changed(KUBECONFIGS)) {
        check::kubeconfig(&bytes);
    }

    #[test]
    fn configurations(bytes in changed(CONFIGURATIONS)) {
        check::configuration(&bytes);
    }

    /// What is written must be read as the same text, whatever YAML would take it for.
    #[test]
    fn texts_in_a_configuration(text in text(), other in text()) {
        let file = serde_json::json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "hostnameOverride": &text,
            "portRange": &other,
            "featureGates": {&text: true, &other: false},
            "ipvs": {"scheduler": &text, "excludeCIDRs": [&other, &text]},
            "logging": {"vmodule": {&other: &text}},
        });
        check::configuration(file.to_string().as_bytes());
    }

    #[test]
    fn services(bytes in changed(SERVICES)) {
        objects::service(&bytes);
    }

    #[test]
    fn slices(bytes in changed(SLICES)) {
        objects::slice(&bytes);
    }

    #[test]
    fn nodes(bytes in changed(NODES)) {
        objects::node(&bytes);
    }

    #[test]
    fn service_cidrs(bytes in changed(SERVICE_CIDRS)) {
        objects::service_cidr(&bytes);
    }
}

#[test]
fn good_inputs_are_read() {
    for text in KUBECONFIGS {
        let read = causeway_proxy::watch::kubeconfig::said(text, check::FOLDER.as_ref());
        let read = read.map(|_| ()).map_err(|error| error.to_string());
        // Without a certificate authority there is no more than the file to read.
        let missing = text.contains("/none/ca.crt");
        assert_eq!(read.is_err(), missing, "{text}: {read:?}");
    }
    for text in CONFIGURATIONS {
        assert!(causeway_proxy::config::read(text).is_ok(), "{text}");
    }
    for (kind, texts) in [
        ("Service", SERVICES),
        ("EndpointSlice", SLICES),
        ("Node", NODES),
        ("ServiceCIDR", SERVICE_CIDRS),
    ] {
        for text in texts {
            let heard = causeway_proxy::watch::read(kind, text).unwrap();
            assert!(
                heard.event.is_some() && heard.complaints.is_empty(),
                "{text}"
            );
        }
    }
}

/// Each line names the one before it twice.
#[test]
fn a_file_that_unfolds_without_end_is_refused() {
    let mut text = "a: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        let before = level - 1;
        text += &format!("a{level}: &a{level} [*a{before}, *a{before}]\n");
    }
    let error = causeway_proxy::config::read(&text).unwrap_err();
    assert!(error.to_string().contains("not YAML"), "{error}");
    assert!(causeway_proxy::watch::kubeconfig::said(&text, check::FOLDER.as_ref()).is_err());
}
