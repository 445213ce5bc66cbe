//! From a request to a response.

mod following;
mod reading;
mod writing;

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::Value;

use super::body::ResponseBody;
use super::request::{Query, Target};
use super::serve::Serving;
use super::{Refusal, discovery, openapi};

/// The largest request body that is read, as in kube-apiserver.
const MOST_BODY_BYTES: usize = 3 * 1024 * 1024;

/// A request, taken apart.
struct Asked {
    serving: Arc<Serving>,
    method: Method,
    target: Target,
    query: Query,
    /// Whether the client would rather have a table (kubectl's `get`).
    table: bool,
    content_type: String,
    body: hyper::body::Bytes,
}

/// Answers one request; what is refused is answered with a Status object.
pub(crate) async fn answer(
    serving: Arc<Serving>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let authorization = request.headers().get(AUTHORIZATION);
    let authorization = authorization.and_then(|header| header.to_str().ok());
    let known = serving.misbehaviour.knows(authorization);
    let result = match serving.misbehaviour.refusal() {
        _ if !known => Err(Refusal::new(401, "Unauthorized", "Unauthorized")),
        Some(code) => Err(Refusal::new(code, "InternalError", "refused on purpose")),
        None => respond(serving, request).await,
    };
    Ok(result.unwrap_or_else(|refusal| refused(&refusal)))
}

async fn respond(
    serving: Arc<Serving>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(document) = document(path, &head.headers) {
        return Ok(document);
    }
    let target = Target::parse(path)?;
    let header = |name| {
        head.headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let asked = Asked {
        serving,
        target,
        query: Query::parse(head.uri.query().unwrap_or_default()),
        table: header(ACCEPT).is_some_and(|accepted| accepted.contains("as=Table")),
        content_type: header(CONTENT_TYPE).unwrap_or_default().to_owned(),
        body: read_body(body).await?,
        method: head.method,
    };
    if !asked.query.get("dryRun").is_empty() {
        return Err(Refusal::bad_request("dryRun: not supported; leave it out"));
    }
    asked.dispatch().await
}

impl Asked {
    async fn dispatch(self) -> Result<Response<ResponseBody>, Refusal> {
        let collection = self.target.name.is_none();
        match self.method.as_str() {
            "GET" if collection && self.query.flag("watch")? => self.watch(),
            "GET" if collection => self.list().await,
            "GET" => self.get(),
            "POST" if collection => self.create(),
            "PUT" if !collection => self.replace(),
            "PATCH" if !collection => self.patch(),
            "DELETE" if collection => self.delete_collection(),
            "DELETE" if !self.target.status => self.delete(),
            _ => Err(self.not_allowed(collection)),
        }
    }

    fn not_allowed(&self, collection: bool) -> Refusal {
        let accepted = match (collection, self.target.status) {
            (true, _) => "GET, POST, DELETE",
            (false, false) => "GET, PUT, PATCH, DELETE",
            (false, true) => "GET, PUT, PATCH",
        };
        let message = format!("{}: not allowed here; accepted are {accepted}", self.method);
        let mut refusal = Refusal::new(405, "MethodNotAllowed", message);
        refusal.details = serde_json::json!({"kind": self.target.resource.plural()});
        refusal
    }
}

async fn read_body(body: Incoming) -> Result<hyper::body::Bytes, Refusal> {
    match Limited::new(body, MOST_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the request body is larger than {MOST_BODY_BYTES} bytes");
            Err(Refusal::new(413, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(Refusal::bad_request(format!(
            "the request body broke off: {error}"
        ))),
    }
}

/// What is served besides objects: health, version, discovery, schemas.
fn document(path: &str, headers: &hyper::HeaderMap) -> Option<Response<ResponseBody>> {
    let path = path.trim_end_matches('/');
    match path {
        "/healthz" | "/livez" | "/readyz" => Some(with_type(
            200,
            "text/plain; charset=utf-8",
            "ok".to_owned().into(),
        )),
        "/openapi/v2" => {
            let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
            Some(openapi::v2(accept.unwrap_or_default()))
        }
        _ => discovery::document(path)
            .or_else(|| openapi::v3(path))
            .map(|value| json_response(200, &value)),
    }
}

pub(super) fn json_response(code: u16, value: &Value) -> Response<ResponseBody> {
    with_type(code, "application/json", value.to_string().into())
}

pub(super) fn with_type(
    code: u16,
    content_type: &'static str,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    // Codes come from our own constants; one that is no HTTP code becomes a plain 500.
    *response.status_mut() =
        hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn refused(refusal: &Refusal) -> Response<ResponseBody> {
    json_response(refusal.code, &refusal.to_status())
}
