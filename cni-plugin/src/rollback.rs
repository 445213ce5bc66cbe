//! Steps that are undone, last first, when a later one fails.

use std::fmt;

use cni_types::Error;

/// What ADD does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Reserve,
    Bridge,
    Veth,
    Pod,
    Gateway,
    Localhost,
    Tables,
    Iptables,
    StaleConnections,
    LimitIncoming,
    Ifb,
    LimitOutgoing,
    Hook,
    Redirect,
    Sysctl,
    Save,
    Tune,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserve => "reserve addresses",
            Self::Bridge => "make the bridge",
            Self::Veth => "make the veth pair",
            Self::Pod => "configure the pod's interface",
            Self::Gateway => "configure the gateway",
            Self::Localhost => "lead the node's loopback addresses to host ports",
            Self::StaleConnections => "forget connections to host ports",
            Self::Tables => "program nf_tables",
            Self::Iptables => "program iptables",
            Self::LimitIncoming => "limit what the pod receives",
            Self::Ifb => "make the device that limits what the pod sends",
            Self::LimitOutgoing => "limit what the pod sends",
            Self::Hook => "hook what the pod sends",
            Self::Redirect => "redirect what the pod sends",
            Self::Sysctl => "set a kernel parameter of the pod's",
            Self::Save => "write down what the pod's interface had",
            Self::Tune => "tune the pod's interface",
        })
    }
}

type Undo<'a> = Box<dyn FnOnce() -> Result<(), Error> + 'a>;

/// The undo of every step taken so far.
pub(crate) struct Rollback<'a> {
    undo: Vec<(Step, Undo<'a>)>,
    before: &'a dyn Fn(Step) -> Result<(), Error>,
}

impl<'a> Rollback<'a> {
    /// `before` is asked before each step; an error of its counts as the step's.
    pub(crate) fn new(before: &'a dyn Fn(Step) -> Result<(), Error>) -> Self {
        Self {
            undo: Vec::new(),
            before,
        }
    }

    /// Takes a step that leaves nothing to undo.
    pub(crate) fn step<T>(
        &mut self,
        step: Step,
        act: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        (self.before)(step)
            .and_then(|()| act())
            .map_err(|error| error.at(step))
    }

    /// Takes a step; `undo` reverts it once it has succeeded.
    pub(crate) fn step_with_undo<T>(
        &mut self,
        step: Step,
        act: impl FnOnce() -> Result<T, Error>,
        undo: impl FnOnce() -> Result<(), Error> + 'a,
    ) -> Result<T, Error> {
        let done = self.step(step, act)?;
        self.undo_by(step, undo);
        Ok(done)
    }

    /// Says how a step that has succeeded is reverted.
    pub(crate) fn undo_by(&mut self, step: Step, undo: impl FnOnce() -> Result<(), Error> + 'a) {
        self.undo.push((step, Box::new(undo)));
    }

    /// Undoes everything and returns the error that was the reason, with what could not be undone
    /// in its details.
    pub(crate) fn roll_back(self, reason: Error) -> Error {
        let mut left = Vec::new();
        for (step, undo) in self.undo.into_iter().rev() {
            if let Err(error) = undo() {
                left.push(format!("undoing \"{step}\" failed: {error}"));
            }
        }
        if left.is_empty() {
            reason
        } else {
            reason.with_details(left.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use cni_types::Code;

    use super::*;

    #[test]
    fn undo_goes_backwards_past_failures() {
        let log = RefCell::new(Vec::new());
        let undone = |what| {
            log.borrow_mut().push(what);
            Err(Error::new(Code::IO, what))
        };
        let fails_at = |step| match step {
            Step::Pod => Err(Error::new(Code::INTERNAL, "no")),
            _ => Ok(()),
        };
        let mut rollback = Rollback::new(&fails_at);
        rollback
            .step_with_undo(Step::Reserve, || Ok(()), || undone("address"))
            .unwrap();
        rollback
            .step_with_undo(Step::Veth, || Ok(()), || undone("veth"))
            .unwrap();
        let reason = rollback.step(Step::Pod, || Ok(())).unwrap_err();
        let error = rollback.roll_back(reason);
        assert_eq!(*log.borrow(), ["veth", "address"]);
        assert_eq!(error.message, "configure the pod's interface: no");
        assert!(
            error.details.contains("veth") && error.details.contains("address"),
            "{error}"
        );
    }
}
