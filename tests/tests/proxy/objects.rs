//! Objects that no API server should hold, among good ones.

use std::net::IpAddr;

use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, answer, get, wait_for, wait_until};
use netns_lab::apiserver::Resource;
use serde_json::json;

use super::{PATIENCE, put};

#[test]
fn bad_objects_are_named_and_the_others_work() {
    let bed = Bed::new().unwrap();
    let good = put(&bed, "good", 0, 2, PORTS[0]);
    let mut words = service("words", cluster_ip(1));
    words["spec"]["ports"] = json!("http");
    let mut half = service("half", cluster_ip(2));
    half["spec"]["externalIPs"] = json!(["not an address", 7]);
    let mut flat = service("flat", cluster_ip(3));
    flat["spec"] = json!("no object");
    bed.store
        .seed(Resource::Service, [words, half, flat])
        .unwrap();
    let mut bad_slice = slice("half", [endpoint_ip(2, 0, 10)], PORTS[0]);
    bad_slice["endpoints"]
        .as_array_mut()
        .unwrap()
        .push(json!({"addresses": ["here"]}));
    bad_slice["endpoints"]
        .as_array_mut()
        .unwrap()
        .push(json!("an endpoint"));
    bed.store
        .seed(Resource::EndpointSlice, [bad_slice])
        .unwrap();

    let proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, good, PORTS[0], PATIENCE).unwrap();
    let half = (IpAddr::from(cluster_ip(2)), 80).into();
    wait_for(&bed.netns, half, PORTS[0], PATIENCE).unwrap();
    for named in [
        "Service default/words\" field=\"spec.ports\" value=\"\\\"http\\\"\"",
        "Service default/half\" field=\"spec.externalIPs[1]\" value=\"7\"",
        "Service default/half\" field=\"spec.externalIPs[0]\" value=\"not an address\"",
        "Service default/flat\" field=\"spec\"",
        "EndpointSlice default/half-x7k2p\" field=\"endpoints[2]\"",
    ] {
        wait_until(named, PATIENCE, || proxy.log().unwrap().contains(named))
            .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    }
    let metrics = ([127, 0, 0, 1], 10249).into();
    let page = |path: &str| get(&bed.netns, metrics, path).unwrap().2;
    let named = "causeway_object_unusable_fields{object=\"Service default/words\"} 1";
    assert!(page("/metrics").contains(named), "{}", page("/metrics"));
    let line = "  Service default/words: spec.ports: \"\\\"http\\\"\"";
    assert!(page("/statusz").contains(line), "{}", page("/statusz"));
    // A watch event of the same kind stops the watch as little as a list.
    let mut later = service("later", cluster_ip(4));
    later["spec"]["ports"] = json!([{"port": "eighty"}]);
    bed.store.seed(Resource::Service, [later]).unwrap();
    put(&bed, "good", 0, 2, PORTS[1]);
    wait_for(&bed.netns, good, PORTS[1], PATIENCE).unwrap();
}

#[test]
fn ten_thousand_services_work_beside_one_that_is_malformed() {
    const COUNT: usize = 10_000;
    const BAD: usize = COUNT / 2;
    let bed = Bed::new().unwrap();
    let name = |index: usize| format!("web-{index}");
    let target = |index: usize| (IpAddr::from(cluster_ip(index)), 80).into();
    let services = (0..COUNT).map(|index| {
        let mut one = service(&name(index), cluster_ip(index));
        if index == BAD {
            one["spec"]["ports"][0]["port"] = json!("eighty");
        }
        one
    });
    let slices = (0..COUNT).map(|index| slice(&name(index), [endpoint_ip(0, 0, 1)], PORTS[0]));
    bed.store.seed(Resource::Service, services).unwrap();
    bed.store.seed(Resource::EndpointSlice, slices).unwrap();
    let proxy = bed.proxy(&[]).unwrap();
    let mut missing: Vec<usize> = (0..COUNT).filter(|index| *index != BAD).collect();
    let last = target(missing[missing.len() - 1]);
    wait_for(&bed.netns, last, PORTS[0], PATIENCE).unwrap();
    wait_until("all the others", PATIENCE, || {
        let gone = |index: &usize| answer(target(*index)) != Some(PORTS[0]);
        bed.netns.run(|| missing.retain(gone)).unwrap();
        missing.is_empty()
    })
    .unwrap();
    let log = proxy.log().unwrap();
    let complaint = "object=\"Service default/web-5000\" field=\"spec.ports[0].port\"";
    assert!(log.contains(complaint), "{log}");
    assert_eq!(
        log.matches("object=").count(),
        log.matches(complaint).count(),
        "{log}"
    );
    let metrics = ([127, 0, 0, 1], 10249).into();
    let page = |path: &str| get(&bed.netns, metrics, path).unwrap().2;
    let text = page("/metrics");
    for line in [
        "causeway_objects_with_unusable_fields 1\n",
        "causeway_object_unusable_fields{object=\"Service default/web-5000\"} ",
    ] {
        assert!(text.contains(line), "no {line}");
    }
    let status = page("/statusz");
    let named = "Objects with unusable fields: 1\n  Service default/web-5000: spec.ports[0].port: ";
    assert!(status.contains(named), "{status}");
}
