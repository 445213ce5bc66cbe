//! What must hold for any bytes that an API server says are an object. Nothing may panic, what cannot
//! be used is named, in few words, and the other objects don't suffer from it.

use causeway_proxy::watch;
use lb_model::said::Event;
use lb_model::{Complaint, DetectLocal, Family, Frontend, Model, ModelConfig, ServiceName};
use serde_json::{Value, json};

/// A Service.
pub(crate) fn service(bytes: &[u8]) {
    object("Service", bytes);
}

/// An EndpointSlice.
pub(crate) fn slice(bytes: &[u8]) {
    object("EndpointSlice", bytes);
}

/// A Node.
pub(crate) fn node(bytes: &[u8]) {
    object("Node", bytes);
}

/// A ServiceCIDR.
pub(crate) fn service_cidr(bytes: &[u8]) {
    object("ServiceCIDR", bytes);
}

fn object(kind: &str, bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Some(heard) = watch::read(kind, text) else {
        let read = serde_json::from_str::<&serde_json::value::RawValue>(text);
        assert!(read.is_err(), "JSON of any kind is heard: {text}");
        return;
    };
    are_short(&heard.complaints);
    let Some(event) = heard.event else {
        assert!(!heard.complaints.is_empty(), "{text}");
        return;
    };
    let Some(namespace) = named(&event) else {
        panic!("no name: {event:?}");
    };
    if namespace != GOOD {
        is_no_trouble_for_others(event);
    }
}

/// The namespace of what is there, where it has a name.
fn named(event: &Event) -> Option<&str> {
    let (namespace, name) = match event {
        Event::Service(service) => (service.namespace.as_str(), &service.name),
        Event::Slice(slice) => (slice.namespace.as_str(), &slice.name),
        Event::Node(node) => ("", &node.name),
        Event::ServiceCidr(cidr) => ("", &cidr.name),
        _ => return None,
    };
    (!name.is_empty()).then_some(namespace)
}

fn are_short(complaints: &[Complaint]) {
    assert!(complaints.len() <= 66, "{}", complaints.len());
    for complaint in complaints {
        assert!(!complaint.field.is_empty());
        let length = [&complaint.object, &complaint.field, &complaint.value]
            .map(|text| text.chars().count());
        assert!(length.iter().all(|length| *length <= 300), "{complaint:?}");
    }
}

/// Namespace and name of a Service whose claims win over any other's: they come first of all, and it
/// is the oldest.
const GOOD: &str = "0";

fn is_no_trouble_for_others(event: Event) {
    let mut model = Model::new(ModelConfig {
        node_name: "node-1".to_owned(),
        detect_local: DetectLocal::NodeCidr,
        masquerade_all: false,
    });
    for (kind, object) in good() {
        let heard = watch::read(kind, &object.to_string()).expect("a good object");
        assert_eq!(heard.complaints, []);
        assert_eq!(model.apply(heard.event.expect("a good object")), []);
    }
    let before = frontends(&model);
    assert_eq!(before.len(), 1);
    are_short(&model.apply(event.clone()));
    assert_eq!(frontends(&model), before);
    // Once more, and it changes nothing.
    model.take_changes();
    model.apply(event);
    assert!(model.take_changes().services.is_empty());
    assert_eq!(frontends(&model), before);
}

fn frontends(model: &Model) -> Vec<Frontend> {
    model.frontends(&ServiceName::new(GOOD, GOOD), Family::V4)
}

fn good() -> [(&'static str, Value); 2] {
    let service = json!({
        "metadata": {"name": GOOD, "namespace": GOOD, "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"clusterIP": "10.96.77.77", "ports": [{"port": 80}]},
    });
    let slice = json!({
        "metadata": {
            "name": GOOD, "namespace": GOOD, "labels": {"kubernetes.io/service-name": GOOD},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.7"]}],
        "ports": [{"port": 8080}],
    });
    [("Service", service), ("EndpointSlice", slice)]
}
