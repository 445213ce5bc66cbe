//! `netns-lab reach`: what the daemon runs on a node, as a member of its cgroup, to know whether
//! the node's Services work.

use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long one attempt may take: unanswered while there is no rule.
const ATTEMPT: Duration = Duration::from_millis(50);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// Connects until it succeeds.
#[derive(Debug, clap::Args)]
pub(crate) struct Reach {
    /// Where to.
    address: SocketAddr,
    /// When to give up, in seconds.
    #[arg(long)]
    within: u64,
}

impl Reach {
    /// Whether it succeeded in time.
    pub(crate) fn run(&self) -> ExitCode {
        let deadline = Instant::now() + Duration::from_secs(self.within);
        while TcpStream::connect_timeout(&self.address, ATTEMPT).is_err() {
            if Instant::now() > deadline {
                return ExitCode::FAILURE;
            }
            std::thread::sleep(PAUSE);
        }
        ExitCode::SUCCESS
    }
}
