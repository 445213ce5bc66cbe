//! Counts what is asked of the API server.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use hyper::{Request, Response};
use kube::client::Body;
use tower::{Layer, Service};

use crate::metrics::ApiRequests;

/// Wraps a client so that its requests are counted.
#[derive(Clone, Debug)]
pub(super) struct CountRequests {
    requests: ApiRequests,
    host: Arc<str>,
}

impl CountRequests {
    /// Of requests to `host`, with its port.
    pub(super) fn to(host: &str, requests: ApiRequests) -> Self {
        let host = host.into();
        Self { requests, host }
    }
}

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let count = self.clone();
        Counted { inner, count }
    }
}

/// A client whose requests are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    count: CountRequests,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let CountRequests { requests, host } = self.count.clone();
        let method = request.method().clone();
        let asked = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            requests.count(&host, method.as_str(), status, asked.elapsed());
            answer
        })
    }
}
