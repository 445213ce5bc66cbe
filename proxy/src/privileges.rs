//! What this process may do. It starts with whatever its container gives, and keeps the
//! capabilities (capabilities(7)) that its configuration needs, for itself, for its threads and for
//! the programs that it runs; a bug in it is then not root's.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl::set_no_new_privs;

use crate::config::{Mode, Settings};

/// What the daemon does not do without, with these settings.
pub fn needed(settings: &Settings) -> CapsHashSet {
    // CAP_NET_RAW in every mode: the programs of iptables open their socket with it, and what the
    // iptables data plane left is taken away by them.
    let mut needed = CapsHashSet::from([
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_RAW,
        // Which ports below 1024 there will be to bind, Services say: their health checks.
        Capability::CAP_NET_BIND_SERVICE,
    ]);
    if settings.modes.contains(&Mode::Ebpf) {
        // To load programs and change maps, and to have programs look into packets.
        needed.extend([Capability::CAP_BPF, Capability::CAP_PERFMON]);
        if settings.planes.ebpf.enters_namespaces() {
            // A socket is ended from within its network namespace. To enter one takes the first;
            // to find it by the processes of others the second.
            needed.extend([Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE]);
        }
    }
    needed
}

/// What the process had and has no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenUp(CapsHashSet);

impl GivenUp {
    /// Gives up all but `kept`: of the calling thread, which those inherit that it starts, as do
    /// the programs that they execute, whoever their user is. There is no way back.
    ///
    /// # Errors
    /// The kernel does not let it. Something may have been given up.
    pub fn all_but(kept: &CapsHashSet) -> Result<Self, CapsError> {
        // Else a program with a set-user-ID bit would get everything back.
        set_no_new_privs().map_err(|error| CapsError::from(format!("no_new_privs: {error}")))?;
        let had = caps::read(None, CapSet::Permitted)?;
        let kept = had.intersection(kept).copied().collect();
        // Without CAP_SETPCAP it stays, and is of no use: see no_new_privs.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            for one in caps::read(None, CapSet::Bounding)?.difference(&kept) {
                caps::drop(None, CapSet::Bounding, *one)?;
            }
        }
        for set in [
            CapSet::Effective,
            CapSet::Permitted,
            // What is executed gets these: iptables-restore, and this program when it starts anew.
            CapSet::Inheritable,
            CapSet::Ambient,
        ] {
            caps::set(None, set, &kept)?;
        }
        Ok(Self(had.difference(&kept).copied().collect()))
    }

    /// Whether it is one of them.
    pub fn has(&self, one: Capability) -> bool {
        self.0.contains(&one)
    }

    /// Those of `needed` that were given up, by name, with commas; `None`: none was.
    pub fn lacking(&self, needed: &CapsHashSet) -> Option<String> {
        let mut lacking: Vec<_> = self
            .0
            .intersection(needed)
            .map(ToString::to_string)
            .collect();
        lacking.sort_unstable();
        (!lacking.is_empty()).then(|| lacking.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Flags;
    use crate::config::load;

    fn with(flags: &[&str]) -> Vec<String> {
        let flags = Flags::read(["causeway-proxy"].iter().chain(flags)).unwrap();
        let settings = load(None, &flags, "node-1").unwrap().settings;
        let mut all: Vec<_> = needed(&settings).iter().map(ToString::to_string).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_mode_has_its_own_and_options_take_some_away() {
        let network = ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"];
        for mode in ["nftables", "iptables"] {
            assert_eq!(with(&["--proxy-mode", mode]), network);
        }
        let ebpf = [&["CAP_BPF"][..], &network, &["CAP_PERFMON"]].concat();
        let without = ["--proxy-mode=ebpf", "--ebpf-connect-udp=false"];
        assert_eq!(with(&without), ebpf);
        let enters = [&ebpf[..], &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]].concat();
        assert_eq!(with(&["--proxy-mode=ebpf"]), enters);
        assert_eq!(with(&[&without[..], &["--ebpf-end-tcp"]].concat()), enters);
    }

    #[test]
    fn what_was_never_there_is_not_missed() {
        let given_up = GivenUp([Capability::CAP_BPF, Capability::CAP_CHOWN].into());
        let needed = [Capability::CAP_BPF, Capability::CAP_PERFMON];
        assert_eq!(given_up.lacking(&needed.into()).unwrap(), "CAP_BPF");
        assert_eq!(given_up.lacking(&[Capability::CAP_PERFMON].into()), None);
    }
}
