//! What a changed configuration asks for.

use super::{Mode, Settings};

impl Settings {
    /// The fields in which `new` differs and that cannot change while the daemon runs with data
    /// plane `mode`. Everything else changes live: the mode, periods, masquerade bits, node-port
    /// addresses, `bindAddress`, the conntrack section (but for timeouts that mode ebpf goes by),
    /// oomScoreAdj and the log's verbosity.
    pub fn restart_fields(&self, new: &Self, mode: Mode) -> Vec<&'static str> {
        // Decisions are made with it, so the model would have to be filled anew.
        let masquerade_all = self.section(mode).masquerade_all;
        let current = new.modes.iter().position(|one| *one == mode);
        let possible = &new.modes[..current.map_or(new.modes.len(), |at| at + 1)];
        let differs = |one: &Mode| new.section(*one).masquerade_all != masquerade_all;
        let fields = [
            ("hostnameOverride", self.node_name != new.node_name),
            ("clientConnection", self.api != new.api),
            (
                "detectLocalMode, detectLocal, clusterCIDR",
                self.detect_local != new.detect_local,
            ),
            ("masqueradeAll", possible.iter().any(differs)),
            ("healthzBindAddress", self.healthz != new.healthz),
            ("metricsBindAddress", self.metrics != new.metrics),
            (
                "bindAddressHardFail",
                self.bind_hard_fail != new.bind_hard_fail,
            ),
            ("logging.format", self.logging.format != new.logging.format),
            (
                "conntrack.tcpEstablishedTimeout, udpTimeout, udpStreamTimeout",
                mode == Mode::Ebpf && self.conntrack.lifetimes() != new.conntrack.lifetimes(),
            ),
            (
                "ipvs.scheduler, excludeCIDRs, strictARP, tcpTimeout, tcpFinTimeout, udpTimeout",
                mode == Mode::Ipvs && self.planes.ipvs != new.planes.ipvs,
            ),
        ];
        let changed = fields.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(name, _)| name).collect()
    }
}
