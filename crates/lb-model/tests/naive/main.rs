//! The model against a second, naive statement of the rules, over random clusters and changes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rules;

use std::collections::{BTreeMap, BTreeSet};

use lb_model::generate::{Cluster, Random};
use lb_model::said::{EndpointSlice, Event};
use lb_model::{Family, Frontend, Model, Route, ServiceName, Treatment};
use proptest::prelude::*;
use rules::{Table, World};

fn world(cluster: &Cluster) -> World<'_> {
    World {
        config: &cluster.config,
        node: cluster.node.as_ref(),
        services: cluster.services.iter().flatten().collect(),
        slices: cluster.slices.iter().flatten().collect(),
    }
}

/// Everything that the model says.
fn table(model: &Model) -> Table {
    let mut table = Table::new();
    for service in model.services() {
        for family in Family::ALL {
            let frontends = model.frontends(service, family);
            assert!(
                frontends.is_sorted_by(|a, b| a.address < b.address),
                "{frontends:?}"
            );
            for frontend in frontends {
                assert_eq!(frontend.address.family(), family);
                assert_eq!(model.frontend(&frontend.address).as_ref(), Some(&frontend));
                let name = service.as_str().to_owned();
                assert!(table.insert(frontend.address, (name, frontend)).is_none());
            }
        }
    }
    table
}

fn fill(model: &mut Model, events: impl IntoIterator<Item = Event>) {
    for event in events {
        model.apply(event);
    }
}

fn filled(cluster: &Cluster) -> Model {
    let mut model = Model::new(cluster.config.clone());
    fill(&mut model, cluster.events());
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every frontend is decided as the naive rules decide it, after any history.
    #[test]
    fn frontends_are_those_of_the_naive_rules(seed: u64, size in 1_usize..9, changes in 0_usize..40) {
        let mut cluster = Cluster::new(seed, size);
        let mut model = filled(&cluster);
        prop_assert_eq!(table(&model), world(&cluster).table());
        for _ in 0..changes {
            model.apply(cluster.change());
        }
        prop_assert_eq!(table(&model), world(&cluster).table());
    }

    /// The oracle sends every packet where the naive rules send it.
    #[test]
    fn the_oracle_is_the_naive_rules(seed: u64, size in 1_usize..9, changes in 0_usize..20) {
        let mut cluster = Cluster::new(seed, size);
        let mut model = filled(&cluster);
        for _ in 0..changes {
            model.apply(cluster.change());
        }
        let expected = world(&cluster).table();
        for _ in 0..200 {
            let packet = cluster.packet();
            let route = model.route_packet(&packet);
            prop_assert_eq!(&route, &world(&cluster).route(&expected, &packet), "{:?}", packet);
        }
    }

    /// Whoever looks only at the Services named by `take_changes` misses nothing.
    #[test]
    fn changes_name_every_service_that_changed(seed: u64, size in 1_usize..9, changes in 1_usize..40) {
        let mut cluster = Cluster::new(seed, size);
        let mut model = filled(&cluster);
        model.take_changes();
        let mut random = Random::new(seed);
        let mut held = by_service(&model);
        let mut detectors = Family::ALL.map(|family| model.local_detector(family));
        for _ in 0..changes {
            for _ in 0..random.below(3) {
                model.apply(cluster.change());
            }
            let taken = model.take_changes();
            for service in &taken.services {
                refresh(&mut held, &model, service);
            }
            prop_assert_eq!(&held, &by_service(&model));
            let now = Family::ALL.map(|family| model.local_detector(family));
            prop_assert!(taken.detector || now == detectors);
            detectors = now;
            prop_assert_eq!(model.take_changes(), lb_model::Changes::default());
        }
    }

    /// The same objects in another order are the same model.
    #[test]
    fn the_order_of_events_does_not_matter(seed: u64, size in 1_usize..9) {
        let cluster = Cluster::new(seed, size);
        let mut events = cluster.events();
        events.retain(|event| matches!(event, Event::Service(_) | Event::Slice(_) | Event::Node(_)));
        let mut random = Random::new(!seed);
        for i in (1..events.len()).rev() {
            events.swap(i, random.below(i + 1));
        }
        let mut model = Model::new(cluster.config.clone());
        fill(&mut model, events);
        prop_assert_eq!(table(&model), table(&filled(&cluster)));
    }

    /// After a relist only what it named is left, whatever was before.
    #[test]
    fn a_relist_removes_what_it_does_not_name(seed: u64, size in 1_usize..9, changes in 0_usize..40) {
        let mut cluster = Cluster::new(seed, size);
        let mut model = filled(&cluster);
        model.take_changes();
        let mut held = by_service(&model);
        for _ in 0..changes {
            cluster.change();
        }
        if cluster.node.is_none() {
            model.apply(Event::NodeGone);
        }
        // A list that broke off halfway does no harm.
        fill(&mut model, cluster.events().into_iter().take(size));
        fill(&mut model, cluster.events());
        prop_assert_eq!(table(&model), world(&cluster).table());
        for service in model.take_changes().services {
            refresh(&mut held, &model, &service);
        }
        prop_assert_eq!(held, by_service(&model));
    }

    /// A changed EndpointSlice and its undoing, seen together, are no change.
    #[test]
    fn an_undone_slice_vanishes(seed: u64, size in 1_usize..9) {
        let mut cluster = Cluster::new(seed, size);
        let mut model = filled(&cluster);
        model.take_changes();
        let before = cluster.clone();
        for _ in 0..4 {
            let (Event::Slice(EndpointSlice { namespace, name, .. })
            | Event::SliceGone { namespace, name }) = cluster.change() else { continue };
            let find = |cluster: &Cluster| {
                let mut slices = cluster.slices.iter().flatten();
                slices.find(|slice| slice.namespace == namespace && slice.name == name).cloned()
            };
            for found in [find(&cluster), find(&before)] {
                let gone = Event::SliceGone { namespace: namespace.clone(), name: name.clone() };
                model.apply(found.map_or(gone, Event::Slice));
            }
        }
        prop_assert_eq!(model.take_changes().services, BTreeSet::new());
        prop_assert_eq!(table(&model), table(&filled(&before)));
    }

    /// Masquerade is hairpin's, too, and never without a translation.
    #[test]
    fn hairpin_is_masqueraded(seed: u64, size in 1_usize..9) {
        let mut cluster = Cluster::new(seed, size);
        let model = filled(&cluster);
        for _ in 0..100 {
            let packet = cluster.packet();
            let route = model.route_packet(&packet);
            let Route::Endpoints { candidates, masquerade } = &route else { continue };
            for endpoint in candidates {
                let hairpin = endpoint.local && endpoint.ip == packet.source;
                prop_assert_eq!(route.masqueraded_to(endpoint, packet.source), *masquerade || hairpin);
            }
        }
    }
}

type Held = BTreeMap<(String, Family), Vec<Frontend>>;

fn by_service(model: &Model) -> Held {
    let mut held = Held::new();
    for service in model.services() {
        refresh(&mut held, model, service);
    }
    held
}

fn refresh(held: &mut Held, model: &Model, service: &ServiceName) {
    for family in Family::ALL {
        let frontends = model.frontends(service, family);
        let key = (service.as_str().to_owned(), family);
        if frontends.is_empty() {
            held.remove(&key);
        } else {
            held.insert(key, frontends);
        }
    }
}

/// What the random clusters must reach: the properties above mean something.
const KINDS_OF_DECISION: [&str; 24] = [
    "1 sources",
    "2 sources",
    "ClusterIp",
    "Drop",
    "ExternalIp",
    "LoadBalancer",
    "NodePort",
    "NotOurs",
    "Reject",
    "affinity",
    "complaint spec.clusterIPs",
    "complaint spec.externalIPs",
    "complaint spec.ports[].nodePort",
    "complaint status.loadBalancer.ingress[].ip",
    "forward Always",
    "forward OffCluster",
    "local only, none here",
    "local only, some here",
    "to endpoints, masquerade false, hairpin false",
    "to endpoints, masquerade false, hairpin true",
    "to endpoints, masquerade true, hairpin false",
    "to endpoints, masquerade true, hairpin true",
    "treatment Drop",
    "treatment Reject",
];

#[test]
fn the_generator_reaches_every_kind_of_decision() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        look(&mut Cluster::new(seed, 6), &mut seen);
    }
    for expected in KINDS_OF_DECISION {
        assert!(seen.contains(expected), "no {expected} in {seen:#?}");
    }
}

fn look(cluster: &mut Cluster, seen: &mut BTreeSet<String>) {
    let mut model = Model::new(cluster.config.clone());
    let events = cluster.events().into_iter();
    let mut complaints: Vec<_> = events.flat_map(|event| model.apply(event)).collect();
    let disputes = model.take_disputes().into_iter();
    complaints.extend(disputes.flat_map(|(_, complaints)| complaints));
    let complaints = complaints.into_iter();
    seen.extend(complaints.map(|complaint| format!("complaint {}", complaint.field)));
    for (_, frontend) in table(&model).into_values() {
        seen.insert(format!("{:?}", frontend.kind));
        seen.insert(treatment(&frontend.treatment));
        seen.extend(frontend.affinity.map(|_| "affinity".to_owned()));
        seen.extend(
            frontend
                .allowed_sources
                .map(|sources| format!("{} sources", sources.len())),
        );
    }
    for _ in 0..50 {
        let packet = cluster.packet();
        seen.insert(match model.route_packet(&packet) {
            Route::Endpoints {
                candidates,
                masquerade,
            } => {
                let hairpin = candidates.iter().any(|e| e.local && e.ip == packet.source);
                format!("to endpoints, masquerade {masquerade}, hairpin {hairpin}")
            }
            other => format!("{other:?}"),
        });
    }
}

fn treatment(treatment: &Treatment) -> String {
    match treatment {
        Treatment::Forward { masquerade, .. } => format!("forward {masquerade:?}"),
        Treatment::LocalOnly { local, .. } if local.is_empty() => {
            "local only, none here".to_owned()
        }
        Treatment::LocalOnly { .. } => "local only, some here".to_owned(),
        other => format!("treatment {other:?}"),
    }
}
