//! Feature gates. None changes anything here: what they switch is always on, or not built.

use super::said::KubeProxyConfiguration;

/// Those that kube-proxy 1.30 to 1.37 knows.
const KNOWN: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "AllowServiceExternalIPs",
    "AllowServiceLBStatusOnNonLB",
    "ComponentFlagz",
    "ComponentSLIs",
    "ComponentStatusz",
    "ContextualLogging",
    "KubeProxyDrainingTerminatingNodes",
    "KubeProxyIPVS",
    "KubeProxyNFTablesLocalhostNodePorts",
    "LoadBalancerIPMode",
    "LoggingAlphaOptions",
    "LoggingBetaOptions",
    "MinimizeIPTablesRestore",
    "MultiCIDRServiceAllocator",
    "NFTablesProxyMode",
    "PreferSameTrafficDistribution",
    "ServiceTrafficDistribution",
    "TopologyAwareHints",
    "WatchListClient",
    "WinDSR",
    "WinOverlay",
];

/// What has to be said about the feature gates of `said`.
pub fn gate_warnings(said: &KubeProxyConfiguration) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(gates) = &said.feature_gates else {
        return warnings;
    };
    let unknown: Vec<&str> = gates
        .keys()
        .map(String::as_str)
        .filter(|name| !KNOWN.contains(name))
        .collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        warnings.push(format!("featureGates: unknown names are ignored: {names}"));
    }
    if gates.get("AllowServiceExternalIPs") == Some(&false) {
        warnings.push(
            "featureGates: AllowServiceExternalIPs=false has no effect: spec.externalIPs are served"
                .to_owned(),
        );
    }
    warnings
}
