//! The store: versions, conflicts, allocation, deletion, in one process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use netns_lab::apiserver::{
    Change, Deleted, Deletion, Object, Part, PodRemoval, Resource, Store, StoreOptions,
};
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}});
    service["spec"] = spec;
    if service["spec"].get("ports").is_none() {
        service["spec"]["ports"] = json!([{"port": 80}]);
    }
    service
}

fn create(store: &Store, name: &str, spec: Value) -> Value {
    store
        .create(Resource::Service, service(name, spec))
        .unwrap()
        .value()
}

fn refused(store: &Store, name: &str, spec: Value) -> String {
    let refusal = store
        .create(Resource::Service, service(name, spec))
        .unwrap_err();
    assert_eq!(refusal.code, 422, "{refusal}");
    refusal.message
}

#[test]
fn a_plain_service_gets_kubernetes_defaults() {
    let made = create(
        &Store::default(),
        "web",
        json!({"selector": {"app": "web"}}),
    );
    assert_eq!(
        made["spec"],
        json!({
            "type": "ClusterIP", "selector": {"app": "web"}, "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "clusterIP": "10.96.1.0", "clusterIPs": ["10.96.1.0"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        })
    );
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["generation"], 1);
}

#[test]
fn families_follow_the_policy() {
    let store = Store::default();
    let dual = create(&store, "dual", json!({"ipFamilyPolicy": "PreferDualStack"}));
    assert_eq!(
        dual["spec"]["clusterIPs"],
        json!(["10.96.1.0", "fd00:10:96::100"])
    );
    let six = create(&store, "six", json!({"ipFamilies": ["IPv6"]}));
    assert_eq!(six["spec"]["clusterIP"], "fd00:10:96::101");
    let both = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]});
    assert_eq!(
        create(&store, "both", both)["spec"]["clusterIP"],
        "fd00:10:96::102"
    );
    let headless = create(&store, "headless", json!({"clusterIP": "None"}));
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({"type": "ExternalName", "externalName": "example.org"});
    assert_eq!(
        create(&store, "external", external)["spec"].get("clusterIP"),
        None
    );
    assert!(
        refused(&store, "x", json!({"ipFamilies": ["IPv4", "IPv6"]})).contains("ipFamilyPolicy")
    );

    let single = |object: &mut Value| {
        object["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        Ok(())
    };
    let down = store
        .modify(Resource::Service, "default", "dual", Part::Main, single)
        .unwrap();
    assert_eq!(down.value()["spec"]["clusterIPs"], json!(["10.96.1.0"]));
    let freed = json!({"clusterIP": "fd00:10:96::100"});
    assert_eq!(
        create(&store, "next", freed)["spec"]["ipFamilies"],
        json!(["IPv6"])
    );
}

#[test]
fn node_ports_and_addresses_belong_to_one_service_until_it_goes() {
    let store = Store::default();
    let first = json!({"type": "NodePort", "clusterIP": "10.96.0.10"});
    let made = create(&store, "first", first.clone());
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert_eq!(
        (port, &made["spec"]["externalTrafficPolicy"]),
        (30_086, &json!("Cluster"))
    );
    assert!(refused(&store, "second", first.clone()).contains("already allocated"));
    let same_port = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
    assert!(refused(&store, "second", same_port).contains("already allocated"));
    assert!(refused(&store, "x", json!({"clusterIP": "192.0.2.1"})).contains("10.96.0.0/16"));
    let low = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]});
    assert!(refused(&store, "x", low).contains("30000-32767"));

    // A client that sends back what it once sent keeps what it was given.
    let kept = store
        .put(Resource::Service, &service("first", first.clone()))
        .unwrap()
        .value();
    assert_eq!(kept["spec"], made["spec"]);
    let moved = service("first", json!({"clusterIP": "10.96.0.11"}));
    let refusal = store
        .update(Resource::Service, Part::Main, moved)
        .unwrap_err();
    assert!(refusal.message.contains("immutable"), "{refusal}");
    let plain = |object: &mut Value| {
        object["spec"]["type"] = json!("ClusterIP");
        Ok(())
    };
    let plain = store
        .modify(Resource::Service, "default", "first", Part::Main, plain)
        .unwrap();
    assert_eq!(plain.value()["spec"]["ports"][0].get("nodePort"), None);
    store
        .delete(Resource::Service, "default", "first", &Deletion::default())
        .unwrap();
    create(&store, "second", first);
}

#[test]
fn a_local_load_balancer_has_a_health_check_port() {
    let store = Store::default();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = create(&store, "lb", spec);
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(made["spec"]["ports"][0]["nodePort"], 30_086);
    assert_eq!(made["spec"]["healthCheckNodePort"], 30_087);
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    assert_eq!(
        create(&store, "none", none)["spec"]["ports"][0].get("nodePort"),
        None
    );
}

#[test]
fn bad_services_are_refused_with_every_field_that_is_wrong() {
    let store = Store::default();
    let spec = json!({
        "type": "Clusterip", "sessionAffinity": "Cookie",
        "externalIPs": ["127.0.0.1"], "loadBalancerSourceRanges": ["10.0.0.1"],
        "ports": [{"port": 0}, {"port": 80, "protocol": "tcp", "name": "a"},
                  {"port": 81, "targetPort": "much-too-long-a-name", "name": "a"}],
    });
    let message = refused(&store, "bad", spec);
    for field in [
        "spec.type",
        "spec.sessionAffinity",
        "spec.externalIPs[0]",
        "spec.loadBalancerSourceRanges[0]",
        "spec.ports[0].port",
        "spec.ports[0].name",
        "spec.ports[1].protocol",
        "spec.ports[2].targetPort",
        "spec.ports[2].name",
    ] {
        assert!(message.contains(field), "{field} is missing in {message}");
    }
    assert!(refused(&store, "bad", json!({"ports": []})).contains("spec.ports"));
    assert!(refused(&store, "bad", json!({"type": "ExternalName"})).contains("externalName"));
    // Nothing of what was refused is held.
    assert_eq!(
        create(&store, "good", json!({}))["spec"]["clusterIP"],
        "10.96.1.0"
    );
}

#[test]
fn seeded_objects_stay_as_they_are() {
    let store = Store::default();
    let odd = json!({"metadata": {"name": "ODD"}, "spec": {"ports": "none", "clusterIP": 7}});
    store.seed(Resource::Service, [odd.clone()]).unwrap();
    let object = store.get(Resource::Service, "default", "ODD").unwrap();
    assert_eq!(object.value()["spec"], odd["spec"]);
    let uid = object.value()["metadata"]["uid"].clone();
    store.seed(Resource::Service, [odd]).unwrap();
    let again = store.get(Resource::Service, "default", "ODD").unwrap();
    assert_eq!(
        again.value()["metadata"]["uid"],
        uid,
        "the same object, again"
    );
    assert!(again.version() > object.version());
    assert_eq!(
        store.seed(Resource::Pod, [json!({})]).unwrap_err().code,
        400
    );
}

fn pod(node: &str) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"nodeName": node}})
}

fn delete(store: &Store, deletion: &Deletion) -> Deleted {
    store
        .delete(Resource::Pod, "default", "a", deletion)
        .unwrap()
}

#[test]
fn a_pod_on_a_node_is_finished_by_its_kubelet() {
    let store = Store::default();
    store.create(Resource::Pod, pod("worker-1")).unwrap();
    let Deleted::Terminating(object) = delete(&store, &Deletion::default()) else {
        panic!("removed at once");
    };
    let metadata = &object.value()["metadata"];
    assert!(metadata["deletionTimestamp"].is_string());
    assert_eq!(metadata["deletionGracePeriodSeconds"], 30);
    let Deleted::Terminating(again) = delete(&store, &Deletion::default()) else {
        panic!("the second delete is no kubelet's");
    };
    assert_eq!(again.version(), object.version());
    assert!(matches!(delete(&store, &Deletion::now()), Deleted::Gone(_)));
    assert!(store.get(Resource::Pod, "default", "a").is_none());

    store.create(Resource::Pod, pod("")).unwrap();
    assert!(
        matches!(delete(&store, &Deletion::default()), Deleted::Gone(_)),
        "on no node"
    );
    let options = StoreOptions {
        pod_removal: PodRemoval::AtOnce,
        ..StoreOptions::default()
    };
    let store = Store::new(options);
    store.create(Resource::Pod, pod("worker-1")).unwrap();
    assert!(matches!(
        delete(&store, &Deletion::default()),
        Deleted::Gone(_)
    ));
}

#[test]
fn deletions_can_insist_on_an_object() {
    let store = Store::default();
    let object = store.create(Resource::Pod, pod("")).unwrap();
    for deletion in [
        Deletion {
            uid: Some("other".into()),
            ..Deletion::default()
        },
        Deletion {
            version: Some(object.version() + 1),
            ..Deletion::default()
        },
    ] {
        let refusal = store
            .delete(Resource::Pod, "default", "a", &deletion)
            .unwrap_err();
        assert_eq!((refusal.code, refusal.reason), (409, "Conflict"));
    }
}

#[test]
fn a_namespace_takes_its_objects_along() {
    let store = Store::default();
    store
        .create(Resource::Namespace, json!({"metadata": {"name": "shop"}}))
        .unwrap();
    let mut inside = service("web", json!({}));
    inside["metadata"]["namespace"] = json!("shop");
    store.create(Resource::Service, inside.clone()).unwrap();
    store
        .create(Resource::Service, service("web", json!({})))
        .unwrap();
    store
        .delete(Resource::Namespace, "", "shop", &Deletion::default())
        .unwrap();
    let left = store.list(Resource::Service, None).objects;
    assert_eq!(
        left.iter().map(Object::namespace).collect::<Vec<_>>(),
        ["default"]
    );
    let refusal = store.create(Resource::Service, inside).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (404, "NotFound"));
}

#[test]
fn watches_in_the_process_see_every_change_once() {
    let store = Store::new(StoreOptions {
        history: 8,
        ..StoreOptions::default()
    });
    let listing = store.list(Resource::Pod, None);
    let mut watch = store.watch(Resource::Pod, listing.version).unwrap();
    store.create(Resource::Pod, pod("worker-1")).unwrap();
    let label = |object: &mut Value| {
        object["metadata"]["labels"] = json!({"x": "y"});
        Ok(())
    };
    store
        .modify(Resource::Pod, "default", "a", Part::Main, label)
        .unwrap();
    let ready = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
    store.update(Resource::Pod, Part::Status, ready).unwrap();
    delete(&store, &Deletion::now());
    let events = watch.pending().unwrap();
    let changes: Vec<Change> = events.iter().map(|event| event.change).collect();
    assert_eq!(
        changes,
        [
            Change::Added,
            Change::Modified,
            Change::Modified,
            Change::Deleted
        ]
    );
    assert_eq!(events[2].object.value()["status"]["phase"], "Running");
    assert_eq!(events[2].object.label("x"), Some("y"));
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].object.version() < pair[1].object.version())
    );
    assert!(watch.pending().unwrap().is_empty());
    assert_eq!(watch.position(), store.version());

    for _ in 0..5 {
        store.create(Resource::Pod, pod("")).unwrap();
        delete(&store, &Deletion::now());
    }
    assert_eq!(
        watch.pending().unwrap_err().code,
        410,
        "ten changes do not fit into eight"
    );
}

#[test]
fn waiting_wakes_at_a_change() {
    let store = Store::default();
    let mut watch = store.watch(Resource::Pod, store.version()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let writer = std::thread::spawn({
        let store = store.clone();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            store.create(Resource::Pod, pod("")).unwrap();
        }
    });
    let events = runtime.block_on(watch.next()).unwrap();
    assert_eq!(events.len(), 1);
    writer.join().unwrap();
}
