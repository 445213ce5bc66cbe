//! The daemon: who runs on which thread, and how it ends.
//!
//! One thread listens to the API server and answers HTTP; another one owns the model and the data
//! plane, which blocks. They are joined by one bounded channel.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::backend::OpenError;
use crate::choice::{Choice, NoEbpf};
use crate::config::{ConfigFile, Loaded, Mode, Settings};
use crate::health::{
    self, BindError, CheckPorts, Health, Status, healthz_pages, metrics_pages, serve,
    serve_check_ports,
};
use crate::host_setup;
use crate::logging::Verbosity;
use crate::metrics::Metrics;
use crate::privileges::{self, GivenUp};
use crate::sync::{HostKernel, Kernel, Syncer, Told};
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
    /// The configuration allows no data plane that this node can do.
    #[error(transparent)]
    Impossible(#[from] NoEbpf),
    /// No data plane.
    #[error(transparent)]
    Plane(#[from] OpenError),
    /// An address is taken, and `bindAddressHardFail` is set.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads, signals or timers are not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The configuration changed to one that needs more than was kept.
    #[error(
        "the changed configuration needs {0}, which were given up at the start: whoever started \
         this process is asked to start it again"
    )]
    GivenUp(String),
    /// The thread that programs the kernel ended by itself.
    #[error("the thread that programs the kernel ended unexpectedly")]
    SyncEnded,
}

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or SIGINT.
    Signal,
    /// The configuration changed in something that cannot change live: start it again.
    Restart,
}

/// Runs until SIGTERM, SIGINT, or a change of `file` that asks for a new start; the rules stay.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(
    mut loaded: Loaded,
    file: ConfigFile,
    verbosity: &Verbosity,
) -> Result<Ended, DaemonError> {
    host_setup::raise_open_files();
    host_setup::set_oom_score(&loaded.settings);
    // While the kernel still answers.
    let choice = Choice::make(&mut loaded.settings, &GivenUp::default())?;
    // Before there is another thread.
    let given_up = give_up(&loaded.settings);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_here(loaded, file, (choice, given_up), verbosity))
}

/// Keeps the privileges that are needed, and goes on with all if that cannot be.
fn give_up(settings: &Settings) -> GivenUp {
    GivenUp::all_but(&privileges::needed(settings)).unwrap_or_else(|error| {
        tracing::warn!(%error, "privileges that are not needed stay");
        GivenUp::default()
    })
}

async fn run_here(
    loaded: Loaded,
    file: ConfigFile,
    decided: (Choice, GivenUp),
    verbosity: &Verbosity,
) -> Result<Ended, DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Loaded {
        settings, config, ..
    } = loaded;
    let told = told(&settings, config, &file);
    told.status.set_lacking(decided.0.lacking());
    let client = connect(&settings.api, &told.metrics.api_requests).await?;
    let (events, heard) = mpsc::channel(EVENTS_ON_THE_WAY);
    let (new_settings, settings_now) = watch::channel(settings.clone());
    let (sync, opened) = SyncThread::start(told.clone(), heard, settings_now)?;
    match opened.await {
        Ok(Ok(mode)) => host_setup::set_up(&settings, mode),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(DaemonError::SyncEnded),
    }
    let mut watches = start(&client, &settings.node_name, &events);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = %told.status.mode(),
        node = settings.node_name,
        "watching"
    );
    let checks = serve_check_ports(
        told.check_ports.subscribe(),
        health::Told {
            health: Arc::clone(&told.health),
            status: Arc::clone(&told.status),
            metrics: told.metrics.clone(),
        },
    );
    let servers = async {
        tokio::select! {
            error = servers(&settings, &told) => error,
            () = checks => DaemonError::SyncEnded,
        }
    };
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(Ended::Signal),
        _ = interrupt.recv() => Ok(Ended::Signal),
        () = events.closed() => Err(DaemonError::SyncEnded),
        error = servers => Err(error),
        ended = follow(file, &settings, decided, &told, &new_settings, verbosity) => ended,
    };
    // The thread below ends when the last sender of events is gone; the watches hold theirs until
    // they have really ended.
    watches.shutdown().await;
    drop(events);
    drop(client);
    sync.join();
    let ended = ended?;
    tracing::info!(because = ?ended, "ending; the rules stay in the kernel");
    Ok(ended)
}

fn told(settings: &Settings, config: serde_json::Value, file: &ConfigFile) -> Told {
    let mode = settings.modes.first().copied().unwrap_or(Mode::Nftables);
    let flags = file.flags().shown.clone();
    Told {
        metrics: Metrics::new(),
        health: Arc::new(Health::new(settings.section(mode).timing.sync_period * 2)),
        status: Arc::new(Status::new(&settings.node_name, mode, config, flags)),
        check_ports: watch::Sender::new(CheckPorts::default()),
    }
}

/// Brings changes of the file into force, until one asks for a new start.
async fn follow(
    mut file: ConfigFile,
    started_with: &Settings,
    decided: (Choice, GivenUp),
    told: &Told,
    new_settings: &watch::Sender<Settings>,
    verbosity: &Verbosity,
) -> Result<Ended, DaemonError> {
    let (mut choice, given_up) = decided;
    loop {
        let Loaded {
            mut settings,
            config,
            warnings,
        } = file.changed().await;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        match choice.again(&mut settings, &given_up) {
            Ok(again) => choice = again,
            Err(error) => {
                tracing::error!(%error, "the changed configuration cannot be used; the one before stays");
                continue;
            }
        }
        // No new start in place brings them back.
        if let Some(lacking) = given_up.lacking(&privileges::needed(&settings)) {
            return Err(DaemonError::GivenUp(lacking));
        }
        let mode = told.status.mode();
        let restart = started_with.restart_fields(&settings, mode);
        if !restart.is_empty() {
            tracing::info!(
                changed = restart.join(", "),
                "the configuration asks for a new start"
            );
            return Ok(Ended::Restart);
        }
        tracing::info!("the configuration changed");
        verbosity.set(settings.logging.verbosity);
        let timing = settings.section(mode).timing;
        told.health.set_timeout(timing.sync_period * 2);
        told.status.set_config(config);
        told.status.set_lacking(choice.lacking());
        let wanted = settings.modes.first().copied().unwrap_or(mode);
        host_setup::set_up(&settings, wanted);
        new_settings.send_replace(settings);
    }
}

/// Serves the pages until one of the servers cannot.
async fn servers(settings: &Settings, told: &Told) -> DaemonError {
    let hard_fail = settings.bind_hard_fail;
    let (metrics, health) = (&told.metrics, &told.health);
    let healthz = async {
        let Some(address) = settings.healthz else {
            return std::future::pending().await;
        };
        let pages = healthz_pages(Arc::clone(health), metrics.clone());
        serve("healthzBindAddress", address, hard_fail, pages).await
    };
    let other = async {
        let Some(address) = settings.metrics else {
            return std::future::pending().await;
        };
        let status = Arc::clone(&told.status);
        let pages = metrics_pages(metrics.clone(), Arc::clone(health), status);
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
    /// Starts it; gives where it says which data plane could be opened.
    fn start(
        told: Told,
        heard: mpsc::Receiver<Heard>,
        settings_now: watch::Receiver<Settings>,
    ) -> std::io::Result<(Self, oneshot::Receiver<Result<Mode, OpenError>>)> {
        let (answer, opened) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || {
                let mut kernel = HostKernel::default();
                let settings = settings_now.borrow().clone();
                match kernel.open(&settings.modes, &settings) {
                    Ok(opened) => {
                        let mode = opened.mode;
                        let syncer = Syncer::new(&settings, opened, Box::new(kernel), told);
                        // Nobody waits for the answer: the daemon is ending already.
                        if answer.send(Ok(mode)).is_ok() {
                            runtime.block_on(syncer.run(heard, settings_now));
                        }
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            })?;
        Ok((Self(thread), opened))
    }

    /// Waits for the pass that is under way. The events' sender must be gone.
    fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread that programs the kernel panicked");
        }
    }
}
