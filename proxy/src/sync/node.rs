//! Whether the own Node is known.

use std::time::{Duration, Instant};

use lb_model::DetectLocal;

/// How long the first pass waits for the Node after the start. It comes with the other lists
/// unless something is wrong, and without it nothing is local and node ports are guessed.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the first pass waits for the Node's podCIDRs where pods are recognised by them: whoever
/// gives them out may come after the first Services.
const PATIENCE_FOR_POD_CIDRS: Duration = Duration::from_mins(5);

/// What is known about the own Node.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnNode {
    state: State,
    started: Instant,
    /// `detectLocalMode: NodeCIDR`.
    needs_pod_cidrs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing heard.
    Awaited,
    /// It is there.
    Seen { pod_cidrs: bool },
    /// The API server says that there is none.
    Missing,
}

impl OwnNode {
    pub(super) fn new(started: Instant, detect_local: &DetectLocal) -> Self {
        Self {
            state: State::Awaited,
            started,
            needs_pod_cidrs: *detect_local == DetectLocal::NodeCidr,
        }
    }

    pub(super) fn seen(&mut self, pod_cidrs: bool) {
        self.state = State::Seen { pod_cidrs };
    }

    pub(super) fn missing(&mut self) {
        self.state = State::Missing;
    }

    fn lacks_pod_cidrs(self) -> bool {
        self.needs_pod_cidrs && self.state == State::Seen { pod_cidrs: false }
    }

    /// Until when the first pass waits; `None` where there is nothing to wait for.
    pub(super) fn awaited_until(self) -> Option<Instant> {
        if self.lacks_pod_cidrs() {
            return Some(self.started + PATIENCE_FOR_POD_CIDRS);
        }
        (self.state == State::Awaited).then(|| self.started + PATIENCE)
    }

    /// The same for people.
    pub(super) fn waits_for(self) -> Option<&'static str> {
        if self.lacks_pod_cidrs() {
            return Some("spec.podCIDRs of the own Node (detectLocalMode: NodeCIDR)");
        }
        (self.state == State::Awaited).then_some("the own Node, Services and EndpointSlices")
    }

    pub(super) fn warn_if_unknown(self) {
        if self.lacks_pod_cidrs() {
            tracing::warn!(
                "the own Node has no podCIDRs, which detectLocalMode NodeCIDR needs: until it has, \
                 no source counts as a pod's and nothing from outside is masqueraded"
            );
        }
        if !matches!(self.state, State::Seen { .. }) {
            tracing::warn!(
                "the own Node is not known to the API server (is --hostname-override right?): no \
                 endpoint counts as local, and node ports are served on the address of the default \
                 route"
            );
        }
    }
}
