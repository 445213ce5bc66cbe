//! API servers that know no streaming lists: one that says so, and one that says nothing.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use causeway_proxy::config::Api;
use causeway_proxy::metrics::ApiRequests;
use causeway_proxy::watch::{connect, start};
use lb_model::said::Event;
use serde_json::{Value, json};

/// Services that are listed, in pages of two.
const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];
const PAGE: usize = 2;

/// What the server does with a watch that asks for the initial events.
#[derive(Clone, Copy, PartialEq)]
enum Streaming {
    /// Refuses it, as a server whose feature gate is off.
    Refused,
    /// Ignores the wish: an ordinary watch, whose initial list never ends.
    Ignored,
    /// Refuses it, and answers the first lists with something that is no list.
    NoList,
    /// Refuses it, and its first event of a Service never ends.
    Endless,
}

/// Serves on loopback until the test's process ends; gives the URL.
fn server(streaming: Streaming) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut odd = Odd {
            lists: NO_LISTS.iter(),
            endless: streaming == Streaming::Endless,
        };
        for stream in listener.incoming().flatten() {
            answer(stream, streaming, &mut odd);
        }
    });
    url
}

/// The odd answers that are left.
struct Odd {
    lists: std::slice::Iter<'static, &'static str>,
    endless: bool,
}

/// Answers to a list that are none.
const NO_LISTS: [&str; 4] = [
    r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{},"items":[]}"#,
    "",
    r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":500}"#,
    r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":["#,
];

fn answer(mut stream: TcpStream, streaming: Streaming, odd: &mut Odd) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    lines.find(|line| line.as_ref().unwrap().is_empty());
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let (code, body) = if path.contains("sendInitialEvents=true") && streaming != Streaming::Ignored
    {
        let message =
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422,
            "reason": "Invalid", "message": message,
        });
        ("422 Unprocessable Entity", status.to_string())
    } else if path.contains("watch=true") {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        if path.contains("resourceVersion=77") && path.contains("/services") {
            if std::mem::take(&mut odd.endless) {
                // Until the client has enough.
                let some = [b'x'; 1 << 16];
                thread::spawn(move || while stream.write_all(&some).is_ok() {});
                return;
            }
            // The type first, as an API server writes it; `json!` sorts by name.
            let object = service("late", "78");
            let event = format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n");
            stream.write_all(event.as_bytes()).unwrap();
        }
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(60));
            drop(stream);
        });
        return;
    } else if streaming == Streaming::NoList
        && path.contains("/services")
        && let Some(text) = odd.lists.next()
    {
        ("200 OK", (*text).to_owned())
    } else {
        ("200 OK", page(&path).to_string())
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

/// One page of a list; only Services are there.
fn page(path: &str) -> Value {
    let from = path
        .split("continue=from-")
        .nth(1)
        .map_or(0, |rest| rest.split('&').next().unwrap().parse().unwrap());
    let all: &[&str] = if path.contains("/services") {
        &SERVICES
    } else {
        &[]
    };
    let items: Vec<_> = all
        .iter()
        .skip(from)
        .take(PAGE)
        .map(|name| service(name, "7"))
        .collect();
    let mut metadata = json!({"resourceVersion": "77"});
    if from + PAGE < all.len() {
        metadata["continue"] = json!(format!("from-{}", from + PAGE));
    }
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
}

fn service(name: &str, version: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

/// The Service events up to the one called `late`, in short.
fn heard(streaming: Streaming) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let api = Api {
            kubeconfig: None,
            master: Some(server(streaming)),
        };
        let client = connect(&api, &ApiRequests::default()).await.unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
        let _watches = start(&client, "node-1", &sender);
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "late") {
            let next = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await;
            match next.unwrap().unwrap().event.unwrap() {
                Event::ServiceListBegins => heard.push("list".to_owned()),
                Event::Service(service) => heard.push(service.name),
                Event::ServiceListEnds => heard.push("end".to_owned()),
                _ => {}
            }
        }
        heard
    })
}

#[test]
fn a_server_that_refuses_streaming_lists_is_listed_by_pages() {
    assert_eq!(
        heard(Streaming::Refused),
        ["list", "a", "b", "c", "d", "e", "end", "late"]
    );
}

#[test]
fn a_server_that_ignores_the_wish_is_listed_by_pages_after_a_while() {
    assert_eq!(
        heard(Streaming::Ignored),
        ["list", "list", "a", "b", "c", "d", "e", "end", "late"]
    );
}

#[test]
fn an_answer_that_is_no_list_is_no_empty_list() {
    let heard = heard(Streaming::NoList);
    let told: Vec<&str> = heard.iter().map(String::as_str).collect();
    let begun = told.iter().filter(|what| **what == "list").count();
    let said: Vec<&str> = told.into_iter().filter(|what| *what != "list").collect();
    assert_eq!(said, ["a", "b", "c", "d", "e", "end", "late"]);
    assert!(begun > NO_LISTS.len(), "{heard:?}");
}

#[test]
fn an_event_without_an_end_is_given_up_and_watched_anew() {
    assert_eq!(
        heard(Streaming::Endless),
        ["list", "a", "b", "c", "d", "e", "end", "late"]
    );
}
