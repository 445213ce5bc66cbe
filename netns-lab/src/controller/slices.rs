//! The slices a Service should have, against those it has.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::endpoint::Placed;
use super::kinds::{Endpoint, Service, Slice, SlicePort};

/// The label that names a slice's Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who keeps these.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of headless Services' slices; kube-proxy does not look at them.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the change happened that a slice is the answer to.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// At most this many endpoints are put into a slice (`--max-endpoints-per-slice`).
const MOST_ENDPOINTS: usize = 100;

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    /// Make this slice.
    Create(Value),
    /// Bring the slice of this name to this content.
    Update(String, Content),
    /// Remove the slice of this name.
    Delete(String),
}

/// What a slice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    labels: BTreeMap<String, String>,
    ports: Vec<SlicePort>,
    endpoints: Vec<Endpoint>,
}

impl Content {
    /// Writes this into the slice's JSON; `now` is the time of the change.
    pub(super) fn write(&self, slice: &mut Value, now: &str) {
        slice["metadata"]["labels"] = json!(self.labels);
        if slice["metadata"]
            .get("annotations")
            .is_none_or(Value::is_null)
        {
            slice["metadata"]["annotations"] = json!({});
        }
        slice["metadata"]["annotations"][TRIGGER_TIME] = json!(now);
        slice["ports"] = json!(self.ports);
        slice["endpoints"] = json!(self.endpoints);
    }
}

/// A slice while it is being filled.
struct Draft<'a> {
    /// The slice there is; a new one otherwise.
    existing: Option<&'a Slice>,
    ports: Vec<SlicePort>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The writes that bring `existing` to what `placed` asks for, and no others: endpoints stay in
/// the slice they are in, the rest fill slices that change anyway, then any, then new ones.
pub(super) fn reconcile(
    service: &Service,
    placed: Vec<Placed>,
    existing: &[&Slice],
    now: &str,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    let families = &service.spec.ip_families;
    let mut wanted: BTreeMap<String, BTreeMap<Vec<SlicePort>, Vec<Endpoint>>> = families
        .iter()
        .map(|family| (family.clone(), BTreeMap::new()))
        .collect();
    for Placed {
        family,
        ports,
        endpoint,
    } in placed
    {
        wanted
            .entry(family)
            .or_default()
            .entry(ports)
            .or_default()
            .push(endpoint);
    }
    for slice in existing
        .iter()
        .filter(|slice| !wanted.contains_key(&slice.address_type))
    {
        operations.push(Operation::Delete(slice.metadata.name.clone()));
    }
    for (family, groups) in wanted {
        let mine: Vec<&Slice> = existing
            .iter()
            .copied()
            .filter(|slice| slice.address_type == family)
            .collect();
        reconcile_family(service, &family, groups, &mine, now, &mut operations);
    }
    operations
}

fn reconcile_family(
    service: &Service,
    family: &str,
    groups: BTreeMap<Vec<SlicePort>, Vec<Endpoint>>,
    existing: &[&Slice],
    now: &str,
    operations: &mut Vec<Operation>,
) {
    let mut drafts = Vec::new();
    let mut spare: Vec<&Slice> = existing
        .iter()
        .copied()
        .filter(|slice| !groups.contains_key(&sorted(&slice.ports)))
        .collect();
    for (ports, endpoints) in groups {
        let mine = existing
            .iter()
            .copied()
            .filter(|slice| sorted(&slice.ports) == ports);
        drafts.extend(fill(&ports, &endpoints, mine));
    }
    // Empty drafts go, but one slice stays: it says that the Service has no endpoints.
    let mut emptied = Vec::new();
    drafts.retain(|draft| {
        let keep = !draft.endpoints.is_empty();
        emptied.extend(draft.existing.filter(|_| !keep));
        keep
    });
    spare.extend(emptied);
    if drafts.is_empty() {
        let existing = (!spare.is_empty()).then(|| spare.remove(0));
        let ports = existing
            .map(|slice| slice.ports.clone())
            .unwrap_or_default();
        let changed = existing.is_none_or(|slice| !slice.endpoints.is_empty());
        drafts.push(Draft {
            existing,
            ports,
            endpoints: Vec::new(),
            changed,
        });
    }
    // A slice nobody needs is turned into one that is needed.
    for draft in drafts.iter_mut().filter(|draft| draft.existing.is_none()) {
        draft.existing = spare.pop();
    }
    operations.extend(
        spare
            .iter()
            .map(|slice| Operation::Delete(slice.metadata.name.clone())),
    );
    let labels = labels(service);
    for draft in drafts {
        let content = Content {
            labels: labels.clone(),
            ports: draft.ports,
            endpoints: draft.endpoints,
        };
        match draft.existing {
            Some(slice) if !draft.changed && slice.metadata.labels == labels => {}
            Some(slice) => {
                operations.push(Operation::Update(slice.metadata.name.clone(), content));
            }
            None => {
                let mut slice = fresh(service, family);
                content.write(&mut slice, now);
                operations.push(Operation::Create(slice));
            }
        }
    }
}

/// Puts the endpoints of one group into its slices.
fn fill<'a>(
    ports: &[SlicePort],
    endpoints: &[Endpoint],
    existing: impl Iterator<Item = &'a Slice>,
) -> Vec<Draft<'a>> {
    let mut missing: HashMap<String, Endpoint> = endpoints
        .iter()
        .map(|endpoint| (uid(endpoint).to_owned(), endpoint.clone()))
        .collect();
    let mut drafts: Vec<Draft> = existing
        .map(|slice| {
            let kept = slice
                .endpoints
                .iter()
                .filter_map(|old| missing.remove(uid(old)));
            let kept: Vec<Endpoint> = kept.collect();
            let changed = kept != slice.endpoints;
            Draft {
                existing: Some(slice),
                ports: ports.to_vec(),
                endpoints: kept,
                changed,
            }
        })
        .collect();
    let order = endpoints.iter().map(uid);
    let mut rest = order
        .filter_map(|uid| missing.remove(uid))
        .collect::<Vec<_>>()
        .into_iter();
    for changed in [true, false] {
        for draft in drafts.iter_mut().filter(|draft| draft.changed == changed) {
            let space = MOST_ENDPOINTS.saturating_sub(draft.endpoints.len());
            let before = draft.endpoints.len();
            draft.endpoints.extend(rest.by_ref().take(space));
            draft.changed |= draft.endpoints.len() != before;
        }
    }
    loop {
        let endpoints: Vec<Endpoint> = rest.by_ref().take(MOST_ENDPOINTS).collect();
        if endpoints.is_empty() {
            return drafts;
        }
        drafts.push(Draft {
            existing: None,
            ports: ports.to_vec(),
            endpoints,
            changed: true,
        });
    }
}

fn uid(endpoint: &Endpoint) -> &str {
    endpoint
        .target_ref
        .as_ref()
        .map(|target| target.uid.as_str())
        .unwrap_or_default()
}

fn sorted(ports: &[SlicePort]) -> Vec<SlicePort> {
    let mut ports = ports.to_vec();
    ports.sort();
    ports
}

/// The Service's labels, and those that say what the slice is.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn fresh(service: &Service, family: &str) -> Value {
    let metadata = &service.metadata;
    json!({
        "metadata": {
            "generateName": format!("{}-", metadata.name),
            "namespace": metadata.namespace,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": metadata.name, "uid": metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::kinds::{Conditions, TargetRef};

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "s"},
            "spec": {"ipFamilies": ["IPv4"], "selector": {"a": "b"}},
        }))
        .unwrap()
    }

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.1.{}.{}", number / 250, number % 250)],
            conditions: Conditions {
                ready: Some(true),
                ..Conditions::default()
            },
            target_ref: Some(TargetRef {
                uid: number.to_string(),
                ..TargetRef::default()
            }),
            ..Endpoint::default()
        }
    }

    fn placed(numbers: impl IntoIterator<Item = usize>) -> Vec<Placed> {
        let port = SlicePort {
            port: 80,
            ..SlicePort::default()
        };
        let one = |number| Placed {
            family: "IPv4".to_owned(),
            ports: vec![port.clone()],
            endpoint: endpoint(number),
        };
        numbers.into_iter().map(one).collect()
    }

    /// Applies the operations as the store would.
    fn apply(slices: &mut Vec<Slice>, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::Create(value) => {
                    let mut slice: Slice = serde_json::from_value(value.clone()).unwrap();
                    slice.metadata.name = format!("web-{}", slices.len());
                    slices.push(slice);
                }
                Operation::Update(name, content) => {
                    let slice = slices.iter_mut().find(|slice| slice.metadata.name == *name);
                    let slice = slice.unwrap();
                    slice.metadata.labels = content.labels.clone();
                    slice.ports = content.ports.clone();
                    slice.endpoints = content.endpoints.clone();
                }
                Operation::Delete(name) => slices.retain(|slice| slice.metadata.name != *name),
            }
        }
    }

    fn step(slices: &mut Vec<Slice>, placed: Vec<Placed>) -> Vec<Operation> {
        let operations = reconcile(
            &service(),
            placed,
            &slices.iter().collect::<Vec<_>>(),
            "now",
        );
        apply(slices, &operations);
        operations
    }

    fn sizes(slices: &[Slice]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.len()).collect()
    }

    #[test]
    fn slices_fill_to_a_hundred_and_only_what_differs_is_written() {
        let mut slices = Vec::new();
        step(&mut slices, placed(0..250));
        assert_eq!(sizes(&slices), [100, 100, 50]);
        assert!(step(&mut slices, placed(0..250)).is_empty());

        let operations = step(
            &mut slices,
            placed((0..250).filter(|number| *number != 120)),
        );
        assert_eq!(operations.len(), 1, "{operations:?}");
        assert_eq!(sizes(&slices), [100, 99, 50]);
        let operations = step(
            &mut slices,
            placed((0..251).filter(|number| *number != 120)),
        );
        assert!(matches!(&operations[..], [Operation::Update(name, _)] if name == "web-1"));
        let rest = placed((0..251).filter(|number| !(100..200).contains(number) && *number != 250));
        step(&mut slices, rest);
        assert_eq!(sizes(&slices), [100, 50]);
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        let mut slices = Vec::new();
        assert!(matches!(
            &step(&mut slices, Vec::new())[..],
            [Operation::Create(_)]
        ));
        assert!(step(&mut slices, Vec::new()).is_empty());
        let operations = step(&mut slices, placed(0..1));
        assert!(
            matches!(&operations[..], [Operation::Update(..)]),
            "{operations:?}"
        );
        step(&mut slices, Vec::new());
        assert_eq!(sizes(&slices), [0]);
        assert!(step(&mut slices, Vec::new()).is_empty());
    }

    #[test]
    fn other_ports_need_another_slice_and_other_labels_an_update() {
        let mut slices = Vec::new();
        let mut mixed = placed(0..2);
        mixed[1].ports[0].port = 81;
        step(&mut slices, mixed);
        assert_eq!(sizes(&slices), [1, 1]);
        slices[0]
            .metadata
            .labels
            .insert("stray".to_owned(), "x".to_owned());
        let operations = step(&mut slices, placed(0..2));
        assert_eq!(sizes(&slices), [2]);
        assert_eq!(operations.len(), 2, "{operations:?}");
        assert!(!slices[0].metadata.labels.contains_key("stray"));
    }

    #[test]
    fn a_family_the_service_lost_loses_its_slices() {
        let mut slices = Vec::new();
        step(&mut slices, placed(0..1));
        slices[0].address_type = "IPv6".to_owned();
        let operations = step(&mut slices, placed(0..1));
        assert!(matches!(
            &operations[..],
            [Operation::Delete(_), Operation::Create(_)]
        ));
    }
}
