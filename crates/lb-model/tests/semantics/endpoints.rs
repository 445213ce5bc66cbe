//! Which endpoints: slices merged, duplicates, named ports, terminating ones.

use super::*;

#[test]
fn several_slices_are_one_service() {
    let slices = vec![
        slice("a", "web", vec![endpoint("10.244.0.2", "here")]),
        slice(
            "b",
            "web",
            vec![
                endpoint("10.244.0.3", "here"),
                endpoint("10.244.0.2", "here"),
            ],
        ),
    ];
    let model = model(vec![service("web")], slices);
    assert_eq!(
        cluster_ip_forwards(&model),
        ["10.244.0.2:8080", "10.244.0.3:8080"]
    );
}

#[test]
fn an_endpoint_that_one_slice_calls_ready_is_ready() {
    let (ready, not) = (
        endpoint("10.244.0.2", "here"),
        unready("10.244.0.2", "here"),
    );
    for (first, second) in [(ready.clone(), not.clone()), (not, ready)] {
        let slices = vec![
            slice("a", "web", vec![first]),
            slice("b", "web", vec![second]),
        ];
        assert_eq!(
            cluster_ip_forwards(&model(vec![service("web")], slices)),
            ["10.244.0.2:8080"]
        );
    }
}

#[test]
fn an_endpoint_that_one_slice_calls_local_is_local() {
    let slices = vec![
        slice("a", "web", vec![endpoint("10.244.0.2", "")]),
        slice("b", "web", vec![endpoint("10.244.0.2", "here")]),
    ];
    let model = model(vec![service("web")], slices);
    let Treatment::Forward { endpoints, .. } = &frontends(&model, "web")[0].treatment else {
        panic!()
    };
    assert_eq!(*endpoints, [chosen("10.244.0.2", 8080, true)]);
}

#[test]
fn a_named_port_has_another_number_in_another_slice() {
    let mut other = slice("b", "web", vec![endpoint("10.244.0.3", "here")]);
    other.ports = vec![
        slice_port("http", "TCP", 9090),
        slice_port("admin", "TCP", 9999),
    ];
    let slices = vec![
        slice("a", "web", vec![endpoint("10.244.0.2", "here")]),
        other,
    ];
    let model = model(vec![service("web")], slices);
    assert_eq!(
        cluster_ip_forwards(&model),
        ["10.244.0.2:8080", "10.244.0.3:9090"]
    );
}

#[test]
fn a_port_without_number_is_left_out() {
    let mut all = slice("a", "web", vec![endpoint("10.244.0.2", "here")]);
    all.ports[0].port = None;
    let model = model(vec![service("web")], vec![all]);
    assert_eq!(frontends(&model, "web")[0].treatment, Treatment::Reject);
}

#[test]
fn only_the_first_address_counts() {
    let mut two = endpoint("10.244.0.2", "here");
    two.addresses.push("10.244.0.3".to_owned());
    let model = model(vec![service("web")], vec![slice("a", "web", vec![two])]);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn absent_conditions_mean_ready() {
    let bare = SliceEndpoint {
        addresses: vec!["10.244.0.2".to_owned()],
        ..SliceEndpoint::default()
    };
    let model = model(vec![service("web")], vec![slice("a", "web", vec![bare])]);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn headless_fqdn_and_ownerless_slices_are_ignored() {
    let eps = || vec![endpoint("10.244.0.2", "here")];
    let headless = EndpointSlice {
        headless_label: true,
        ..slice("a", "web", eps())
    };
    let fqdn = EndpointSlice {
        address_type: "FQDN".to_owned(),
        ..slice("b", "web", eps())
    };
    let mut named = fqdn;
    named.endpoints[0].addresses = vec!["db.example.org".to_owned()];
    let model = model(
        vec![service("web")],
        vec![headless, named, slice("c", "", eps())],
    );
    assert_eq!(frontends(&model, "web")[0].treatment, Treatment::Reject);
}

#[test]
fn terminating_endpoints_serve_when_nobody_is_ready() {
    let leaving = || {
        vec![
            terminating("10.244.0.2", "here"),
            unready("10.244.0.3", "here"),
        ]
    };
    let last = model(vec![service("web")], vec![slice("a", "web", leaving())]);
    assert_eq!(cluster_ip_forwards(&last), ["10.244.0.2:8080"]);
    let mut eps = leaving();
    eps.push(endpoint("10.244.1.2", "there"));
    let relieved = model(vec![service("web")], vec![slice("a", "web", eps)]);
    assert_eq!(cluster_ip_forwards(&relieved), ["10.244.1.2:8080"]);
}

#[test]
fn a_terminating_endpoint_that_does_not_serve_is_none() {
    let dead = SliceEndpoint {
        serving: Some(false),
        ..terminating("10.244.0.2", "here")
    };
    let model = model(vec![service("web")], vec![slice("a", "web", vec![dead])]);
    assert_eq!(frontends(&model, "web")[0].treatment, Treatment::Reject);
}

#[test]
fn the_terminating_fallback_is_decided_for_each_policy_by_itself() {
    let web = Service {
        external_traffic_policy: "Local".to_owned(),
        ..balanced("web")
    };
    let eps = vec![
        terminating("10.244.0.2", "here"),
        endpoint("10.244.1.2", "there"),
    ];
    let model = model(vec![web], vec![slice("a", "web", eps)]);
    let local_only = Treatment::LocalOnly {
        cluster: vec![chosen("10.244.1.2", 8080, false)],
        local: vec![chosen("10.244.0.2", 8080, true)],
    };
    assert_eq!(
        of_kind(&model, "web", FrontendKind::LoadBalancer).treatment,
        local_only
    );
    assert_eq!(cluster_ip_forwards(&model), ["10.244.1.2:8080"]);
}

#[test]
fn without_a_node_name_nothing_is_local() {
    let mut model = Model::new(ModelConfig::default());
    model.apply(Event::Service(service("web")));
    model.apply(Event::Slice(slice(
        "a",
        "web",
        vec![endpoint("10.244.0.2", "")],
    )));
    let Treatment::Forward { endpoints, .. } = &frontends(&model, "web")[0].treatment else {
        panic!("does not forward")
    };
    let nowhere = Endpoint {
        delegable: false,
        ..chosen("10.244.0.2", 8080, false)
    };
    assert_eq!(*endpoints, [nowhere]);
}
