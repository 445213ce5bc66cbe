//! What the daemon sets on its host: here, in a network namespace that is not the first.

use causeway_tests::proxy_bed::{Bed, wait_until};

use super::PATIENCE;

fn sysctl(bed: &Bed, name: &str) -> String {
    let path = format!("/proc/sys/net/{name}");
    let text = bed.netns.run(|| std::fs::read_to_string(path)).unwrap();
    text.unwrap().trim().to_owned()
}

const FLAGS: [&str; 6] = [
    "--conntrack-tcp-timeout-established=1h",
    "--conntrack-tcp-timeout-close-wait=90s",
    "--conntrack-udp-timeout=20s",
    "--conntrack-udp-timeout-stream=0",
    "--conntrack-tcp-be-liberal",
    // Less would need CAP_SYS_RESOURCE.
    "--oom-score-adj=700",
];

#[test]
fn connection_tracking_is_set_as_far_as_the_host_allows() {
    let bed = Bed::new().unwrap();
    let stream = sysctl(&bed, "netfilter/nf_conntrack_udp_timeout_stream");
    let proxy = bed.proxy(&FLAGS).unwrap();
    let warning = "not everything on this host could be set";
    wait_until("one warning", PATIENCE, || {
        proxy.log().unwrap().contains(warning)
    })
    .unwrap();
    for (name, value) in [
        ("nf_conntrack_tcp_timeout_established", "3600"),
        ("nf_conntrack_tcp_timeout_close_wait", "90"),
        ("nf_conntrack_udp_timeout", "20"),
        ("nf_conntrack_udp_timeout_stream", &stream),
        ("nf_conntrack_tcp_be_liberal", "1"),
    ] {
        assert_eq!(sysctl(&bed, &format!("netfilter/{name}")), value, "{name}");
    }
    // It belongs to the first namespace.
    let log = proxy.log().unwrap();
    assert!(log.contains("nf_conntrack_max"), "{log}");
    assert_eq!(log.matches(warning).count(), 1, "{log}");
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", proxy.pid()));
    assert_eq!(score.unwrap().trim(), "700");
}

#[test]
fn init_only_sets_the_same_and_ends_without_an_api_server() {
    let mut bed = Bed::new().unwrap();
    bed.stop_server();
    let more = [
        "--init-only",
        "--proxy-mode=iptables",
        "--logging-format=json",
    ];
    let flags = [&FLAGS[..], &more].concat();
    let mut proxy = bed.proxy(&flags).unwrap();
    let status = proxy.wait(PATIENCE).unwrap();
    assert!(status.success(), "{}", proxy.log().unwrap());
    assert_eq!(
        sysctl(&bed, "netfilter/nf_conntrack_tcp_timeout_established"),
        "3600"
    );
    assert_eq!(sysctl(&bed, "ipv4/conf/all/route_localnet"), "1");
    let log = proxy.log().unwrap();
    assert!(log.lines().count() > 1, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            line["level"].is_string() && line["timestamp"].is_string(),
            "{line}"
        );
    }
}
