//! How the daemon is doing, told over HTTP. Never does anything about it.

mod check_ports;
mod pages;
mod server;
mod state;
mod status;
mod zpages;

pub use check_ports::{CheckPorts, Told, serve_check_ports};
pub use pages::{Pages, healthz_pages, metrics_pages};
pub use server::{BindError, serve};
pub use state::{Health, ProxyHealth};
pub use status::{MOST_NAMED, Status};
