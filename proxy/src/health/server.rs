//! A small HTTP server: GET and HEAD, no bodies read, everything bounded.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::pages::Pages;

/// How long until an address that could not be bound is tried again.
pub(super) const BIND_AGAIN: Duration = Duration::from_secs(1);
/// Who sends no request within this is hung up on.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Who takes no answer within this is hung up on, too: no connection lives longer.
const CONNECTION_ENDS: Duration = Duration::from_secs(300);
/// Headers of a request, in bytes; more is answered with 431.
const MOST_HEADERS: usize = 16 * 1024;
/// Connections at once. One more, and the oldest is hung up on: who asks something is answered in
/// a moment, who only holds a connection is not.
const MOST_CONNECTIONS: usize = 32;
const BACKLOG: i32 = 128;
/// Ports from here on are everybody's (ip(7), `ip_unprivileged_port_start`).
const FIRST_FREE_PORT: u16 = 1024;

/// An address could not be bound, and `bindAddressHardFail` is set.
#[derive(Debug, thiserror::Error)]
#[error("{field} {address}: cannot listen there: {source}")]
pub struct BindError {
    field: &'static str,
    address: SocketAddr,
    source: io::Error,
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
    let mut said = false;
    let listener = loop {
        let bound = TcpListener::bind(address).await;
        match bound.map_err(|error| explained(error, address)) {
            Ok(listener) => break listener,
            Err(source) if hard_fail => {
                return Err(BindError {
                    field,
                    address,
                    source,
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(field, %address, %error, "cannot listen; trying again");
                }
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    if said {
        tracing::info!(field, %address, "listening now");
    }
    Ok(accept(&listener, &pages).await)
}

/// Listens on `address` and, where that is any IPv6 address, on no IPv4 address besides.
///
/// # Errors
/// As `bind(2)` and `listen(2)`.
pub(super) fn listen_in_one_family(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let bound = socket.bind(&address.into());
    bound.map_err(|error| explained(error, address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Why `address` cannot be bound, with what would help.
fn explained(error: io::Error, address: SocketAddr) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied || address.port() >= FIRST_FREE_PORT {
        return error;
    }
    let explained = format!(
        "{error}: a port below {FIRST_FREE_PORT} needs the capability CAP_NET_BIND_SERVICE"
    );
    io::Error::new(error.kind(), explained)
}

/// Answers whoever connects, for ever; dropped, it ends all connections.
pub(super) async fn accept(listener: &TcpListener, pages: &Pages) -> Infallible {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                open.retain(|connection| !connection.is_finished());
                if open.len() >= MOST_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let pages = Arc::clone(pages);
                let talk = async move { talk(stream, &pages).await };
                open.push_back(connections.spawn(async move {
                    if tokio::time::timeout(CONNECTION_ENDS, talk).await.is_err() {
                        tracing::debug!("a connection lasted too long");
                    }
                }));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, pages: &Pages) {
    let service = service_fn(|request| std::future::ready(answer(&request, pages)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a client went away");
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n"));
    }
    let page = pages(request.uri().path(), request.headers());
    Ok(page.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "404 page not found\n")))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
