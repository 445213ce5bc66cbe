//! What a process may do, as the kernel tells.

use anyhow::Context;

/// Capabilities by their numbers (linux/capability.h).
pub const NET_BIND_SERVICE: u32 = 10;
/// See [`NET_BIND_SERVICE`].
pub const NET_ADMIN: u32 = 12;
/// See [`NET_BIND_SERVICE`].
pub const NET_RAW: u32 = 13;
/// See [`NET_BIND_SERVICE`].
pub const SYS_PTRACE: u32 = 19;
/// See [`NET_BIND_SERVICE`].
pub const SYS_ADMIN: u32 = 21;
/// See [`NET_BIND_SERVICE`].
pub const PERFMON: u32 = 38;
/// See [`NET_BIND_SERVICE`].
pub const BPF: u32 = 39;

/// The sets of capabilities(7), as `/proc/PID/task/TID/status` names them.
pub const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// In the order of [`SETS`].
    pub capabilities: [u64; 5],
    /// Nothing that it executes gets more.
    pub no_new_privs: bool,
}

impl Privileges {
    /// Exactly these in every set, and no way to more.
    pub fn only(capabilities: &[u32]) -> Self {
        let bits = capabilities.iter().fold(0, |bits, one| bits | 1 << one);
        Self {
            capabilities: [bits; 5],
            no_new_privs: true,
        }
    }

    /// What a `status` file says.
    pub(super) fn read(status: &str) -> anyhow::Result<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim).with_context(|| format!("no {name}"))
        };
        let mut capabilities = [0; 5];
        for (bits, name) in capabilities.iter_mut().zip(SETS) {
            *bits = u64::from_str_radix(field(name)?, 16)?;
        }
        Ok(Self {
            capabilities,
            no_new_privs: field("NoNewPrivs")? == "1",
        })
    }
}
