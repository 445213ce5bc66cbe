//! Who the proxy is, and what it may.

use std::time::Duration;

use causeway_tests::proxy_bed::{PORTS, wait_until};
use netns_lab::client::Method;
use netns_lab::control_plane::account;
use serde_json::{Value, json};

use crate::site::{PATIENCE, Site};

const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/causeway-proxy";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

fn ask(site: &Site, method: Method, path: &str, body: Option<&Value>) -> Value {
    let asked = site.on_node(|client| client.request(method, path, body));
    let (status, answer) = asked.unwrap();
    assert!(status.is_success(), "{path}: {answer}");
    answer
}

/// Tokens live for ten minutes at least, but one that is bound to a Secret ends with it.
pub(crate) fn a_token_that_ends_is_replaced() {
    let mut site = Site::new(&[]);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "life", "namespace": "kube-system"},
    });
    let secret = ask(&site, Method::POST, SECRETS, Some(&secret));
    site.write_token(Some(&secret));
    let web = site.put("web", 0, 2, PORTS[0]);
    let proxy = site.proxy();
    site.wait_for(&proxy, web, PORTS[0]);

    ask(&site, Method::DELETE, &format!("{SECRETS}/life"), None);
    // A watch goes on with the token that began it; now it must begin anew.
    site.plane.kill_server(0).unwrap();
    site.plane.start_server(0).unwrap();
    site.put("web", 0, 2, PORTS[1]);
    wait_until("refusal", PATIENCE, || {
        proxy.log().unwrap().contains("Unauthorized")
    })
    .unwrap();
    assert_eq!(site.failures(&[web], Duration::from_secs(1)), 0);
    site.write_token(None);
    site.wait_for(&proxy, web, PORTS[1]);
}

pub(crate) fn what_is_forbidden_is_named_and_costs_nothing() {
    let mut site = Site::new(&[]);
    let web = site.put("web", 0, 2, PORTS[0]);
    ask(&site, Method::DELETE, BINDING, None);
    let proxy = site.proxy();
    let forbidden = "User \\\"system:serviceaccount:kube-system:causeway-proxy\\\" cannot";
    wait_until("complaint", PATIENCE, || {
        proxy.log().unwrap().contains(forbidden)
    })
    .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    assert!(site.is_silent(web));
    site.on_node(account::create).unwrap();
    site.wait_for(&proxy, web, PORTS[0]);

    // The same to a proxy that has something to lose.
    let complaints = || proxy.log().unwrap().matches(forbidden).count();
    let before = complaints();
    ask(&site, Method::DELETE, BINDING, None);
    site.plane.kill_server(0).unwrap();
    site.plane.start_server(0).unwrap();
    wait_until("complaint", PATIENCE, || complaints() > before)
        .unwrap_or_else(|error| panic!("{error}: {}", proxy.log().unwrap()));
    assert_eq!(site.failures(&[web], Duration::from_secs(1)), 0);
    site.on_node(account::create).unwrap();
    site.put("web", 0, 2, PORTS[1]);
    site.wait_for(&proxy, web, PORTS[1]);
}
