//! The API server over real connections on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "apiserver/client.rs"]
mod client;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use netns_lab::apiserver::{ApiServer, Resource, Store};
use serde_json::{Value, json};

use client::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn start(store: &Store) -> (ApiServer, Client) {
    let server = ApiServer::start(store.clone()).unwrap();
    let address = server
        .serve(TcpListener::bind("127.0.0.1:0").unwrap())
        .unwrap();
    (server, Client(address))
}

fn pod(name: &str, app: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": app}}, "spec": {"nodeName": "worker-1"}})
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[test]
fn an_objects_life() {
    let (_server, client) = start(&Store::default());
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                         "spec": {"ports": [{"port": 80}]}});
    let (code, made) = client.json("POST", SERVICES, &service);
    assert_eq!(
        (code, made["kind"].as_str()),
        (201, Some("Service")),
        "{made}"
    );
    assert_eq!(made["spec"]["clusterIP"], "10.96.1.0");
    let path = format!("{SERVICES}/web");
    assert_eq!(client.get(&path), (200, made.clone()));

    let mut changed = made.clone();
    changed["spec"]["ports"][0]["targetPort"] = json!("http");
    let (code, changed) = client.json("PUT", &path, &changed);
    assert_eq!(
        (code, &changed["spec"]["ports"][0]["targetPort"]),
        (200, &json!("http"))
    );
    assert_ne!(
        changed["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let (code, conflict) = client.json("PUT", &path, &made);
    assert_eq!(
        (code, conflict["reason"].as_str()),
        (409, Some("Conflict")),
        "{conflict}"
    );

    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let (code, object) = client.patch(&format!("{path}/status"), "merge", &status);
    assert_eq!((code, &object["status"]), (200, &status["status"]));
    let ports =
        json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "x"}]}});
    let (code, object) = client.patch(&path, "strategic-merge", &ports);
    assert_eq!(code, 200, "{object}");
    assert_eq!(
        object["spec"]["ports"][0]["targetPort"], "http",
        "merged by port"
    );
    assert_eq!(
        object["status"], status["status"],
        "a main patch leaves the status alone"
    );

    let (code, gone) = client.json("DELETE", &path, &Value::Null);
    assert_eq!(
        (code, gone["status"].as_str()),
        (200, Some("Success")),
        "{gone}"
    );
    assert_eq!(client.get(&path).0, 404);
}

/// Asserts that the request is refused with this code and a Status object that says `part`.
fn assert_refused(client: Client, request: &str, body: &Value, code: u16, part: &str) {
    let (method, path) = request.split_once(' ').unwrap();
    let (actual, status) = client.json(method, path, body);
    assert_eq!(
        (actual, status["kind"].as_str()),
        (code, Some("Status")),
        "{request} {status}"
    );
    assert!(
        status["message"].as_str().unwrap().contains(part),
        "{part}: {status}"
    );
}

#[test]
fn refused_reads_say_why() {
    let (_server, client) = start(&Store::default());
    for (path, code, part) in [
        ("/api/v1/namespaces/default/pods/none", 404, "pods \"none\""),
        (
            "/apis/apps/v1/deployments",
            404,
            "/apis/apps/v1/deployments",
        ),
        ("/api/v1/pods?labelSelector=a+in+(", 400, "labelSelector"),
        (
            "/api/v1/pods?fieldSelector=spec.x%3D1",
            400,
            "spec.nodeName",
        ),
        ("/api/v1/pods?resourceVersion=999999", 504, "Too large"),
        ("/api/v1/pods?resourceVersion=x", 400, "resourceVersion"),
        ("/api/v1/pods?continue=nonsense", 400, "continue"),
    ] {
        assert_refused(client, &format!("GET {path}"), &Value::Null, code, part);
    }
}

#[test]
fn refused_writes_say_why() {
    let (_server, client) = start(&Store::default());
    let named = |name: &str| json!({"metadata": {"name": name}});
    let service = json!({"kind": "Service", "metadata": {"name": "a"}});
    for (request, body, code, part) in [
        (format!("POST {PODS}"), named("A_B"), 422, "A_B"),
        (format!("POST {PODS}"), json!([1]), 400, "JSON object"),
        (format!("POST {PODS}"), service, 400, "Service"),
        (format!("POST {PODS}?dryRun=All"), named("a"), 400, "dryRun"),
        (format!("PUT {PODS}"), named("a"), 405, "GET, POST, DELETE"),
        ("POST /api/v1/pods".to_owned(), named("a"), 405, "namespace"),
        (
            "POST /api/v1/namespaces/none/pods".to_owned(),
            named("a"),
            404,
            "none",
        ),
    ] {
        assert_refused(client, &request, &body, code, part);
    }
    for (content_type, method, path, code) in [
        ("application/yaml", "POST", PODS.to_owned(), 415),
        ("application/json", "POST", PODS.to_owned(), 400),
        (
            "application/apply-patch+yaml",
            "PATCH",
            format!("{PODS}/a"),
            415,
        ),
    ] {
        let (actual, status) = client.send(method, &path, content_type, "{a: b").finish();
        assert_eq!(actual, code, "{content_type}: {status}");
    }
}

#[test]
fn a_body_beyond_three_mebibytes_is_refused() {
    let (_server, client) = start(&Store::default());
    let (code, status) = client.json("POST", PODS, &json!({"data": "x".repeat(3 << 20)}));
    assert_eq!(
        (code, status["reason"].as_str()),
        (413, Some("RequestEntityTooLarge"))
    );
}

#[test]
fn what_is_no_request_ends_the_connection_and_nothing_else() {
    let (_server, client) = start(&Store::default());
    let endless = format!("GET {PODS} HTTP/1.1\r\nX: {}", "x".repeat(200_000));
    for (request, expected) in [
        ("\x16\x03\x01\x02\x00\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/9\r\n\r\n", "HTTP/1.1 400"),
        (
            "POST /api/v1/nodes HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 400",
        ),
        (&*endless, "HTTP/1.1 431"),
    ] {
        assert!(
            client.first_line(request).starts_with(expected),
            "{request:.40}"
        );
    }
    let unfinished = client.send_raw("GET /api/v1/pods HTTP/1.1\r\nHost:");
    assert_eq!(client.get(PODS).0, 200, "others are served meanwhile");
    drop(unfinished);
}

#[test]
fn lists_are_selected_and_paged() {
    let store = Store::default();
    let (_server, client) = start(&store);
    for number in 0..7 {
        let app = if number % 2 == 0 { "even" } else { "odd" };
        store
            .create(Resource::Pod, pod(&format!("p{number}"), app))
            .unwrap();
    }
    let (_, odd) = client.get("/api/v1/pods?labelSelector=app%3Dodd");
    assert_eq!(names(&odd), ["p1", "p3", "p5"]);
    let (_, one) =
        client.get("/api/v1/pods?fieldSelector=metadata.name%3Dp4,spec.nodeName%3Dworker-1");
    assert_eq!(names(&one), ["p4"]);
    let (_, elsewhere) = client.get("/api/v1/namespaces/kube-system/pods");
    assert_eq!(names(&elsewhere), [""; 0]);

    let (_, first) = client.get("/api/v1/pods?limit=3");
    assert_eq!(names(&first), ["p0", "p1", "p2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    store.create(Resource::Pod, pod("p9", "late")).unwrap();
    let token = first["metadata"]["continue"]
        .as_str()
        .unwrap()
        .replace(':', "%3A");
    let (_, rest) = client.get(&format!("/api/v1/pods?limit=9&continue={token}"));
    assert_eq!(names(&rest), ["p3", "p4", "p5", "p6", "p9"]);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert!(rest["metadata"].get("continue").is_none());
    store.compact();
    let (code, status) = client.get(&format!("/api/v1/pods?limit=9&continue={token}"));
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")));
}

#[test]
fn a_watch_sees_objects_enter_and_leave_its_selection() {
    let store = Store::default();
    let (_server, client) = start(&store);
    client.json("POST", PODS, &pod("a", "redis"));
    let mut watch = client.watch("/api/v1/pods?watch=1&labelSelector=app%3Dredis");
    assert_eq!(watch.told(), "ADDED a");
    client.json("POST", PODS, &pod("other", "web"));
    client.json("POST", PODS, &pod("b", "redis"));
    assert_eq!(watch.told(), "ADDED b");
    let label = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    client.patch(
        &format!("{PODS}/a"),
        "merge",
        &json!({"metadata": {"annotations": {"x": "y"}}}),
    );
    assert_eq!(watch.told(), "MODIFIED a");
    let (_, left) = client.patch(&format!("{PODS}/a"), "merge", &label("web"));
    let event = watch.event().unwrap();
    assert_eq!(
        (
            event["type"].as_str(),
            &event["object"]["metadata"]["labels"]["app"]
        ),
        (Some("DELETED"), &json!("redis")),
        "the state it knew"
    );
    assert_eq!(
        event["object"]["metadata"]["resourceVersion"],
        left["metadata"]["resourceVersion"]
    );
    client.patch(&format!("{PODS}/a"), "merge", &label("redis"));
    assert_eq!(watch.told(), "ADDED a");
    client.json(
        "DELETE",
        &format!("{PODS}/b?gracePeriodSeconds=0"),
        &Value::Null,
    );
    assert_eq!(watch.told(), "DELETED b");
    client.patch(
        &format!("{PODS}/a"),
        "merge",
        &json!({"metadata": {"annotations": {"x": "y"}}}),
    );
    assert!(
        watch.silent_for(Duration::from_millis(100)),
        "a change of nothing is no event"
    );
}

#[test]
fn a_watch_continues_from_a_version_or_says_gone() {
    let store = Store::default();
    let (_server, client) = start(&store);
    let (_, list) = client.get(SLICES);
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": []});
    client.json("POST", SLICES, &slice);
    let path = format!("{SLICES}?watch=true&resourceVersion={version}");
    let mut connected = client.watch(&path);
    assert_eq!(connected.told(), "ADDED s");
    store.compact();
    let gone = client.watch(&path).event().unwrap();
    assert_eq!(
        (gone["type"].as_str(), &gone["object"]["code"]),
        (Some("ERROR"), &json!(410))
    );
    client.json("DELETE", &format!("{SLICES}/s"), &Value::Null);
    assert_eq!(
        connected.told(),
        "DELETED s",
        "a watch that is up to date survives"
    );
    let future = format!("{SLICES}?watch=1&resourceVersion=99999999");
    assert_eq!(client.watch(&future).told(), "ERROR ");
}

#[test]
fn streaming_lists_end_with_a_marked_bookmark_and_watches_with_a_plain_one() {
    let store = Store::default();
    let (_server, client) = start(&store);
    store.create(Resource::Pod, pod("a", "x")).unwrap();
    let mut watch = client.watch(
        "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true&timeoutSeconds=5",
    );
    assert_eq!(watch.told(), "ADDED a");
    let end = watch.event().unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    let metadata = &end["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(metadata["resourceVersion"], store.version().to_string());
    store
        .create(Resource::Namespace, json!({"metadata": {"name": "shop"}}))
        .unwrap();
    let last = watch.event().unwrap();
    assert_eq!(
        last["type"], "BOOKMARK",
        "other resources move the version on"
    );
    assert_eq!(
        last["object"]["metadata"]["resourceVersion"],
        store.version().to_string()
    );
    assert!(watch.event().is_none(), "timeoutSeconds ends the watch");
    let (code, _) = client.get("/api/v1/pods?watch=1&sendInitialEvents=true");
    assert_eq!(code, 422);
}

#[test]
fn a_stop_ends_watches_and_a_new_server_goes_on_with_the_store() {
    let store = Store::default();
    let server = ApiServer::start(store.clone()).unwrap();
    // An address of its own, so that no other test takes the port while nobody listens.
    let [client, second] = [0; 2].map(|_| {
        Client(
            server
                .serve(TcpListener::bind("127.77.0.1:0").unwrap())
                .unwrap(),
        )
    });
    store.create(Resource::Pod, pod("a", "x")).unwrap();
    let mut watches = [client, second].map(|client| client.watch("/api/v1/pods?watch=1"));
    watches
        .iter_mut()
        .for_each(|watch| assert_eq!(watch.told(), "ADDED a"));
    let before = Instant::now();
    server.stop();
    assert!(
        before.elapsed() < Duration::from_secs(30),
        "{:?}",
        before.elapsed()
    );
    watches
        .iter_mut()
        .for_each(|watch| assert!(watch.event().is_none()));
    assert!(
        std::net::TcpStream::connect(client.0).is_err(),
        "nobody listens any more"
    );

    let again = ApiServer::start(store).unwrap();
    again.serve(TcpListener::bind(client.0).unwrap()).unwrap();
    assert_eq!(client.get(&format!("{PODS}/a")).0, 200);
}

#[test]
fn faults_on_demand() {
    let store = Store::default();
    let (server, client) = start(&store);
    let mut watch = client.watch("/api/v1/pods?watch=1&resourceVersion=0");
    server.misbehaviour().hang_watches(true);
    store.create(Resource::Pod, pod("a", "x")).unwrap();
    assert!(watch.silent_for(Duration::from_millis(200)));
    server.misbehaviour().hang_watches(false);
    assert_eq!(watch.told(), "ADDED a");

    server
        .misbehaviour()
        .delay_lists(Duration::from_millis(200));
    let before = Instant::now();
    assert_eq!(client.get(PODS).0, 200);
    assert!(before.elapsed() >= Duration::from_millis(200));
    server.misbehaviour().delay_lists(Duration::ZERO);

    server.misbehaviour().refuse_with(Some(503));
    assert_eq!(client.get(PODS).0, 503);
    server.misbehaviour().refuse_with(None);

    server.misbehaviour().drop_connections();
    assert!(watch.breaks_off(), "the watch is cut");
    assert_eq!(client.get(PODS).0, 200, "new connections are fine");
}

#[test]
fn deletecollection_takes_what_is_selected() {
    let store = Store::default();
    let (_server, client) = start(&store);
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        store.create(Resource::Pod, pod(name, app)).unwrap();
    }
    let path = format!("{PODS}?labelSelector=app%3Dx&gracePeriodSeconds=0");
    assert_eq!(client.json("DELETE", &path, &Value::Null).0, 200);
    assert_eq!(names(&client.get(PODS).1), ["b"]);
}

#[test]
fn tables_are_given_to_who_asks() {
    let store = Store::default();
    let (_server, client) = start(&store);
    store.create(Resource::Pod, pod("a", "x")).unwrap();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let response = client.send_accepting("GET", PODS, "", "", accept);
    let (code, table) = response.finish();
    assert_eq!((code, table["kind"].as_str()), (200, Some("Table")));
    assert_eq!(table["rows"][0]["cells"][2], "Pending");
}
