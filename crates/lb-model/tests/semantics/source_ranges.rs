//! `loadBalancerSourceRanges`: only at load-balancer IPs, own family, the node's loop back.

use super::*;
use lb_model::Route;

fn with(ranges: &[&str]) -> Service {
    let source_ranges = ranges.iter().map(|&range| range.to_owned()).collect();
    Service {
        source_ranges,
        ..balanced("web")
    }
}

fn allowed(service: Service) -> Option<Vec<String>> {
    let mut model = Model::new(config());
    model.apply(Event::Service(service));
    model.apply(Event::Node(node()));
    let frontend = of_kind(&model, "web", FrontendKind::LoadBalancer);
    frontend
        .allowed_sources
        .map(|ranges| ranges.iter().map(ToString::to_string).collect())
}

#[test]
fn ranges_are_trimmed_sorted_and_disjoint() {
    let ranges = with(&[
        " 10.2.0.0/16 ",
        "10.0.0.0/8",
        "8.8.8.8/32",
        "",
        "8.8.8.8/32",
    ]);
    assert_eq!(
        allowed(ranges),
        Some(vec!["8.8.8.8/32".to_owned(), "10.0.0.0/8".to_owned()])
    );
}

#[test]
fn none_or_everything_is_everybody() {
    assert_eq!(allowed(with(&[])), None);
    assert_eq!(allowed(with(&[" "])), None);
    assert_eq!(allowed(with(&["10.0.0.0/8", "0.0.0.0/0"])), None);
}

#[test]
fn each_family_is_restricted_by_its_own_ranges() {
    assert_eq!(allowed(with(&["fd00::/8"])), None);
    assert_eq!(
        allowed(with(&["::/0", "10.0.0.0/8"])),
        Some(vec!["10.0.0.0/8".to_owned()])
    );
}

#[test]
fn an_unreadable_range_opens_nothing() {
    assert_eq!(allowed(with(&["10.0.0.0/33"])), Some(vec![]));
    assert_eq!(
        allowed(with(&["10.0.0.0/33", "8.8.8.8/32"])),
        Some(vec!["8.8.8.8/32".to_owned()])
    );
}

#[test]
fn the_nodes_range_lets_the_balancers_own_address_in() {
    let range = "192.168.0.0/16".to_owned();
    assert_eq!(
        allowed(with(&["192.168.0.0/16"])),
        Some(vec![range, "198.51.100.1/32".to_owned()])
    );
    assert_eq!(
        allowed(with(&["0.0.0.0/1", "128.0.0.0/1"])).unwrap().len(),
        2
    );
}

#[test]
fn only_load_balancer_ips_are_restricted() {
    let mut web = with(&["10.0.0.0/8"]);
    web.external_ips = vec!["203.0.113.1".to_owned()];
    let model = model(
        vec![web],
        vec![slice("a", "web", vec![endpoint("10.244.0.2", "here")])],
    );
    for frontend in frontends(&model, "web") {
        let restricted = frontend.kind == FrontendKind::LoadBalancer;
        assert_eq!(
            frontend.allowed_sources.is_some(),
            restricted,
            "{:?}",
            frontend.kind
        );
    }
    assert_eq!(
        model.route_packet(&packet("8.8.8.8", "198.51.100.1", 80)),
        Route::Drop
    );
    assert_ne!(
        model.route_packet(&packet("10.1.2.3", "198.51.100.1", 80)),
        Route::Drop
    );
}

#[test]
fn what_may_not_enter_is_dropped_even_where_nobody_serves() {
    let model = model(vec![with(&["10.0.0.0/8"])], vec![]);
    assert_eq!(
        model.route_packet(&packet("8.8.8.8", "198.51.100.1", 80)),
        Route::Drop
    );
    assert_eq!(
        model.route_packet(&packet("10.1.2.3", "198.51.100.1", 80)),
        Route::Reject
    );
}

#[test]
fn an_address_that_is_external_and_the_balancers_is_restricted() {
    let mut web = with(&["10.0.0.0/8"]);
    web.external_ips = vec!["198.51.100.1".to_owned()];
    let model = model(vec![web], vec![]);
    let frontend = model
        .frontend(&vip("198.51.100.1", Protocol::Tcp, 80))
        .unwrap();
    assert_eq!(frontend.kind, FrontendKind::LoadBalancer);
    assert_eq!(frontends(&model, "web").len(), 3);
}
