//! `netns-lab exec`.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitCode;

use anyhow::Context as _;
use netns_lab::{CLIENT, Lab};

use super::Which;

/// Runs a command somewhere in the lab.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    which: Which,
    /// Where: a pod (`NAME` or `NAMESPACE/NAME`), a node, or `client`, the machine outside.
    #[arg(value_name = "POD")]
    place: String,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

impl Exec {
    /// Runs it; gives the command's own exit status.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let lab = Lab::open(self.which.folder()?)?;
        let (program, arguments) = self.words.split_first().context("no command")?;
        let state = lab.state()?;
        let is_pod = state.sandbox(&self.place).is_ok();
        let is_node = self.place == CLIENT || state.topology.node(&self.place).is_some();
        let mut command = match !is_pod && is_node {
            true => lab.command_on_node(&self.place, program)?,
            false => lab.command_in_pod(&self.place, program)?,
        };
        let status = command.args(arguments).status();
        let status = status.with_context(|| format!("running {program} in {}", self.place))?;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal));
        let code = code.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
