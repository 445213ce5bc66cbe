//! The door's order: lists, moves, changes, nothing left behind.

use super::*;

fn web_slice() -> EndpointSlice {
    slice("a", "web", vec![endpoint("10.244.0.2", "here")])
}

fn slice_gone(name: &str) -> Event {
    Event::SliceGone {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn ready_once_both_first_lists_are_in() {
    let mut model = Model::new(config());
    for event in [
        Event::ServiceListEnds,
        Event::SliceListEnds,
        Event::ServiceListBegins,
        Event::ServiceListEnds,
        Event::SliceListBegins,
    ] {
        model.apply(event);
        assert!(!model.ready());
    }
    model.apply(Event::SliceListEnds);
    assert!(model.ready());
    model.apply(Event::SliceListBegins);
    assert!(model.ready());
}

#[test]
fn a_slice_may_come_before_its_service() {
    let mut model = Model::new(config());
    model.apply(Event::Slice(web_slice()));
    assert_eq!(model.take_changes().services.len(), 0);
    assert_eq!(model.services().count(), 0);
    model.apply(Event::Service(service("web")));
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn a_relist_removes_what_it_does_not_name() {
    let mut model = model(vec![service("web")], vec![web_slice()]);
    model.take_changes();
    model.apply(Event::SliceListBegins);
    model.apply(Event::Slice(slice(
        "b",
        "web",
        vec![endpoint("10.244.0.3", "here")],
    )));
    assert_eq!(cluster_ip_forwards(&model).len(), 2);
    model.apply(Event::SliceListEnds);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.3:8080"]);
    model.apply(Event::ServiceListBegins);
    model.apply(Event::ServiceListEnds);
    assert_eq!(frontends(&model, "web"), []);
    assert!(model.take_changes().services.contains(&name("web")));
}

#[test]
fn a_list_that_ends_without_beginning_removes_nothing() {
    let mut model = model(vec![service("web")], vec![web_slice()]);
    model.apply(Event::ServiceListEnds);
    model.apply(Event::SliceListEnds);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn a_slice_moves_to_another_service() {
    let mut other = service("other");
    other.cluster_ips = vec!["10.96.0.2".to_owned()];
    let mut model = model(vec![service("web"), other], vec![web_slice()]);
    model.take_changes();
    model.apply(Event::Slice(EndpointSlice {
        service: "other".to_owned(),
        ..web_slice()
    }));
    assert_eq!(frontends(&model, "web")[0].treatment, Treatment::Reject);
    assert_eq!(
        forwarded(&frontends(&model, "other")[0]),
        ["10.244.0.2:8080"]
    );
    assert_eq!(model.take_changes().services.len(), 2);
    model.apply(slice_gone("a"));
    assert_eq!(frontends(&model, "other")[0].treatment, Treatment::Reject);
}

#[test]
fn an_endpoint_moves_between_slices_without_a_gap() {
    let both = slice("b", "web", vec![endpoint("10.244.0.2", "here")]);
    let mut model = model(vec![service("web")], vec![web_slice()]);
    model.apply(Event::Slice(both));
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
    model.apply(slice_gone("a"));
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn changes_name_only_what_was_touched() {
    let mut other = service("other");
    other.cluster_ips = vec!["10.96.0.2".to_owned()];
    let mut model = model(vec![service("web"), other], vec![web_slice()]);
    let first = model.take_changes();
    assert_eq!(
        (
            first.services.len(),
            first.service_events,
            first.slice_events
        ),
        (2, 2, 1)
    );
    let grown = vec![
        endpoint("10.244.0.2", "here"),
        endpoint("10.244.0.3", "here"),
    ];
    let time = "2026-01-01T00:00:00.5Z".to_owned();
    model.apply(Event::Slice(EndpointSlice {
        trigger_time: Some(time.clone()),
        ..slice("a", "web", grown)
    }));
    let changes = model.take_changes();
    assert_eq!(
        changes.services.into_iter().collect::<Vec<_>>(),
        [name("web")]
    );
    assert_eq!(changes.trigger_times, [(Family::V4, time)]);
    assert_eq!(
        (
            changes.service_events,
            changes.slice_events,
            changes.detector
        ),
        (0, 1, false)
    );
}

#[test]
fn the_same_again_is_no_change_and_has_no_trigger_time() {
    let mut model = model(vec![service("web")], vec![web_slice()]);
    model.take_changes();
    let time = Some("2026-01-01T00:00:00Z".to_owned());
    model.apply(Event::Service(service("web")));
    model.apply(Event::Slice(EndpointSlice {
        trigger_time: time,
        ..web_slice()
    }));
    let changes = model.take_changes();
    assert_eq!(
        (changes.services.len(), changes.trigger_times.len()),
        (0, 0)
    );
    assert_eq!((changes.service_events, changes.slice_events), (1, 1));
}

#[test]
fn a_change_that_is_undone_before_anybody_looks_is_none() {
    let mut model = model(vec![service("web")], vec![web_slice()]);
    model.take_changes();
    let gone = Event::ServiceGone {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
    };
    for event in [
        slice_gone("a"),
        gone,
        Event::Service(service("web")),
        Event::Slice(web_slice()),
    ] {
        model.apply(event);
    }
    assert_eq!(model.take_changes().services.len(), 0);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn changes_are_handed_over_once() {
    let mut model = model(vec![service("web")], vec![web_slice()]);
    assert_eq!(model.take_changes().services.len(), 1);
    assert_eq!(model.take_changes(), lb_model::Changes::default());
}
