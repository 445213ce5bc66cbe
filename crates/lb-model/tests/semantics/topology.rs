//! Topology hints: node before zone, all or nothing, policy Cluster only.

use super::*;

fn hinted(ip: &str, nodes: &[&str], zones: &[&str]) -> SliceEndpoint {
    let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    SliceEndpoint {
        node_hints: strings(nodes),
        zone_hints: strings(zones),
        ..endpoint(ip, "there")
    }
}

/// Whom `web` forwards to on this node, in zone `east`.
fn chosen_among(endpoints: Vec<SliceEndpoint>) -> Vec<String> {
    let mut model = model(vec![service("web")], vec![slice("a", "web", endpoints)]);
    model.apply(Event::Node(Node {
        zone: "east".to_owned(),
        ..node()
    }));
    cluster_ip_forwards(&model)
}

const ONE: &str = "10.244.1.1";
const TWO: &str = "10.244.1.2";

#[test]
fn the_nodes_own_endpoints_are_preferred() {
    let eps = vec![
        hinted(ONE, &["here"], &["west"]),
        hinted(TWO, &["there"], &["east"]),
    ];
    assert_eq!(chosen_among(eps), ["10.244.1.1:8080"]);
}

#[test]
fn the_zones_own_endpoints_are_preferred() {
    let eps = vec![
        hinted(ONE, &[], &["west"]),
        hinted(TWO, &[], &["east", "west"]),
    ];
    assert_eq!(chosen_among(eps), ["10.244.1.2:8080"]);
}

#[test]
fn node_hints_for_other_nodes_only_leave_the_zone_to_decide() {
    let eps = vec![
        hinted(ONE, &["there"], &["west"]),
        hinted(TWO, &["there"], &["east"]),
    ];
    assert_eq!(chosen_among(eps), ["10.244.1.2:8080"]);
}

#[test]
fn one_endpoint_without_hint_and_hints_are_ignored() {
    let eps = vec![hinted(ONE, &[], &["east"]), hinted(TWO, &[], &[])];
    assert_eq!(chosen_among(eps).len(), 2);
    let eps = vec![hinted(ONE, &["here"], &[]), hinted(TWO, &[], &[])];
    assert_eq!(chosen_among(eps).len(), 2);
}

#[test]
fn nobody_hinted_for_here_and_hints_are_ignored() {
    let eps = vec![hinted(ONE, &[], &["west"]), hinted(TWO, &[], &["north"])];
    assert_eq!(chosen_among(eps).len(), 2);
}

/// Whether the choice among these may be left to their node.
fn delegable(endpoints: Vec<SliceEndpoint>) -> bool {
    let model = model(vec![service("web")], vec![slice("a", "web", endpoints)]);
    let Treatment::Forward { endpoints, .. } = &frontends(&model, "web")[0].treatment else {
        panic!("does not forward")
    };
    endpoints.iter().all(|endpoint| endpoint.delegable)
}

#[test]
fn a_choice_is_left_to_nobody_who_may_be_hinted_for_others() {
    assert!(delegable(vec![
        hinted(ONE, &[], &[]),
        hinted(TWO, &[], &[])
    ]));
    assert!(delegable(vec![
        hinted(ONE, &[], &["east"]),
        hinted(TWO, &[], &[])
    ]));
    // Also where none of them counts for this node.
    for (nodes, zones) in [
        (&[][..], &["north"][..]),
        (&["there"], &[]),
        (&[], &["east"]),
    ] {
        assert!(!delegable(vec![
            hinted(ONE, nodes, zones),
            hinted(TWO, nodes, zones)
        ]));
    }
    assert!(!delegable(vec![endpoint(ONE, "")]));
    assert!(!delegable(vec![endpoint(ONE, "here")]));
}

#[test]
fn endpoints_that_are_not_ready_have_no_say() {
    let mut leaving = terminating(TWO, "here");
    let eps = vec![
        hinted(ONE, &[], &["east"]),
        leaving.clone(),
        unready("10.244.1.3", "here"),
    ];
    assert_eq!(chosen_among(eps), ["10.244.1.1:8080"]);
    leaving.zone_hints = vec!["west".to_owned()];
    assert_eq!(chosen_among(vec![leaving]), ["10.244.1.2:8080"]);
}

#[test]
fn a_node_without_zone_takes_all() {
    let eps = vec![hinted(ONE, &[], &["east"]), hinted(TWO, &[], &["west"])];
    let mut model = model(vec![service("web")], vec![slice("a", "web", eps)]);
    assert_eq!(cluster_ip_forwards(&model).len(), 2);
    model.apply(Event::Node(node()));
    assert_eq!(cluster_ip_forwards(&model).len(), 2);
}

#[test]
fn policy_local_knows_no_hints() {
    let web = Service {
        internal_traffic_policy: "Local".to_owned(),
        external_traffic_policy: "Local".to_owned(),
        ..balanced("web")
    };
    let mut local = hinted(ONE, &[], &["west"]);
    local.node_name = "here".to_owned();
    let eps = vec![local, hinted(TWO, &[], &["east"])];
    let mut model = model(vec![web], vec![slice("a", "web", eps)]);
    model.apply(Event::Node(Node {
        zone: "east".to_owned(),
        ..node()
    }));
    assert_eq!(cluster_ip_forwards(&model), ["10.244.1.1:8080"]);
    let Treatment::LocalOnly { cluster, local } =
        of_kind(&model, "web", FrontendKind::LoadBalancer).treatment
    else {
        panic!("not local only")
    };
    assert_eq!(
        (shown(&cluster), shown(&local)),
        (
            vec!["10.244.1.2:8080".to_owned()],
            vec!["10.244.1.1:8080".to_owned()]
        )
    );
}

#[test]
fn another_zone_of_the_node_touches_services_with_zone_hints_only() {
    let mut plain = service("plain");
    plain.cluster_ips = vec!["10.96.0.2".to_owned()];
    let slices = vec![
        slice(
            "a",
            "web",
            vec![hinted(ONE, &[], &["east"]), hinted(TWO, &[], &["west"])],
        ),
        slice("b", "plain", vec![endpoint("10.244.1.9", "there")]),
    ];
    let mut model = model(vec![service("web"), plain], slices);
    model.take_changes();
    model.apply(Event::Node(Node {
        zone: "west".to_owned(),
        ..node()
    }));
    assert_eq!(
        model
            .take_changes()
            .services
            .into_iter()
            .collect::<Vec<_>>(),
        [name("web")]
    );
    assert_eq!(cluster_ip_forwards(&model), ["10.244.1.2:8080"]);
    model.apply(Event::Node(Node {
        zone: "west".to_owned(),
        deleting: true,
        ..node()
    }));
    assert_eq!(model.take_changes().services.len(), 0);
}

#[test]
fn the_order_of_hints_is_no_change() {
    let eps = |zones: &[&str]| slice("a", "web", vec![hinted(ONE, &[], zones)]);
    let mut model = model(vec![service("web")], vec![eps(&["east", "west"])]);
    model.take_changes();
    model.apply(Event::Slice(eps(&["west", "east", "west"])));
    assert_eq!(model.take_changes().services.len(), 0);
}
