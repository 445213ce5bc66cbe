//! Which path answers what.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::state::{Health, ProxyHealth};
use crate::metrics::{Metrics, by_code};

/// From a path to an answer; `None`: no such page.
pub type Pages = Arc<dyn Fn(&str) -> Option<Response<Full<Bytes>>> + Send + Sync>;

/// `/healthz` and `/livez`.
pub fn healthz_pages(health: Arc<Health>, metrics: Metrics) -> Pages {
    Arc::new(move |path| match path {
        "/healthz" => {
            let (answer, good) = health.healthz();
            metrics
                .healthz
                .get_or_create(&by_code(status(good).as_u16()))
                .inc();
            Some(report(&answer, good))
        }
        "/livez" => {
            let (answer, good) = health.livez();
            metrics
                .livez
                .get_or_create(&by_code(status(good).as_u16()))
                .inc();
            Some(report(&answer, good))
        }
        _ => None,
    })
}

/// `/metrics`, `/proxyMode`, `/configz` (the configuration in effect) and `/healthz`.
pub fn metrics_pages(metrics: Metrics, mode: String, config: &serde_json::Value) -> Pages {
    let configz = serde_json::json!({ "kubeproxy.config.k8s.io": config }).to_string();
    Arc::new(move |path| match path {
        "/metrics" => metrics.encode().ok().map(|text| {
            page(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                text,
            )
        }),
        "/proxyMode" => Some(page("text/plain; charset=utf-8", mode.clone())),
        "/configz" => Some(page("application/json", configz.clone())),
        "/healthz" => Some(page("text/plain; charset=utf-8", "ok".to_owned())),
        _ => None,
    })
}

const fn status(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn report(answer: &ProxyHealth, good: bool) -> Response<Full<Bytes>> {
    let mut response = page("application/json", json(answer));
    *response.status_mut() = status(good);
    response
}

fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

fn page(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}
