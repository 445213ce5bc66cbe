//! How many rules there are, and what a change costs.

use lb_model::generate::uniform;
use lb_model::said::{Event, SliceEndpoint};
use lb_model::{DetectLocal, Family, Model, ModelConfig};
use lb_plan::iptables::{Applied, Listing, Restore, Table, VirtualTables};

use crate::node::{Node, settings};

/// The cluster of [`uniform`] on a node in memory.
fn filled(services: u32, endpoints: u32) -> (Model, Node) {
    let mut model = Model::new(ModelConfig {
        node_name: "node-0".to_owned(),
        detect_local: DetectLocal::ClusterCidr(vec!["10.128.0.0/9".parse().unwrap()]),
        masquerade_all: false,
    });
    for event in uniform(services, endpoints) {
        model.apply(event);
    }
    model.take_changes();
    let mut node = Node::new(settings(&model, Family::V4, None));
    node.large = services * endpoints > 1000;
    node.full(&model);
    (model, node)
}

/// Lets `change` change the slice of Service `number` of [`uniform`] and applies that; gives the
/// lines of the input.
fn changed(
    model: &mut Model,
    node: &mut Node,
    (number, endpoints): (usize, u32),
    change: impl FnOnce(&mut Vec<SliceEndpoint>),
) -> Vec<String> {
    let mut slices =
        uniform(u32::try_from(number).unwrap() + 1, endpoints).filter_map(|event| match event {
            Event::Slice(slice) => Some(slice),
            _ => None,
        });
    let mut slice = slices.nth(number).unwrap();
    change(&mut slice.endpoints);
    model.apply(Event::Slice(slice));
    let services = model.take_changes().services;
    let input = node.partial(model, &services);
    input.lines().map(str::to_owned).collect()
}

#[test]
fn there_are_as_many_rules_as_kube_proxy_makes() {
    // What kube-proxy's own test expects of its table nat.
    for (services, endpoints, rules) in [
        (0, 0, 5),
        (1, 1, 10),
        (1, 10, 37),
        (10, 0, 5),
        (10, 1, 55),
        (10, 10, 325),
    ] {
        let (_, node) = filled(services, endpoints);
        assert_eq!(
            node.applied.rules(Table::Nat),
            rules,
            "{services} {endpoints}"
        );
        let saved = node.tables.save();
        let (_, nat) = saved.split_once("*nat").unwrap();
        let ours = nat.lines().filter(|line| {
            line.starts_with("-A KUBE-") && !line.starts_with("-A KUBE-PROXY-CANARY")
        });
        assert_eq!(u64::try_from(ours.count()).unwrap(), rules);
    }
}

#[test]
fn one_changed_endpoint_touches_the_chains_of_its_service_only() {
    let (mut model, mut node) = filled(1000, 10);
    let lines = changed(&mut model, &mut node, (7, 10), |endpoints| {
        endpoints[3].addresses = vec!["10.200.0.1".to_owned()];
    });
    // The old and the new endpoint's chain, two rules for the new one, one inserted and one deleted
    // where it is chosen, one chain removed; and the table around it.
    assert_eq!(lines.len(), 2 + 2 + 2 + 1 + 2, "{lines:#?}");
    let shared = |line: &&String| line.contains("KUBE-SERVICES");
    assert_eq!(lines.iter().filter(shared).count(), 0);
    // One fewer: the first one takes its place, where it isn't the first itself.
    let lines = changed(&mut model, &mut node, (7, 10), |endpoints| {
        endpoints[3].addresses = vec!["10.200.0.1".to_owned()];
        endpoints.pop();
    });
    assert_eq!(lines.len(), 1 + 3 + 1 + 2, "{lines:#?}");
    // One more goes to the beginning.
    let lines = changed(&mut model, &mut node, (7, 10), |endpoints| {
        endpoints[3].addresses = vec!["10.200.0.1".to_owned()];
    });
    assert_eq!(lines.len(), 1 + 2 + 1 + 2, "{lines:#?}");
    // All others: writing their choice anew is shorter.
    let lines = changed(&mut model, &mut node, (7, 10), |endpoints| {
        for (number, endpoint) in endpoints.iter_mut().enumerate() {
            endpoint.addresses = vec![format!("10.200.1.{number}")];
        }
    });
    assert_eq!(lines.len(), 1 + 2 * 10 + 11 + 2 * 10 + 10 + 2, "{lines:#?}");
}

#[test]
fn a_service_that_comes_or_goes_adds_one_line_to_what_all_share() {
    let (mut model, mut node) = filled(1000, 10);
    let gone = changed(&mut model, &mut node, (999, 10), Vec::clear);
    // Eleven chains emptied and removed; from nat to filter; and the two tables around it.
    assert_eq!(gone.len(), 2 * 11 + 2 + 4, "{gone:#?}");
    let back = changed(&mut model, &mut node, (999, 10), |_| {});
    assert_eq!(back.len(), 11 + 31 + 2 + 4, "{back:#?}");
    let nothing = changed(&mut model, &mut node, (999, 10), |_| {});
    assert_eq!(nothing, Vec::<String>::new());
}

#[test]
fn endpoints_have_no_words_in_a_large_cluster() {
    for (services, worded) in [(100, true), (101, false)] {
        let (_, node) = filled(services, 10);
        let saved = node.tables.save();
        assert_eq!(saved.contains("svc-1 -> "), worded);
        assert!(saved.contains("\"default/svc-1 cluster IP\""));
    }
}

#[test]
fn everything_in_parts_is_the_same_as_at_once() {
    let (model, node) = filled(20, 3);
    let mut tables = VirtualTables::default();
    let services: Vec<_> = model.services().collect();
    for part in services.chunks(7) {
        let mut restore = Restore::chains(&node.settings);
        for service in part {
            restore.add(service, node.rules(&model, service));
        }
        tables.restore(&restore.finish().text).unwrap();
    }
    let mut restore = Restore::shared(&node.settings, &Listing::default());
    for service in services {
        restore.add(service, node.rules(&model, service));
    }
    let input = restore.finish();
    tables.restore(&input.text).unwrap();
    let mut applied = Applied::default();
    input.commit(&node.settings, &mut applied);
    assert_eq!(tables.save(), node.tables.save());
    assert_eq!(applied.rules(Table::Nat), node.applied.rules(Table::Nat));
    assert!(applied.is_in(&node.settings, &node.listing()));
}
