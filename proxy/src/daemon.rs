//! The daemon: who runs on which thread, and how it ends.
//!
//! One thread listens to the API server and answers HTTP; another one owns the model and the data
//! plane, which blocks. They are joined by one bounded channel.

use std::convert::Infallible;
use std::sync::Arc;

use lb_model::Family;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::backend::{self, BackendError, Opened, PlaneSettings};
use crate::config::{Mode, Settings};
use crate::health::{BindError, Health, healthz_pages, metrics_pages, serve};
use crate::metrics::Metrics;
use crate::sync::Syncer;
use crate::watch::{ClientError, Heard, connect, start};

/// Events on their way to the thread that programs the kernel; when it is full, nothing more is
/// read from the API server.
const EVENTS_ON_THE_WAY: usize = 1024;

/// Why the daemon could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No client for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No data plane.
    #[error("mode {mode}: {source}")]
    Plane {
        /// The mode.
        mode: Mode,
        /// Why not.
        source: BackendError,
    },
    /// An address is taken, and `bindAddressHardFail` is set.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads, signals or timers are not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The thread that programs the kernel ended by itself.
    #[error("the thread that programs the kernel ended unexpectedly")]
    SyncEnded,
}

/// Runs until SIGTERM or SIGINT; the rules stay. `config` is shown under /configz.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(settings: &Settings, config: &serde_json::Value) -> Result<(), DaemonError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_here(settings, config))
}

async fn run_here(settings: &Settings, config: &serde_json::Value) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = connect(&settings.api).await?;
    let metrics = Metrics::new();
    let health = Arc::new(Health::new(settings.timing.sync_period * 2));
    let (events, heard) = mpsc::channel(EVENTS_ON_THE_WAY);
    let (opened, plane) = oneshot::channel();
    let sync = SyncThread::start(
        settings,
        metrics.clone(),
        Arc::clone(&health),
        heard,
        opened,
    )?;
    match plane.await {
        Ok(Ok(())) => {}
        Ok(Err(source)) => {
            return Err(DaemonError::Plane {
                mode: settings.mode,
                source,
            });
        }
        Err(_) => return Err(DaemonError::SyncEnded),
    }
    let mut watches = start(&client, &settings.node_name, &events);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = %settings.mode,
        node = settings.node_name,
        "watching"
    );
    let ended = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        () = events.closed() => Err(DaemonError::SyncEnded),
        error = servers(settings, config, health, metrics) => Err(error),
    };
    // The thread below ends when the last sender of events is gone; the watches hold theirs until
    // they have really ended.
    watches.shutdown().await;
    drop(events);
    drop(client);
    sync.join();
    tracing::info!(signal = ended?, "ending; the rules stay in the kernel");
    Ok(())
}

/// Serves the pages until one of the servers cannot.
async fn servers(
    settings: &Settings,
    config: &serde_json::Value,
    health: Arc<Health>,
    metrics: Metrics,
) -> DaemonError {
    let hard_fail = settings.bind_hard_fail;
    let healthz = async {
        let Some(address) = settings.healthz else {
            return std::future::pending().await;
        };
        let pages = healthz_pages(health, metrics.clone());
        serve("healthzBindAddress", address, hard_fail, pages).await
    };
    let other = async {
        let Some(address) = settings.metrics else {
            return std::future::pending().await;
        };
        let pages = metrics_pages(metrics.clone(), settings.mode.to_string(), config);
        serve("metricsBindAddress", address, hard_fail, pages).await
    };
    let ended: Result<Infallible, BindError> = tokio::select! {
        ended = healthz => ended,
        ended = other => ended,
    };
    match ended {
        Err(error) => error.into(),
    }
}

/// The thread that owns the model and the data plane.
struct SyncThread(std::thread::JoinHandle<()>);

impl SyncThread {
    /// Starts it; whether the data plane could be opened comes through `opened`.
    fn start(
        settings: &Settings,
        metrics: Metrics,
        health: Arc<Health>,
        heard: mpsc::Receiver<Heard>,
        opened: oneshot::Sender<Result<(), BackendError>>,
    ) -> std::io::Result<Self> {
        let settings = settings.clone();
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || {
                let opened_plane = match open(&settings) {
                    Ok(opened) => opened,
                    Err(error) => {
                        // Nobody waits for the answer: the daemon is ending already.
                        drop(opened.send(Err(error)));
                        return;
                    }
                };
                if opened.send(Ok(())).is_ok() {
                    let syncer = Syncer::new(&settings, opened_plane, metrics, health);
                    runtime.block_on(syncer.run(heard));
                }
            })?;
        Ok(Self(thread))
    }

    /// Waits for the pass that is under way. The events' sender must be gone.
    fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread that programs the kernel panicked");
        }
    }
}

/// The data plane as it is before the Node is known.
fn open(settings: &Settings) -> Result<Opened, BackendError> {
    let plane_settings = Family::ALL.map(|family| PlaneSettings {
        family,
        masquerade_bit: settings.masquerade_bit,
        detector: lb_model::LocalDetector::None,
        node_port_addresses: std::collections::BTreeSet::new(),
        localhost_node_ports: false,
        tcp_be_liberal: false,
    });
    backend::open(settings.mode, plane_settings.to_vec(), &settings.ebpf)
}
