//! Answers of the API server, up to a size.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{Request, Response};
use kube::client::Body as RequestBody;
use tower::{BoxError, Layer, Service};

/// The longest line of a watch, which is one object, in bytes. etcd takes 1.5 MiB, and an API server
/// requests of 3 MiB, as protobuf; JSON is some five times as long.
const LONGEST_EVENT: usize = 32 << 20;
/// The longest other answer, in bytes. An API server may give a whole list where a page was asked
/// for; 100,000 endpoints are some 30 MB.
const LONGEST_ANSWER: usize = 512 << 20;

/// Why an answer is not read any further.
#[derive(Debug, thiserror::Error)]
#[error("the API server's {what} is longer than {most} bytes")]
struct TooLong {
    what: &'static str,
    most: usize,
}

/// Wraps a client so that nothing is taken in without end.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundAnswers;

impl<S> Layer<S> for BoundAnswers {
    type Service = Bound<S>;

    fn layer(&self, inner: S) -> Bound<S> {
        Bound { inner }
    }
}

/// A client whose answers are bounded.
#[derive(Clone, Debug)]
pub(super) struct Bound<S> {
    inner: S,
}

impl<S, B> Service<Request<RequestBody>> for Bound<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<BoundBody<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let watch = query.split('&').any(|parameter| parameter == "watch=true");
        let answer = self.inner.call(request);
        let bound = move |answer: Response<B>| {
            let events = watch && answer.status().is_success();
            answer.map(|body| BoundBody::new(body, events))
        };
        answer.map_ok(bound).boxed()
    }
}

/// A body that ends with an error where it is too long.
pub(super) struct BoundBody<B> {
    inner: B,
    /// Each line by itself.
    watch: bool,
    most: usize,
    read: usize,
}

impl<B> BoundBody<B> {
    const fn new(inner: B, watch: bool) -> Self {
        Self {
            inner,
            watch,
            most: if watch { LONGEST_EVENT } else { LONGEST_ANSWER },
            read: 0,
        }
    }

    /// Whether it is still short enough with these `bytes`.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        let whole = self.read + bytes.len();
        if !self.watch {
            self.read = whole;
            return whole <= self.most;
        }
        let end = |byte: &u8| *byte == b'\n';
        if whole <= self.most {
            // Nearly always: then only the last line has to be found.
            let last = bytes.iter().rposition(end);
            self.read = last.map_or(whole, |end| bytes.len() - end - 1);
            return true;
        }
        // The first line goes on with what came before.
        bytes.split(end).enumerate().all(|(nth, line)| {
            self.read = if nth == 0 { self.read } else { 0 } + line.len();
            self.read <= self.most
        })
    }
}

impl<B> Body for BoundBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        if frame.data_ref().is_none_or(|bytes| self.takes(bytes)) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let error = TooLong {
            what: if self.watch { "event" } else { "answer" },
            most: self.most,
        };
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Collected, Full};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn read(text: &'static str, watch: bool) -> Result<Bytes, String> {
        let mut body = BoundBody::new(Full::from(text), watch);
        body.most = 8;
        let read = body.collect().now_or_never().unwrap();
        read.map(Collected::to_bytes)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_bounded_as_a_whole() {
        assert_eq!(read("1234\n678", false).unwrap(), "1234\n678");
        let error = read("1234\n6789", false).unwrap_err();
        assert_eq!(error, "the API server's answer is longer than 8 bytes");
    }

    #[test]
    fn a_watch_is_bounded_event_by_event() {
        let text = "12345678\n\n12345678\n12345678";
        assert_eq!(read(text, true).unwrap(), text);
        let error = read("1\n123456789\n1", true).unwrap_err();
        assert_eq!(error, "the API server's event is longer than 8 bytes");
    }

    proptest! {
        #[test]
        fn lines_count_however_they_are_cut(pieces in vec(vec(select(&b"xxx\n"[..]), 0..12), 0..6)) {
            let mut body = BoundBody::new(Full::<Bytes>::default(), true);
            body.most = 8;
            let taken = pieces.iter().all(|piece| body.takes(piece));
            let whole = pieces.concat();
            let mut lines = whole.split(|byte| *byte == b'\n');
            prop_assert_eq!(taken, lines.all(|line| line.len() <= 8));
        }
    }

    #[test]
    fn an_event_may_come_in_pieces() {
        let mut body = BoundBody::new(Full::<Bytes>::default(), true);
        body.most = 8;
        assert!(body.takes(b"12345") && body.takes(b"678") && body.takes(b"\n12345678"));
        assert!(!body.takes(b"9"));
    }
}
