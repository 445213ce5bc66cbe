//! Two Services claim one address.

use super::*;

fn external(name: &str, cluster_ip: &str, created: &str) -> Service {
    Service {
        cluster_ips: vec![cluster_ip.to_owned()],
        created: created.to_owned(),
        external_ips: vec!["203.0.113.1".to_owned()],
        ..service(name)
    }
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

fn owner(model: &Model, address: &str) -> Option<ServiceName> {
    let address = vip(address, Protocol::Tcp, 80);
    let has = |service: &&ServiceName| {
        model
            .frontends(service, Family::V4)
            .iter()
            .any(|frontend| frontend.address == address)
    };
    let owners: Vec<_> = model.services().filter(has).cloned().collect();
    assert!(owners.len() <= 1, "{owners:?}");
    owners.into_iter().next()
}

#[test]
fn the_older_service_keeps_the_address_and_the_other_gets_it_afterwards() {
    let mut model = model(vec![external("z", "10.96.0.1", OLD)], vec![]);
    model.take_changes();
    assert_eq!(model.take_disputes(), []);
    assert_eq!(
        model.apply(Event::Service(external("a", "10.96.0.2", NEW))),
        []
    );
    let complaint = complaint(
        "Service default/a",
        "spec.externalIPs",
        "203.0.113.1 tcp/80, which Service default/z has",
        "an address, protocol and port that no other Service has the better claim to",
    );
    assert_eq!(
        model.take_disputes(),
        [(name("a"), vec![complaint]), (name("z"), vec![])]
    );
    assert_eq!(owner(&model, "203.0.113.1"), Some(name("z")));
    assert_eq!(frontends(&model, "a").len(), 1);

    model.take_changes();
    assert_eq!(
        model.apply(Event::Service(external("a", "10.96.0.2", NEW))),
        []
    );
    model.apply(Event::ServiceGone {
        namespace: "default".to_owned(),
        name: "z".to_owned(),
    });
    assert_eq!(owner(&model, "203.0.113.1"), Some(name("a")));
    assert_eq!(
        model
            .take_changes()
            .services
            .into_iter()
            .collect::<Vec<_>>(),
        [name("a"), name("z")]
    );
    // The end of the dispute is told, too; what is said again is none.
    assert_eq!(
        model.take_disputes(),
        [(name("a"), vec![]), (name("z"), vec![])]
    );
    model.apply(Event::Service(external("a", "10.96.0.2", NEW)));
    assert_eq!(model.take_disputes(), []);
}

#[test]
fn of_three_claims_the_dispute_goes_on_with_another_owner() {
    let all = ["a", "b", "c"].map(|name| {
        external(
            name,
            &format!("10.96.0.{name}", name = name.as_bytes()[0]),
            OLD,
        )
    });
    let mut model = model(all.to_vec(), vec![]);
    let in_vain = |model: &mut Model| -> Vec<(String, Vec<String>)> {
        let disputes = model.take_disputes().into_iter();
        let disputes = disputes.map(|(name, complaints)| {
            let values = complaints.into_iter().map(|complaint| complaint.value);
            (name.to_string(), values.collect())
        });
        disputes.collect()
    };
    let had_by = |owner: &str| {
        vec![format!(
            "203.0.113.1 tcp/80, which Service default/{owner} has"
        )]
    };
    let told = |name: &str, values: Vec<String>| (format!("default/{name}"), values);
    assert_eq!(
        in_vain(&mut model),
        [
            told("a", vec![]),
            told("b", had_by("a")),
            told("c", had_by("a"))
        ]
    );
    let mut moved = external("a", "10.96.0.97", OLD);
    moved.external_ips.clear();
    model.apply(Event::Service(moved));
    assert_eq!(
        in_vain(&mut model),
        [told("a", vec![]), told("b", vec![]), told("c", had_by("b"))]
    );
    model.apply(Event::ServiceListBegins);
    model.apply(Event::Service(external("c", "10.96.0.99", OLD)));
    model.apply(Event::ServiceListEnds);
    assert_eq!(in_vain(&mut model), [told("b", vec![]), told("c", vec![])]);
}

#[test]
fn a_better_claim_that_comes_later_takes_the_address_over() {
    let mut model = model(vec![external("a", "10.96.0.1", NEW)], vec![]);
    model.take_changes();
    model.apply(Event::Service(external("z", "10.96.0.2", OLD)));
    let disputes = model.take_disputes();
    let [(loser, complaints), (winner, none)] = disputes.as_slice() else {
        panic!("{disputes:?}");
    };
    assert_eq!((loser, winner), (&name("a"), &name("z")));
    assert_eq!((complaints.len(), none.len()), (1, 0));
    assert_eq!(complaints[0].object, "Service default/a");
    assert_eq!(owner(&model, "203.0.113.1"), Some(name("z")));
    assert_eq!(
        model
            .take_changes()
            .services
            .into_iter()
            .collect::<Vec<_>>(),
        [name("a"), name("z")]
    );
}

#[test]
fn without_age_the_name_decides_and_an_age_is_better_than_none() {
    let pair = |first, second| {
        let mut model = Model::new(config());
        model.apply(Event::Service(external("a", "10.96.0.1", first)));
        model.apply(Event::Service(external("b", "10.96.0.2", second)));
        owner(&model, "203.0.113.1")
    };
    assert_eq!(pair("", ""), Some(name("a")));
    assert_eq!(pair(OLD, OLD), Some(name("a")));
    assert_eq!(pair("", NEW), Some(name("b")));
}

#[test]
fn nobody_takes_a_cluster_ip_over_by_naming_it() {
    let thief = Service {
        external_ips: vec!["10.96.0.1".to_owned()],
        cluster_ips: vec!["10.96.0.2".to_owned()],
        created: OLD.to_owned(),
        ..service("a")
    };
    let mut model = Model::new(config());
    model.apply(Event::Service(thief));
    assert_eq!(owner(&model, "10.96.0.1"), Some(name("a")));
    model.apply(Event::Service(Service {
        created: NEW.to_owned(),
        ..service("web")
    }));
    assert_eq!(owner(&model, "10.96.0.1"), Some(name("web")));
}

#[test]
fn a_node_port_has_one_owner() {
    let other = |name: &str| Service {
        cluster_ips: vec!["10.96.0.2".to_owned()],
        ingress: vec![],
        ..balanced(name)
    };
    let mut model = Model::new(config());
    model.apply(Event::Service(balanced("b")));
    model.apply(Event::Service(other("c")));
    let (_, complaints) = model.take_disputes().pop().unwrap();
    assert_eq!(complaints.len(), 1);
    assert_eq!(complaints[0].field, "spec.ports[].nodePort");
    assert_eq!(
        complaints[0].value,
        "tcp/30080, which Service default/b has"
    );
    let node_ports = |service| {
        frontends(&model, service)
            .iter()
            .filter(|f| f.kind == FrontendKind::NodePort)
            .count()
    };
    assert_eq!((node_ports("b"), node_ports("c")), (1, 0));
}

#[test]
fn the_same_address_with_another_port_is_no_conflict() {
    let mut other = external("b", "10.96.0.2", NEW);
    other.ports = vec![service_port("https", "TCP", 443)];
    model(vec![external("a", "10.96.0.1", OLD), other], vec![]);
}

#[test]
fn two_ports_with_one_node_port_are_one_claim() {
    let mut twice = service("c");
    twice.cluster_ips = vec!["10.96.0.2".to_owned()];
    twice.ports.push(service_port("https", "TCP", 443));
    for port in &mut twice.ports {
        port.node_port = 30_080;
    }
    let mut alone = model(vec![twice], vec![]);
    assert_eq!(frontends(&alone, "c").len(), 3);
    let older = Service {
        created: OLD.to_owned(),
        ..balanced("b")
    };
    let in_vain = |model: &mut Model| {
        let disputes = model.take_disputes().into_iter();
        let of_c = disputes.filter(|(service, _)| *service == name("c"));
        of_c.map(|(_, complaints)| complaints.len()).sum::<usize>()
    };
    assert_eq!(in_vain(&mut alone), 0);
    alone.apply(Event::Service(older));
    assert_eq!(in_vain(&mut alone), 1);
    assert_eq!(frontends(&alone, "c").len(), 2);
}
