//! What the daemon tells about itself.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use causeway_tests::proxy_bed::{
    Bed, NODE_NAME, PORTS, get, get_as, objects, wait_for, wait_until,
};
use netns_lab::apiserver::{Deletion, Resource};
use serde_json::{Value, json};

use super::{PATIENCE, put};

fn healthz() -> SocketAddr {
    ([127, 0, 0, 1], 10256).into()
}

fn metrics() -> SocketAddr {
    ([127, 0, 0, 1], 10249).into()
}

fn json_page(bed: &Bed, path: &str) -> (String, Value) {
    let (status, headers, body) = get(&bed.netns, healthz(), path).unwrap();
    assert!(
        headers.contains("content-type: application/json"),
        "{headers}"
    );
    assert!(
        headers.contains("x-content-type-options: nosniff"),
        "{headers}"
    );
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn healthz_follows_the_node_and_livez_does_not() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 1, PORTS[0]);
    let _proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    wait_until("success in /healthz", PATIENCE, || {
        let (status, page) = json_page(&bed, "/healthz");
        status.contains("200") && page["status"]["IPv4"]["healthy"] == json!(true)
    })
    .unwrap();
    let (_, page) = json_page(&bed, "/healthz");
    assert_eq!(
        (&page["nodeEligible"], &page["healthy"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(page["lastUpdated"], page["currentTime"]);

    let mut tainted = objects::node();
    tainted["spec"]["taints"] =
        json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    bed.store.seed(Resource::Node, [tainted]).unwrap();
    let refused = || json_page(&bed, "/healthz").0.contains("503");
    wait_until("503 for a tainted Node", PATIENCE, refused).unwrap();
    let (status, page) = json_page(&bed, "/livez");
    assert!(status.contains("200") && page.get("nodeEligible").is_none());

    bed.store.seed(Resource::Node, [objects::node()]).unwrap();
    wait_until("200 without the taint", PATIENCE, || !refused()).unwrap();
    bed.store
        .delete(Resource::Node, "", NODE_NAME, &Deletion::now())
        .unwrap();
    wait_until("503 without a Node", PATIENCE, refused).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
}

#[test]
fn metrics_count_what_happens() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 3, PORTS[0]);
    let _proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    put(&bed, "web", 0, 3, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    let value = |name: &str| -> f64 {
        let (status, headers, text) = get(&bed.netns, metrics(), "/metrics").unwrap();
        assert!(status.contains("200"), "{status}");
        assert!(
            headers.contains("content-type: application/openmetrics-text"),
            "{headers}"
        );
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    };
    wait_until("the end of the second pass", PATIENCE, || {
        value("causeway_event_to_kernel_seconds_count") >= 1.0
    })
    .unwrap();
    assert!(value("kubeproxy_sync_proxy_rules_endpoint_changes_total") >= 2.0);
    assert!(value("kubeproxy_sync_proxy_rules_service_changes_total") >= 1.0);
    assert_eq!(
        value("kubeproxy_sync_proxy_rules_endpoint_changes_pending"),
        0.0
    );
    assert!(value("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}") >= 2.0);
    assert!(value("kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}") > 1e9);
    assert!(value("causeway_sync_last_operations") >= 1.0);
    let (_, _, text) = get(&bed.netns, metrics(), "/metrics").unwrap();
    assert!(
        text.contains("\nrest_client_requests_total{code=\"200\",host=\"127.0.0.1:"),
        "{text}"
    );
    assert_eq!(
        value("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}"),
        0.0
    );
}

#[test]
fn mode_and_configuration_are_shown() {
    let bed = Bed::new().unwrap();
    let _proxy = bed
        .proxy(&["--cluster-cidr=10.240.0.0/12", "--oom-score-adj=-999"])
        .unwrap();
    wait_until("an answer", PATIENCE, || {
        get(&bed.netns, metrics(), "/healthz").is_ok()
    })
    .unwrap();
    assert_eq!(
        get(&bed.netns, metrics(), "/proxyMode").unwrap().2,
        "nftables"
    );
    assert_eq!(get(&bed.netns, metrics(), "/healthz").unwrap().2, "ok");
    let configz: Value =
        serde_json::from_str(&get(&bed.netns, metrics(), "/configz").unwrap().2).unwrap();
    let config = &configz["kubeproxy.config.k8s.io"];
    assert_eq!(config["clusterCIDR"], json!("10.240.0.0/12"));
    assert_eq!(config["hostnameOverride"], json!(NODE_NAME));
    assert!(
        get(&bed.netns, metrics(), "/nothing")
            .unwrap()
            .0
            .contains("404")
    );
    assert_eq!(config["oomScoreAdj"], json!(-999));
    assert_eq!(
        config["conntrack"]["maxPerCore"],
        json!(32768),
        "defaults, too"
    );
    let flags = get(&bed.netns, metrics(), "/flagz").unwrap().2;
    for line in ["cluster-cidr=10.240.0.0/12", "conntrack-max-per-core=32768"] {
        assert!(flags.contains(&format!("\n{line}\n")), "{flags}");
    }
    let slis = get(&bed.netns, metrics(), "/metrics/slis").unwrap().2;
    assert!(slis.contains("kubernetes_healthcheck{name=\"proxier\",type=\"livez\"} 1"));
}

/// As kube-proxy gives them to programs that ask for them.
#[test]
fn status_and_flags_are_objects_for_programs() {
    let bed = Bed::new().unwrap();
    let _proxy = bed.proxy(&["--cluster-cidr=10.240.0.0/12"]).unwrap();
    wait_until("an answer", PATIENCE, || {
        get(&bed.netns, metrics(), "/healthz").is_ok()
    })
    .unwrap();
    let ask = |path: &str, accept: &str| get_as(&bed.netns, metrics(), path, accept).unwrap();
    let object = |path: &str, version: &str, kind: &str| {
        let accept = format!("application/json;v={version};g=config.k8s.io;as={kind}");
        let (status, headers, body) = ask(path, &accept);
        assert!(status.contains("200"), "{status}");
        assert!(
            headers.contains("content-type: application/json"),
            "{headers}"
        );
        let deprecated = headers.contains("warning: 299 - \"this version");
        assert_eq!(deprecated, version == "v1alpha1", "{headers}");
        let object: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            object["apiVersion"],
            json!(format!("config.k8s.io/{version}"))
        );
        assert_eq!(object["kind"], json!(kind));
        assert_eq!(object["metadata"], json!({"name": "causeway-proxy"}));
        object
    };
    for version in ["v1alpha1", "v1beta1"] {
        let status = object("/statusz", version, "Statusz");
        assert!(
            status["startTime"].as_str().unwrap().ends_with('Z'),
            "{status}"
        );
        assert!(status["uptimeSeconds"].is_u64(), "{status}");
        assert!(status["binaryVersion"].is_string(), "{status}");
        assert!(
            status["paths"]
                .as_array()
                .unwrap()
                .contains(&json!("/metrics"))
        );
        let flags = object("/flagz", version, "Flagz");
        assert_eq!(flags["flags"]["cluster-cidr"], json!("10.240.0.0/12"));
        assert_eq!(flags["flags"]["conntrack-max-per-core"], json!("32768"));
    }
    let yaml = "application/yaml;v=v1beta1;g=config.k8s.io;as=Flagz";
    let (_, headers, body) = ask("/flagz", yaml);
    assert!(
        headers.contains("content-type: application/yaml"),
        "{headers}"
    );
    assert!(body.contains("cluster-cidr: 10.240.0.0/12"), "{body}");
    let (status, ..) = ask("/statusz", "application/json");
    assert!(status.contains("406"), "{status}");
    let (status, _, text) = ask("/statusz", "text/plain");
    assert!(
        status.contains("200") && text.contains("\nMode: nftables"),
        "{text}"
    );
}

#[test]
fn one_endpoint_costs_a_handful_of_operations_however_many_services_there_are() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 1, PORTS[0]);
    let others: Vec<SocketAddr> = (1..400)
        .map(|index| put(&bed, &format!("other-{index}"), index, 3, PORTS[0]))
        .collect();
    let _proxy = bed.proxy(&[]).unwrap();
    for target in [web, others[398 / 2], others[398]] {
        wait_for(&bed.netns, target, PORTS[0], PATIENCE).unwrap();
    }
    let operations = || -> u64 {
        let text = get(&bed.netns, metrics(), "/metrics").unwrap().2;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("causeway_sync_last_operations "));
        line.unwrap().parse().unwrap()
    };
    wait_until("the end of the first pass", PATIENCE, || operations() > 400).unwrap();
    put(&bed, "web", 0, 1, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    wait_until("a pass of a few operations", PATIENCE, || operations() <= 4).unwrap();
}

#[test]
fn idle_and_boundless_clients_keep_nobody_waiting() {
    let bed = Bed::new().unwrap();
    let _proxy = bed.proxy(&[]).unwrap();
    wait_until("an answer", PATIENCE, || {
        get(&bed.netns, healthz(), "/livez").is_ok()
    })
    .unwrap();
    let idle: Vec<TcpStream> = bed
        .netns
        .run(|| {
            let connect = || TcpStream::connect(healthz()).unwrap();
            std::iter::repeat_with(connect).take(100).collect()
        })
        .unwrap();
    assert!(
        get(&bed.netns, healthz(), "/livez")
            .unwrap()
            .0
            .contains("200")
    );
    // The oldest were hung up on.
    let mut oldest = &idle[0];
    oldest.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(oldest.read(&mut [0]).unwrap(), 0);
    let long = format!("/livez?{}", "x".repeat(100_000));
    match get(&bed.netns, healthz(), &long) {
        Ok((status, ..)) => assert!(
            status.contains(" 431 ") || status.contains(" 414 "),
            "{status}"
        ),
        // It hangs up with the rest unread, which may overtake what it said.
        Err(error) => {
            let kind = error.downcast_ref().map(std::io::Error::kind);
            let hung_up = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(kind.is_some_and(|kind| hung_up.contains(&kind)), "{error}");
        }
    }
}
