//! The kernel's counters that rules count packets with (nfacct), under kube-proxy's names.

use lb_plan::iptables::Counter;
use nodekit::xtables::{self, Xtables};
use nodekit::{Errno, netlink, nfacct};

use super::family::CANARY;

/// Whether rules of one family can count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// `None`: not tried yet.
    usable: Option<bool>,
}

impl Counters {
    pub(super) fn usable(&self) -> bool {
        self.usable == Some(true)
    }

    /// Makes the counters, where they are not. The first time it is tried whether rules can count
    /// with them: where the kernel lacks the match, or the program its extension, every input with
    /// such a rule would be refused. A chain that nothing leads to is tried with, which is written
    /// anew at once.
    pub(super) fn provide(&mut self, xtables: &Xtables) {
        if self.usable == Some(false) {
            return;
        }
        if let Err(error) = make() {
            return self.give_up(&error);
        }
        if self.usable.is_some() {
            return;
        }
        let counter = Counter::InvalidDropped.name();
        let input = format!(
            "*mangle\n:{CANARY} - [0:0]\n-A {CANARY} -m nfacct --nfacct-name {counter}\nCOMMIT\n"
        );
        match xtables.restore(&input) {
            Ok(()) => self.usable = Some(true),
            Err(error @ xtables::Error::Refused { line: Some(_), .. }) => self.give_up(&error),
            // Nothing was said about the counters, so they are tried again with everything else.
            Err(error) => tracing::debug!(%error, "packet counters could not be tried"),
        }
    }

    fn give_up(&mut self, error: &dyn std::fmt::Display) {
        self.usable = Some(false);
        tracing::info!(
            %error,
            "no packet counters (nfacct): dropped invalid packets and connections to node ports on \
             localhost are not counted"
        );
    }
}

fn make() -> Result<(), netlink::Error> {
    let mut counters = nfacct::Counters::open()?;
    let mut all = Counter::ALL.into_iter();
    all.try_for_each(|counter| counters.ensure(counter.name()))
}

/// Deletes the counters. Those that rules of others count with stay.
///
/// # Errors
/// Of netlink.
pub(super) fn remove() -> Result<(), netlink::Error> {
    let mut counters = nfacct::Counters::open()?;
    for counter in Counter::ALL {
        match counters.delete(counter.name()) {
            // EINVAL: the kernel has no such counters at all.
            Err(error) if matches!(error.errno(), Some(Errno::EBUSY | Errno::EINVAL)) => {
                tracing::debug!(%error, "a packet counter stays");
            }
            done => {
                done?;
            }
        }
    }
    Ok(())
}
