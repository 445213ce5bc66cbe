//! How the daemon is doing, told over HTTP. Never does anything about it.

mod pages;
mod server;
mod state;

pub use pages::{Pages, healthz_pages, metrics_pages};
pub use server::{BindError, serve};
pub use state::{Health, ProxyHealth};
