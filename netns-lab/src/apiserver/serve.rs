//! Listeners, connections, and their end.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::misbehaviour::Misbehaviour;
use super::{Store, answer};
use crate::background::{Alive, Background};

/// How long a connection may be idle before its next request's headers are complete.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);

/// The most bytes of headers; kubectl sends about 1 KiB.
const MOST_HEADER_BYTES: usize = 64 * 1024;

/// How long answers under way may take when the server stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// A running API server: HTTP/1.1 in front of a [`Store`], on a thread of its own.
///
/// Dropping it stops it, as [`Self::stop`] does; the store stays, and another server can be
/// started on it.
#[derive(Debug)]
pub struct ApiServer {
    serving: Arc<Serving>,
    background: Background,
}

/// What every request is answered from.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) store: Store,
    pub(crate) misbehaviour: Misbehaviour,
}

impl ApiServer {
    /// Starts a server that listens nowhere yet; needs no async runtime around it.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(store: Store) -> anyhow::Result<Self> {
        let background = Background::start("apiserver")?;
        let serving = Arc::new(Serving {
            store,
            misbehaviour: Misbehaviour::none(),
        });
        Ok(Self {
            serving,
            background,
        })
    }

    /// Accepts connections from this listener too, whichever namespace it was bound in, and
    /// gives the address it is bound to.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn serve(&self, listener: std::net::TcpListener) -> anyhow::Result<SocketAddr> {
        let (_entered, alive) = self
            .background
            .enter()
            .context("the API server has stopped")?;
        listener
            .set_nonblocking(true)
            .context("making the API server's listener non-blocking")?;
        let listener = TcpListener::from_std(listener).context("registering the listener")?;
        let address = listener
            .local_addr()
            .context("reading the listener's address")?;
        tokio::spawn(accept(alive, listener, self.serving.clone()));
        Ok(address)
    }

    /// The store behind this server.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.serving.store
    }

    /// The faults this server can be told to have.
    #[must_use]
    pub fn misbehaviour(&self) -> &Misbehaviour {
        &self.serving.misbehaviour
    }

    /// Stops: closes the listeners, ends all watches, gives answers under way half a second.
    /// Blocks until then.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.serving.misbehaviour.stop();
    }
}

/// The listener is closed before `alive` is dropped: parameters go in reverse order.
async fn accept(alive: Alive, listener: TcpListener, serving: Arc<Serving>) {
    let mut orders = serving.misbehaviour.orders();
    loop {
        let accepted = tokio::select! {
            _ = orders.wait_for(|orders| orders.stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve_connection(stream, serving.clone(), alive.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the API server could not accept a connection");
                // Out of file descriptors, most likely: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, serving: Arc<Serving>, _alive: Alive) {
    if let Err(error) = converse(stream, serving).await {
        tracing::debug!(%error, "a connection to the API server ended");
    }
}

async fn converse(stream: TcpStream, serving: Arc<Serving>) -> io::Result<()> {
    // An event must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let mut orders = serving.misbehaviour.orders();
    let mut told = *orders.borrow_and_update();
    let service = service_fn(|request| answer::answer(serving.clone(), request));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MOST_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    while !told.stop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            changed = orders.changed() => {
                let now = *orders.borrow_and_update();
                if changed.is_err() || now.cut != told.cut {
                    return Ok(());
                }
                if now.mute != told.mute {
                    // Nobody looks at it any more, but it is not closed before the end.
                    let _ = orders.wait_for(|orders| orders.stop).await;
                    return Ok(());
                }
                told = now;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(LAST_ANSWERS, connection).await {
        Ok(ended) => ended.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}
