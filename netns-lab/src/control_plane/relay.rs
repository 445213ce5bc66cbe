//! A way from this machine's loopback to an address inside a network namespace.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use nodekit::netns::Worker;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::background::{Alive, Background};

/// Hands connections on, byte by byte, until it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    stop: watch::Sender<bool>,
    address: SocketAddr,
    _background: Background,
}

impl Relay {
    /// From a free port of the calling thread's loopback to `target`, as the worker reaches it.
    pub(crate) fn start(inside: Arc<Worker>, target: SocketAddr) -> anyhow::Result<Self> {
        let background = Background::start("relay")?;
        let (stop, stopped) = watch::channel(false);
        let address = {
            let (_entered, alive) = background.enter().context("the relay has ended")?;
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let address = listener.local_addr()?;
            tokio::spawn(accept(listener, inside, target, stopped, alive));
            address
        };
        Ok(Self {
            stop,
            address,
            _background: background,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(
    listener: TcpListener,
    inside: Arc<Worker>,
    target: SocketAddr,
    mut stopped: watch::Receiver<bool>,
    alive: Alive,
) {
    loop {
        let near = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((near, _)) = near else {
            // Out of file descriptors, most likely: give others time to close theirs.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (inside, mut stopped, alive) = (inside.clone(), stopped.clone(), alive.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                ended = hand_on(near, inside, target) => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the API server ended");
                }
            }
            drop(alive);
        });
    }
}

async fn hand_on(
    mut near: TcpStream,
    inside: Arc<Worker>,
    target: SocketAddr,
) -> anyhow::Result<()> {
    let connect = move || inside.call(move || std::net::TcpStream::connect(target));
    let far = tokio::task::spawn_blocking(connect).await???;
    far.set_nonblocking(true)?;
    let mut far = TcpStream::from_std(far)?;
    // An event must not wait for the acknowledgement of the one before.
    far.set_nodelay(true)?;
    near.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
