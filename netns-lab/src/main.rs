//! The `netns-lab` command: a Kubernetes cluster's network on this machine.

mod commands;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("NETNS_LAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(arguments.log_level()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match arguments.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netns-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
