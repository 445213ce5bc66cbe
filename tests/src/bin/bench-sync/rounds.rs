//! The measurements.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use causeway_proxy::backend::NftablesBackend;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, Proxy, answer, get, wait_for};
use netns_lab::apiserver::Resource;

use crate::load::{Load, target};
use causeway_tests::figures::Figures;

/// Far above every limit, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slices that change at once.
const BURST: usize = 500;
/// Time for the daemon to come to rest before its memory is read.
const REST: Duration = Duration::from_millis(1500);

/// Everything measured at one load.
#[derive(Default)]
pub(crate) struct Rounds {
    start: Figures,
    start_processor: Figures,
    change: Figures,
    change_in_daemon: Figures,
    operations: Vec<u64>,
    new_service: Figures,
    burst: Figures,
    restart: Figures,
    failed_meanwhile: usize,
    tried_meanwhile: usize,
    resident: Vec<u64>,
    peak: Vec<u64>,
}

impl Rounds {
    pub(crate) fn measure(load: Load, rounds: usize, changes: usize) -> anyhow::Result<Self> {
        let bed = Bed::new()?;
        load.fill(&bed)?;
        let mut measured = Self::default();
        for round in 0..rounds {
            bed.netns.run(NftablesBackend::cleanup)??;
            let proxy = measured.start(&bed, load)?;
            if round + 1 == rounds {
                measured.single_changes(&bed, load, changes)?;
                measured.new_services(&bed, load, changes)?;
                measured.bursts(&bed, load, rounds)?;
                measured.memory(&proxy)?;
                measured.restarts(&bed, load, rounds, proxy)?;
            } else {
                std::thread::sleep(REST);
                measured.memory(&proxy)?;
                proxy.kill()?;
            }
        }
        Ok(measured)
    }

    /// From an empty kernel to the last Service reachable: every one is tried.
    fn start(&mut self, bed: &Bed, load: Load) -> anyhow::Result<Proxy> {
        let proxy = bed.proxy(&[])?;
        let mut last = proxy.started;
        for index in (0..load.services).rev() {
            last = wait_for(&bed.netns, target(index), PORTS[0], PATIENCE)
                .with_context(|| proxy.log().unwrap_or_default())?;
            // Once the last ones are there, trying the rest only costs the daemon its processor.
            if index + 16 < load.services {
                break;
            }
        }
        self.start.add(last - proxy.started);
        self.start_processor.add(proxy.usage()?.processor);
        bed.netns.run(|| {
            let missing = (0..load.services)
                .filter(|i| answer(target(*i)) != Some(PORTS[0]))
                .count();
            anyhow::ensure!(missing == 0, "{missing} Services were not reachable");
            Ok(())
        })??;
        Ok(proxy)
    }

    /// One endpoint changed; how long after its event the packets follow.
    fn single_changes(&mut self, bed: &Bed, load: Load, changes: usize) -> anyhow::Result<()> {
        for number in 0..changes {
            let port = PORTS[(number + 1) % 2];
            let before = Daemon::read(bed)?;
            let since = Instant::now();
            load.set_probe(bed, port)?;
            let there = wait_for(&bed.netns, load.probe(), port, PATIENCE)?;
            self.change.add(there - since);
            // The pass ends a little after the kernel has it.
            std::thread::sleep(Duration::from_millis(30));
            let after = Daemon::read(bed)?;
            anyhow::ensure!(after.events > before.events, "the daemon counted no event");
            self.change_in_daemon
                .add((after.seconds - before.seconds) / (after.events - before.events));
            self.operations.push(after.last_operations);
        }
        load.set_probe(bed, PORTS[0])?;
        wait_for(&bed.netns, load.probe(), PORTS[0], PATIENCE)?;
        Ok(())
    }

    fn new_services(&mut self, bed: &Bed, load: Load, changes: usize) -> anyhow::Result<()> {
        for number in 0..changes {
            let index = load.services + 1 + number;
            let name = format!("new-{number}");
            let slice = slice(&name, [endpoint_ip(0, 0, 1)], PORTS[1]);
            let service = service(&name, cluster_ip(index));
            let since = Instant::now();
            bed.store.seed(Resource::Service, [service])?;
            bed.store.seed(Resource::EndpointSlice, [slice])?;
            let there = wait_for(&bed.netns, target(index), PORTS[1], PATIENCE)?;
            self.new_service.add(there - since);
        }
        Ok(())
    }

    /// From the last event of a burst to the last Service changed.
    fn bursts(&mut self, bed: &Bed, load: Load, rounds: usize) -> anyhow::Result<()> {
        let count = BURST.min(load.services);
        for round in 0..rounds {
            let port = PORTS[(round + 1) % 2];
            load.set_ports(bed, 0..count, port)?;
            let since = Instant::now();
            let mut there = since;
            for index in (0..count).rev() {
                there = there.max(wait_for(&bed.netns, target(index), port, PATIENCE)?);
                if index + 16 < count {
                    break;
                }
            }
            self.burst.add(there - since);
            for index in 0..count {
                wait_for(&bed.netns, target(index), port, PATIENCE)?;
            }
        }
        load.set_ports(bed, 0..count, PORTS[0])?;
        wait_for(&bed.netns, target(count - 1), PORTS[0], PATIENCE)?;
        Ok(())
    }

    /// SIGKILL, a change while nobody is there, a new start: when does the change work? And does
    /// any connection to another Service fail meanwhile?
    fn restarts(
        &mut self,
        bed: &Bed,
        load: Load,
        rounds: usize,
        proxy: Proxy,
    ) -> anyhow::Result<()> {
        let mut proxy = Some(proxy);
        for round in 0..rounds {
            let port = PORTS[(round + 1) % 2];
            let (stop, tried, failed) = (
                AtomicBool::new(false),
                AtomicUsize::new(0),
                AtomicUsize::new(0),
            );
            let steady = || {
                while !stop.load(Ordering::Relaxed) {
                    tried.fetch_add(1, Ordering::Relaxed);
                    if answer(target(load.services / 2)).is_none() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            };
            let took = std::thread::scope(|scope| {
                let steady = scope.spawn(|| bed.netns.run(steady));
                let took = restart(bed, load, port, &mut proxy);
                stop.store(true, Ordering::Relaxed);
                drop(steady.join());
                took
            })?;
            self.restart.add(took);
            self.tried_meanwhile += tried.into_inner();
            self.failed_meanwhile += failed.into_inner();
        }
        Ok(())
    }

    fn memory(&mut self, proxy: &Proxy) -> anyhow::Result<()> {
        let usage = proxy.usage()?;
        self.resident.push(usage.resident);
        self.peak.push(usage.peak);
        Ok(())
    }

    /// Name, median, p90 and what SPECIFICATION.md promises.
    pub(crate) fn rows(&mut self, load: Load) -> Vec<[String; 4]> {
        let (start_limit, restart_limit, memory_limit) = match (load.services, load.endpoints) {
            (10_000, 2) => ("2000", "1500", "45.0"),
            (5_000, 50) => ("4000", "", "110.0"),
            _ => ("", "", ""),
        };
        let ms = |name: &str, figures: &mut Figures, limit: &str| {
            let median = format!("{:.2}", figures.median());
            [
                name.to_owned(),
                median,
                figures.quantile(90),
                limit.to_owned(),
            ]
        };
        vec![
            ms("start to last Service, ms", &mut self.start, start_limit),
            ms("  processor time, ms", &mut self.start_processor, ""),
            ms("one endpoint, ms", &mut self.change, ""),
            ms("  event to kernel, ms", &mut self.change_in_daemon, "10"),
            count("  operations", &mut self.operations),
            ms("new Service, ms", &mut self.new_service, "20"),
            ms("500 slices, ms after the last", &mut self.burst, "200"),
            ms("restart to a change, ms", &mut self.restart, restart_limit),
            [
                "  failed connections".to_owned(),
                format!("{}", self.failed_meanwhile),
                format!("of {}", self.tried_meanwhile),
                "0".to_owned(),
            ],
            mebibytes("resident memory, MiB", &mut self.resident, memory_limit),
            mebibytes("  at its highest, MiB", &mut self.peak, memory_limit),
        ]
    }
}

fn restart(
    bed: &Bed,
    load: Load,
    port: u16,
    proxy: &mut Option<Proxy>,
) -> anyhow::Result<Duration> {
    if let Some(proxy) = proxy.take() {
        proxy.kill()?;
    }
    load.set_probe(bed, port)?;
    let started = proxy.insert(bed.proxy(&[])?).started;
    Ok(wait_for(&bed.netns, load.probe(), port, PATIENCE)? - started)
}

/// The daemon's own counters.
struct Daemon {
    seconds: Duration,
    events: u32,
    last_operations: u64,
}

impl Daemon {
    fn read(bed: &Bed) -> anyhow::Result<Self> {
        let (_, _, text) = get(&bed.netns, ([127, 0, 0, 1], 10249).into(), "/metrics")?;
        let value = |name: &str| -> anyhow::Result<&str> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.with_context(|| format!("no metric {name}"))
        };
        Ok(Self {
            seconds: Duration::from_secs_f64(
                value("causeway_event_to_kernel_seconds_sum")?.parse()?,
            ),
            events: value("causeway_event_to_kernel_seconds_count")?.parse()?,
            last_operations: value("causeway_sync_last_operations")?.parse()?,
        })
    }
}

fn at(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or_default()
}

fn count(name: &str, values: &mut [u64]) -> [String; 4] {
    [
        name.to_owned(),
        at(values, 50).to_string(),
        at(values, 90).to_string(),
        "a handful".to_owned(),
    ]
}

fn mebibytes(name: &str, values: &mut [u64], limit: &str) -> [String; 4] {
    // Whole KiB are exact enough to be shown with one digit.
    let mib = |bytes: u64| {
        let tenths = bytes * 10 / (1024 * 1024);
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    [
        name.to_owned(),
        mib(at(values, 50)),
        mib(at(values, 90)),
        limit.to_owned(),
    ]
}
