use std::net::TcpListener;
use std::time::Instant;

use super::*;
use crate::apiserver::{ApiServer, Change};

/// A server elsewhere (the embedded one, which answers as real ones do), and what mirrors it.
fn mirrored() -> (Store, ApiServer, Mirror) {
    let elsewhere = Store::default();
    let web = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    elsewhere.create(Resource::Service, web).unwrap();
    let server = ApiServer::start(elsewhere.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.serve(listener).unwrap();
    let mirror = Mirror::start(Access::plain(address)).unwrap();
    (elsewhere, server, mirror)
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn slice() -> Value {
    json!({
        "metadata": {"generateName": "web-", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    })
}

#[test]
fn what_is_written_is_elsewhere_and_can_be_read_at_once() {
    let (elsewhere, _server, mirror) = mirrored();
    let store = mirror.store();
    assert_eq!(store.list(Resource::Service, None).objects.len(), 1);
    let resource = Resource::EndpointSlice;

    let made = store.create(resource, slice()).unwrap();
    let get = |store: &Store| store.get(resource, "default", made.name());
    assert_eq!(get(store).unwrap().version(), made.version());
    assert!(get(&elsewhere).is_some());
    let mut again = slice();
    again["metadata"]["name"] = made.name().into();
    let refusal = store.create(resource, again).unwrap_err();
    assert_eq!(refusal.reason, "AlreadyExists");

    let edit = |slice: &mut Value| {
        slice["ports"] = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        Ok(())
    };
    let edited = store.modify(resource, "default", made.name(), Part::Main, edit);
    let edited = edited.unwrap();
    assert!(edited.version() > made.version());
    assert_eq!(
        edited.value()["ports"],
        get(&elsewhere).unwrap().value()["ports"]
    );

    let gone = store.delete(resource, "default", made.name(), &Deletion::default());
    let Deleted::Gone(last) = gone.unwrap() else {
        panic!("it has no finalizer");
    };
    assert!(
        last.version() > edited.version(),
        "later than what was seen of it"
    );
    assert!(get(store).is_none() && get(&elsewhere).is_none());
    let refusal = store.delete(resource, "default", made.name(), &Deletion::default());
    assert_eq!(refusal.unwrap_err().code, 404);
}

#[test]
fn a_pod_on_a_node_goes_when_its_kubelet_says_so() {
    let (_elsewhere, _server, mirror) = mirrored();
    let store = mirror.store();
    let pod = json!({
        "metadata": {"name": "pod"},
        "spec": {"nodeName": "worker-1", "containers": [{"name": "main", "image": "none"}]},
    });
    let pod = store.create(Resource::Pod, pod).unwrap();
    let going = store.delete(Resource::Pod, "default", "pod", &Deletion::default());
    let Deleted::Terminating(going) = going.unwrap() else {
        panic!("nobody has ended it");
    };
    assert!(going.value()["metadata"]["deletionTimestamp"].is_string());
    let other = Deletion {
        uid: Some("another".to_owned()),
        ..Deletion::now()
    };
    let refusal = store
        .delete(Resource::Pod, "default", "pod", &other)
        .unwrap_err();
    assert_eq!(refusal.reason, "Conflict");
    let own = Deletion {
        uid: pod.value()["metadata"]["uid"].as_str().map(str::to_owned),
        ..Deletion::now()
    };
    let gone = store.delete(Resource::Pod, "default", "pod", &own).unwrap();
    assert!(matches!(gone, Deleted::Gone(_)));
}

#[test]
fn it_catches_up_after_silence_and_oblivion() {
    let (elsewhere, server, mirror) = mirrored();
    let store = mirror.store();
    let steady = json!({"metadata": {"name": "steady"}, "spec": {"ports": [{"port": 82}]}});
    store.create(Resource::Service, steady).unwrap();
    let mut changes = {
        let listing = store.list(Resource::Service, None);
        store.watch(Resource::Service, listing.version).unwrap()
    };
    server.misbehaviour().hang_watches(true);
    let late = json!({"metadata": {"name": "late"}, "spec": {"ports": [{"port": 81}]}});
    elsewhere.create(Resource::Service, late).unwrap();
    elsewhere
        .delete(Resource::Service, "default", "web", &Deletion::now())
        .unwrap();
    elsewhere.compact();
    server.misbehaviour().drop_connections();
    server.misbehaviour().hang_watches(false);
    eventually(|| {
        let services = store.list(Resource::Service, None).objects;
        services.len() == 2 && services[0].name() == "late"
    });
    // Whoever follows the mirror is told no more than what changed.
    let heard = changes.pending().unwrap();
    let heard: Vec<_> = heard
        .iter()
        .map(|event| (event.change, event.object.name().to_owned()))
        .collect();
    let expected = [(Change::Added, "late"), (Change::Deleted, "web")];
    assert_eq!(
        heard,
        expected.map(|(change, name)| (change, name.to_owned()))
    );
}
