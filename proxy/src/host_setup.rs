//! What the daemon sets on its host besides the data plane. Never fails as a whole: a container
//! may not be allowed to, and the data plane works without.
//!
//! Capabilities: writing the kernel parameters of the host's network namespace needs `/proc/sys`
//! writable and, in the first namespace, uid 0 or CAP_NET_ADMIN over it; `nf_conntrack_max` exists
//! for the first namespace only and is read-only in all others. A negative `oom_score_adj` needs
//! CAP_SYS_RESOURCE. What the daemon does besides needs less (`privileges`), so `--init-only` does
//! what stands here in a privileged init container, and the daemon itself can do without.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nodekit::ipvs::IpvsSocket;
use nodekit::sysctl::{self, Key};

use crate::backend::ipvs;
use crate::config::{Conntrack, Mode, Settings};

/// Raises the number of files that this process may have open as far as it may by itself: each
/// health-check node port is one for each address, and more for those who ask.
pub fn raise_open_files() {
    let resource = Resource::RLIMIT_NOFILE;
    let raised = getrlimit(resource).and_then(|(soft, hard)| {
        setrlimit(resource, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((soft, hard)) => tracing::info!(before = soft, now = hard, "open files allowed"),
        Err(error) => tracing::warn!(%error, "the number of open files stays as it is"),
    }
}

/// Sets how readily the kernel kills this process, which takes CAP_SYS_RESOURCE, if it is to be
/// less than now: so before privileges are given up. [`set_up`] says when it was not possible.
pub fn set_oom_score(settings: &Settings) {
    if let Err(error) = write_oom_score(settings.oom_score_adj) {
        tracing::debug!(%error, "oom_score_adj");
    }
}

/// Sets what `settings` ask for where data plane `mode` runs; one log line says what was not
/// possible.
pub fn set_up(settings: &Settings, mode: Mode) {
    if mode == Mode::Ipvs
        && let Err(error) = IpvsSocket::open()
    {
        // That loads the module, without which its parameters are not there.
        tracing::warn!(%error, "no IPVS");
    }
    let mut refused: Vec<String> = wanted(settings, mode)
        .into_iter()
        .filter_map(|(name, value)| set(name, &value).err())
        .map(|error| error.to_string())
        .collect();
    let score = settings.oom_score_adj;
    if let Err(error) = write_oom_score(score) {
        refused.push(format!("oom_score_adj {score}: {error}"));
    }
    if !refused.is_empty() {
        tracing::warn!(
            refused = refused.join("; "),
            "not everything on this host could be set as configured; going on without (in a \
             container, run --init-only with full privileges first)"
        );
    }
}

/// The kernel parameters that `settings` ask for, with their values.
fn wanted(settings: &Settings, mode: Mode) -> Vec<(&'static str, String)> {
    let conntrack = &settings.conntrack;
    let mut wanted = Vec::new();
    if let Some(max) = most_entries(conntrack, processors()) {
        wanted.push(("net/netfilter/nf_conntrack_max", max.to_string()));
        // As kube-proxy: a bucket for every four entries, never fewer than there are.
        let buckets = read_number("net/netfilter/nf_conntrack_buckets");
        if buckets.is_some_and(|buckets| buckets < max / 4) {
            wanted.push(("net/netfilter/nf_conntrack_buckets", (max / 4).to_string()));
        }
    }
    for (name, timeout) in [
        (
            "net/netfilter/nf_conntrack_tcp_timeout_established",
            conntrack.tcp_established,
        ),
        (
            "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            conntrack.tcp_close_wait,
        ),
        ("net/netfilter/nf_conntrack_udp_timeout", conntrack.udp),
        (
            "net/netfilter/nf_conntrack_udp_timeout_stream",
            conntrack.udp_stream,
        ),
    ] {
        wanted.extend(timeout.map(|timeout| (name, seconds(timeout))));
    }
    if conntrack.tcp_be_liberal {
        wanted.push(("net/netfilter/nf_conntrack_tcp_be_liberal", "1".to_owned()));
    }
    if mode == Mode::Iptables && settings.localhost_node_ports {
        // Answers of a node port on 127.0.0.1 leave towards a pod.
        wanted.push(("net/ipv4/conf/all/route_localnet", "1".to_owned()));
    }
    if mode == Mode::Ipvs {
        let parameters = ipvs::parameters(&settings.planes.ipvs);
        wanted.extend(parameters.map(|(name, value)| (name, value.to_owned())));
    }
    wanted
}

/// `nf_conntrack_max`: so many entries for each processor, and no fewer than the minimum.
fn most_entries(conntrack: &Conntrack, processors: u32) -> Option<u32> {
    let per_core = conntrack.max_per_core?;
    Some(per_core.saturating_mul(processors).max(conntrack.min))
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Whole seconds, and at least one: 0 would forget entries at once.
fn seconds(timeout: Duration) -> String {
    timeout.as_secs().max(1).to_string()
}

fn read_number(name: &str) -> Option<u32> {
    sysctl::read(&name.parse::<Key>().ok()?).ok()?.parse().ok()
}

fn set(name: &'static str, value: &str) -> Result<(), sysctl::Error> {
    let key: Key = name.parse()?;
    if sysctl::ensure(&key, value)? {
        tracing::info!(name, value, "kernel parameter set");
    }
    Ok(())
}

/// Of this process (proc(5)); its threads share it.
fn write_oom_score(score: i16) -> std::io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE)?;
    if now.trim() == score.to_string() {
        return Ok(());
    }
    std::fs::write(FILE, score.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_the_processors_and_have_a_floor() {
        let of = |max_per_core, min, processors| {
            let conntrack = Conntrack {
                max_per_core,
                min,
                ..Conntrack::default()
            };
            most_entries(&conntrack, processors)
        };
        assert_eq!(of(Some(32_768), 131_072, 2), Some(131_072));
        assert_eq!(of(Some(32_768), 131_072, 64), Some(2_097_152));
        assert_eq!(of(None, 131_072, 64), None);
        assert_eq!(of(Some(u32::MAX), 0, 64), Some(u32::MAX));
    }
}
