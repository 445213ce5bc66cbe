//! The CNI plugin. It never executes another program but those that a configuration asks for (an
//! IPAM plugin, iptables), never keeps a process running, and touches nothing on the node but its
//! network's bridge, its own links, its own nftables tables and its network's reservations.
//!
//! It speaks the Container Network Interface: parameters in the environment, the configuration on
//! standard input, the result or an error object on standard output.

mod answer;
mod bandwidth;
mod bridge;
mod call;
mod command_line;
mod failure;
mod firewall;
mod forwarding;
mod hash;
mod host_local;
mod identity;
mod install;
mod ipam;
mod iptables;
mod keys;
mod loopback;
mod manual;
mod masquerade;
mod pod;
mod port;
mod portmap;
mod ptp;
mod role;
mod rollback;
mod spoof;
mod state;
mod static_ipam;
mod tables;
mod tuning;
mod turn;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use cni_types::{Code, Environment, Error, MAX_CONFIG_BYTES, Version};

pub use host_local::reservation::Reservation;
use role::Role;

/// Does what this process was started for, and gives its exit code.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // A runtime gives no argument.
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some() {
        return command_line::run(arguments);
    }
    let environment = Environment::read(|name| std::env::var(name).ok());
    if matches!(environment, Ok(None)) {
        eprint!("{}", manual::about());
        return ExitCode::SUCCESS;
    }
    let mut asked_in = Version::NEWEST;
    let answer = environment.and_then(|environment| match environment {
        Some(environment) => answer::answer(
            Role::named(&name),
            environment,
            &read_input()?,
            &mut asked_in,
        ),
        None => Ok(None),
    });
    let (output, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(error) => (error.to_json(asked_in), ExitCode::FAILURE),
    };
    // One write: standard output writes line by line, and each wakes the runtime that reads.
    match io::stdout().write_all(format!("{output:#}\n").as_bytes()) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("causeway-cni: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_input() -> Result<Vec<u8>, Error> {
    let mut input = Vec::new();
    // One byte more than is taken shows that there is too much.
    let most = u64::try_from(MAX_CONFIG_BYTES).map_or(u64::MAX, |most| most + 1);
    io::stdin()
        .take(most)
        .read_to_end(&mut input)
        .map_err(|error| Error::new(Code::IO, format!("cannot read standard input: {error}")))?;
    Ok(input)
}
