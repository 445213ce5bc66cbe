//! Every decision can be explained.

use super::*;
use lb_model::DetectLocal;

fn explained(model: &Model, from: &str, to: &str, port: u16) -> String {
    model.explain(&packet(from, to, port))
}

#[test]
fn a_forwarded_packet_names_every_endpoint() {
    let detect_local = DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]);
    let mut model = Model::new(ModelConfig {
        detect_local,
        ..config()
    });
    let zoned = |ip: &str, node: &str, zone: &str| SliceEndpoint {
        zone_hints: vec![zone.to_owned()],
        ..endpoint(ip, node)
    };
    let eps = vec![
        zoned("10.244.0.2", "here", "east"),
        zoned("10.244.1.2", "there", "west"),
        terminating("10.244.0.3", "here"),
    ];
    model.apply(Event::Service(Service {
        client_ip_affinity: true,
        ..service("web")
    }));
    model.apply(Event::Slice(slice("a", "web", eps)));
    model.apply(Event::Node(Node {
        zone: "east".to_owned(),
        ..node()
    }));
    assert_eq!(
        explained(&model, "10.244.0.2", "10.96.0.1", 80),
        "tcp from 10.244.0.2 to 10.96.0.1:80\n\
         ClusterIP of Service default/web\n\
         the source is a pod\n\
         a client stays with its endpoint for 10800 s\n\
         to one of 1, source kept\n\
         + 10.244.0.2:8080 ready, on this node, hinted for this zone, the source itself: masqueraded\n\
         - 10.244.0.3:8080 terminating, on this node\n\
         - 10.244.1.2:8080 ready, elsewhere, hinted for another zone\n"
    );
}

#[test]
fn what_is_not_forwarded_says_why() {
    let mut web = balanced("web");
    web.source_ranges = vec!["10.0.0.0/8".to_owned()];
    web.internal_traffic_policy = "Local".to_owned();
    let mut thief = service("thief");
    thief.cluster_ips = vec!["10.96.0.2".to_owned()];
    thief.external_ips = vec!["10.96.0.1".to_owned()];
    let mut model = Model::new(config());
    model.apply(Event::Service(web));
    model.apply(Event::Service(thief));
    model.apply(Event::Slice(slice(
        "a",
        "web",
        vec![endpoint("10.244.1.2", "there")],
    )));
    let last_lines = [
        (
            ("8.8.8.8", "198.51.100.1", 80),
            "dropped: the source is in none of loadBalancerSourceRanges",
        ),
        (
            ("8.8.8.8", "10.96.0.2", 80),
            "rejected: no usable endpoint anywhere",
        ),
        (
            ("8.8.8.8", "10.96.0.1", 81),
            "rejected: a ClusterIP, but no such port",
        ),
        (
            ("8.8.8.8", "10.96.0.3", 80),
            "not ours: no frontend has this address and port",
        ),
    ];
    for ((from, to, port), last) in last_lines {
        assert_eq!(explained(&model, from, to, port).lines().last(), Some(last));
    }
    assert_eq!(
        explained(&model, "8.8.8.8", "10.96.0.1", 80),
        "tcp from 8.8.8.8 to 10.96.0.1:80\n\
         ClusterIP of Service default/web\n\
         claimed in vain by Service default/thief\n\
         the source is not known to be a pod\n\
         dropped: policy Local, and no endpoint on this node\n\
         - 10.244.1.2:8080 ready, elsewhere\n"
    );
}

#[test]
fn a_packet_between_families_is_not_ours() {
    let model = model(vec![service("web")], vec![]);
    let text = explained(&model, "fd00::1", "10.96.0.1", 80);
    assert_eq!(
        text.lines().last(),
        Some("not ours: no frontend has this address and port")
    );
}
