//! Which path answers what.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WARNING};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::state::{Health, ProxyHealth};
use super::status::Status;
use super::zpages::{self, Form, Object, Version};
use crate::metrics::{Metrics, by_code};

const PLAIN: &str = "text/plain; charset=utf-8";

/// From a path and the headers of the request to an answer; `None`: no such page.
pub type Pages = Arc<dyn Fn(&str, &HeaderMap) -> Option<Response<Full<Bytes>>> + Send + Sync>;

/// `/healthz` and `/livez`.
pub fn healthz_pages(health: Arc<Health>, metrics: Metrics) -> Pages {
    Arc::new(move |path, _headers| match path {
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

/// `/metrics`, `/metrics/slis`, and the pages about the daemon itself.
pub fn metrics_pages(metrics: Metrics, health: Arc<Health>, status: Arc<Status>) -> Pages {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Arc::new(move |path, headers| match path {
        "/metrics" => metrics
            .encode(status.mode())
            .ok()
            .map(|text| page(OPENMETRICS, text)),
        "/metrics/slis" => Some(page(OPENMETRICS, slis(health.livez().1))),
        "/proxyMode" => Some(page(PLAIN, status.mode().to_string())),
        "/configz" => Some(page("application/json", status.configz())),
        "/flagz" => Some(zpage(
            headers,
            "Flagz",
            || status.flagz(),
            || status.flagz_object(),
        )),
        "/statusz" => Some(zpage(
            headers,
            "Statusz",
            || status.statusz(&health.last_updated()),
            || status.statusz_object(),
        )),
        "/healthz" => Some(page(PLAIN, "ok".to_owned())),
        _ => None,
    })
}

/// A page in the form that is asked for.
fn zpage<T: Serialize>(
    headers: &HeaderMap,
    kind: &'static str,
    text: impl FnOnce() -> String,
    own: impl FnOnce() -> T,
) -> Response<Full<Bytes>> {
    let (content_type, version, body) = match zpages::wanted(headers, kind) {
        Some(Form::Text) => return page(PLAIN, text()),
        Some(Form::Json(version)) => {
            let body = json(&Object::new(kind, version, own()));
            ("application/json", version, body)
        }
        Some(Form::Yaml(version)) => {
            let object = Object::new(kind, version, own());
            let body = serde_saphyr::to_string(&object).unwrap_or_default();
            ("application/yaml", version, body)
        }
        None => {
            let body = format!(
                "accepted: text/plain, or application/json or application/yaml with \
                 ;g=config.k8s.io;v=v1beta1;as={kind}\n"
            );
            let mut response = page(PLAIN, body);
            *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
            return response;
        }
    };
    let mut response = page(content_type, body);
    if version == Version::V1alpha1 {
        let deprecated = HeaderValue::from_static(
            "299 - \"This version of the endpoint is deprecated. Please use a newer version.\"",
        );
        response.headers_mut().insert(WARNING, deprecated);
    }
    response
}

/// KEP-3466: the health checks as metrics.
fn slis(good: bool) -> String {
    format!(
        "# HELP kubernetes_healthcheck Result of the health check, 1 for good\n\
         # TYPE kubernetes_healthcheck gauge\n\
         kubernetes_healthcheck{{name=\"proxier\",type=\"livez\"}} {}\n# EOF\n",
        u8::from(good)
    )
}

pub(super) const fn status(good: bool) -> StatusCode {
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

pub(super) fn page(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}
