//! What every client library shows of its process: names and meanings are those that Prometheus'
//! own libraries have in common, so that dashboards for kube-proxy find them.

use std::sync::atomic::AtomicU64;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::memory;

/// The unit of times in /proc (USER_HZ), the same whatever the kernel's own clock.
const TICKS_A_SECOND: f64 = 100.0;

/// Registers what is known; what the kernel does not tell is left out.
pub(super) fn register(r: &mut Registry) {
    if let Some(bytes) = memory::resident_bytes() {
        gauge(r, "resident_memory_bytes", "Resident memory", bytes);
    }
    if let Some(seconds) = processor_seconds() {
        let used = Counter::<f64, AtomicU64>::default();
        used.inc_by(seconds);
        let help = "Processor time in user and kernel mode, in seconds";
        r.register("cpu_seconds", help, used);
    }
    if let Some(seconds) = started() {
        let start = Gauge::<f64, AtomicU64>::default();
        start.set(seconds);
        let help = "Start of the process, in seconds since 1970";
        r.register("start_time_seconds", help, start);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let count = i64::try_from(open.count()).unwrap_or(i64::MAX);
        gauge(r, "open_fds", "Open file descriptors", count);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let most = i64::try_from(soft).unwrap_or(i64::MAX);
        gauge(r, "max_fds", "The most open file descriptors", most);
    }
}

fn gauge(r: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    r.register(name, help, gauge);
}

fn processor_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: TimeVal| -> Option<f64> {
        let whole = u32::try_from(time.tv_sec()).ok()?;
        let micro = u32::try_from(time.tv_usec()).ok()?;
        Some(f64::from(whole) + f64::from(micro) / 1e6)
    };
    Some(seconds(usage.user_time())? + seconds(usage.system_time())?)
}

/// The machine's start (proc_stat(5), `btime`) and, of this process, ticks since then
/// (proc_pid_stat(5), field 22).
fn started() -> Option<f64> {
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, field 2, is in parentheses and may hold anything.
    let (_, after_name) = own.rsplit_once(')')?;
    let ticks = after_name.split_whitespace().nth(19)?;
    Some(boot.trim().parse::<f64>().ok()? + ticks.parse::<f64>().ok()? / TICKS_A_SECOND)
}
