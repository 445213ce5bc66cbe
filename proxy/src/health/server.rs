//! A small HTTP server: GET and HEAD, no bodies read.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::pages::Pages;

/// How long until an address that could not be bound is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Who sends no request within this is hung up on.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Connections at once; more wait in the backlog.
const MOST_CONNECTIONS: usize = 32;

/// An address could not be bound, and `bindAddressHardFail` is set.
#[derive(Debug, thiserror::Error)]
#[error("{field} {address}: cannot listen there: {source}")]
pub struct BindError {
    field: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves `pages` on `address` for ever. Where the address cannot be bound, it is logged and tried
/// again, or, with `hard_fail`, an error. `field` is the configuration's name for the address.
///
/// # Errors
/// [`BindError`].
pub async fn serve(
    field: &'static str,
    address: SocketAddr,
    hard_fail: bool,
    pages: Pages,
) -> Result<Infallible, BindError> {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(source) if hard_fail => {
                return Err(BindError {
                    field,
                    address,
                    source,
                });
            }
            Err(error) => {
                tracing::warn!(field, %address, %error, "cannot listen; trying again");
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(field, %error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(answer(&request, &pages)));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_WITHIN)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::trace!(%error, "a client went away");
            }
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n"));
    }
    let page = pages(request.uri().path());
    Ok(page.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "404 page not found\n")))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
