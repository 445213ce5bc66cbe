//! The service proxy's account, as `deploy/kubernetes` gives it, and its tokens.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::Client;

/// What an operator applies.
const MANIFEST: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/kubernetes/causeway-proxy.yaml"
));

/// The account's namespace and name in that manifest.
const ACCOUNT: (&str, &str) = ("kube-system", "causeway-proxy");

/// Where objects of the kinds that make up an account are found.
fn collection(object: &Value) -> Option<String> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    match object["kind"].as_str()? {
        "ServiceAccount" => {
            let namespace = object["metadata"]["namespace"].as_str()?;
            Some(format!("/api/v1/namespaces/{namespace}/serviceaccounts"))
        }
        "ClusterRole" => Some(format!("{rbac}/clusterroles")),
        "ClusterRoleBinding" => Some(format!("{rbac}/clusterrolebindings")),
        _ => None,
    }
}

/// Creates the account, its role and what binds them, as the manifest has them; fine where they
/// are there already.
///
/// # Errors
/// The API server's refusal.
pub fn create(client: &Client) -> anyhow::Result<()> {
    let manifest: Vec<Value> =
        serde_saphyr::from_multiple(MANIFEST).context("reading the proxy's manifest")?;
    for (object, path) in manifest
        .iter()
        .filter_map(|object| Some((object, collection(object)?)))
    {
        let (status, answer) = client.request(Method::POST, &path, Some(object))?;
        if !status.is_success() && status != StatusCode::CONFLICT {
            bail!("{path}: {status}: {}", answer["message"]);
        }
    }
    Ok(())
}

/// A token of the account for so long (TokenRequest, authentication.k8s.io/v1). API servers give
/// none for less than ten minutes; with `bound` it ends with that Secret, too.
///
/// # Errors
/// The API server's refusal.
pub fn token(client: &Client, lifetime: Duration, bound: Option<&Value>) -> anyhow::Result<String> {
    let (namespace, name) = ACCOUNT;
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let mut request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": lifetime.as_secs()},
    });
    if let Some(secret) = bound {
        request["spec"]["boundObjectRef"] = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "name": secret["metadata"]["name"],
            "uid": secret["metadata"]["uid"],
        });
    }
    let (status, answer) = client.request(Method::POST, &path, Some(&request))?;
    ensure!(
        status.is_success(),
        "{path}: {status}: {}",
        answer["message"]
    );
    let token = answer["status"]["token"].as_str();
    Ok(token.context("the API server's token is none")?.to_owned())
}
