//! The measurements.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use causeway_tests::figures::Figures;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, Proxy, answer, get, wait_for};
use netns_lab::apiserver::Resource;

use crate::contender::Contender;
use crate::load::{Load, target};

/// Slices that change at once.
const BURST: usize = 500;
/// How often a Service that did not answer is asked again.
const RETRIES: usize = 20;
/// Time for the daemon to come to rest before its memory is read.
const REST: Duration = Duration::from_millis(1500);
/// Longer than causeway-proxy rests after a pass, also after one that took long.
const IDLE: Duration = Duration::from_millis(100);
/// Of so many Services at the end of a burst it is seen when they changed.
const LOOKED_AT: usize = 4;

/// Everything measured at one load.
#[derive(Default)]
pub(crate) struct Rounds {
    pub(crate) start: Figures,
    pub(crate) start_processor: Figures,
    /// From the end of the first lists to the end of the first pass.
    pub(crate) lists: Figures,
    /// Loading and attaching programs, in mode ebpf.
    pub(crate) programs: Figures,
    pub(crate) change: Figures,
    pub(crate) change_in_daemon: Figures,
    pub(crate) operations: Vec<u64>,
    pub(crate) new_service: Figures,
    pub(crate) burst: Figures,
    pub(crate) burst_of_one: Figures,
    pub(crate) restart: Figures,
    pub(crate) failed_meanwhile: usize,
    pub(crate) tried_meanwhile: usize,
    pub(crate) resident: Vec<u64>,
    pub(crate) peak: Vec<u64>,
}

impl Rounds {
    /// One start from an empty kernel; with `changes`, everything else after it.
    pub(crate) fn round(
        &mut self,
        contender: &Contender,
        load: Load,
        rounds: usize,
        changes: Option<usize>,
    ) -> anyhow::Result<()> {
        contender.clean_up()?;
        let proxy = self.start(contender, load)?;
        if let Some(changes) = changes {
            self.single_changes(contender, load, changes)?;
            self.new_services(contender, load, changes)?;
            self.bursts(contender, load, rounds)?;
            self.bursts_of_one(contender, load, rounds)?;
            self.memory(&proxy)?;
            self.restarts(contender, load, rounds, proxy)
        } else {
            std::thread::sleep(REST);
            self.memory(&proxy)?;
            proxy.kill()
        }
    }

    /// From an empty kernel to the last Service reachable: every one is tried.
    fn start(&mut self, contender: &Contender, load: Load) -> anyhow::Result<Proxy> {
        let Contender { bed, patience, .. } = contender;
        let proxy = contender.start()?;
        let mut last = proxy.started;
        for index in (0..load.services).rev() {
            last = wait_for(&bed.netns, target(index), PORTS[0], *patience)
                .with_context(|| proxy.log().unwrap_or_default())?;
            // Once the last ones are there, trying the rest only costs the daemon its processor.
            if index + 16 < load.services {
                break;
            }
        }
        self.start.add(last - proxy.started);
        self.start_processor.add(proxy.usage()?.processor);
        if contender.tells {
            self.first_pass(bed, *patience)?;
        }
        bed.netns.run(|| {
            let there = |index: &usize| answer(target(*index)) == Some(PORTS[0]);
            let mut missing: Vec<usize> = (0..load.services).collect();
            // A busy machine may be too late once, a missing Service is missing each time.
            for _ in 0..RETRIES {
                missing.retain(|index| !there(index));
                if missing.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let missing = missing.len();
            anyhow::ensure!(missing == 0, "{missing} Services were not reachable");
            Ok(())
        })??;
        Ok(proxy)
    }

    /// What the daemon says of its first pass, which ends a little after the kernel has everything.
    fn first_pass(&mut self, bed: &Bed, patience: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        let (page, lists) = loop {
            let page = Page::read(bed)?;
            let lists = page.seconds("causeway_first_lists_to_kernel_seconds")?;
            if !lists.is_zero() {
                break (page, lists);
            }
            anyhow::ensure!(since.elapsed() < patience, "the first pass does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        self.lists.add(lists);
        let step = |step| page.seconds(&format!("causeway_ebpf_start_seconds{{step=\"{step}\"}}"));
        if let (Ok(load), Ok(attach)) = (step("load"), step("attach")) {
            self.programs.add(load + attach);
        }
        Ok(())
    }

    /// One endpoint changed; how long after its event the packets follow.
    fn single_changes(
        &mut self,
        contender: &Contender,
        load: Load,
        changes: usize,
    ) -> anyhow::Result<()> {
        let Contender { bed, patience, .. } = contender;
        for number in 0..changes {
            let port = PORTS[(number + 1) % 2];
            let before = contender.tells.then(|| Daemon::read(bed)).transpose()?;
            // A daemon that is idle: the rest after its last pass is over.
            std::thread::sleep(IDLE);
            let since = Instant::now();
            load.set_probe(bed, port)?;
            let there = wait_for(&bed.netns, load.probe(), port, *patience)?;
            self.change.add(there - since);
            let Some(before) = before else { continue };
            // The pass ends a little after the kernel has it.
            let mut after = Daemon::read(bed)?;
            while after.events == before.events {
                anyhow::ensure!(since.elapsed() < *patience, "the daemon counted no event");
                std::thread::sleep(Duration::from_millis(10));
                after = Daemon::read(bed)?;
            }
            self.change_in_daemon
                .add((after.seconds - before.seconds) / (after.events - before.events));
            self.operations.push(after.last_operations);
        }
        load.set_probe(bed, PORTS[0])?;
        wait_for(&bed.netns, load.probe(), PORTS[0], *patience)?;
        Ok(())
    }

    fn new_services(
        &mut self,
        contender: &Contender,
        load: Load,
        changes: usize,
    ) -> anyhow::Result<()> {
        let Contender { bed, patience, .. } = contender;
        for number in 0..changes {
            let index = load.services + 1 + number;
            let name = format!("new-{number}");
            let slice = slice(&name, [endpoint_ip(0, 0, 1)], PORTS[1]);
            let service = service(&name, cluster_ip(index));
            let since = Instant::now();
            bed.store.seed(Resource::Service, [service])?;
            bed.store.seed(Resource::EndpointSlice, [slice])?;
            let there = wait_for(&bed.netns, target(index), PORTS[1], *patience)?;
            self.new_service.add(there - since);
        }
        Ok(())
    }

    /// From the last event of a burst to the last Service changed, all endpoints of each.
    fn bursts(&mut self, contender: &Contender, load: Load, rounds: usize) -> anyhow::Result<()> {
        let Contender { bed, patience, .. } = contender;
        let count = BURST.min(load.services);
        for round in 0..rounds {
            let port = PORTS[(round + 1) % 2];
            load.set_ports(bed, 0..count, port)?;
            let since = Instant::now();
            let mut there = since;
            for index in (0..count).rev() {
                there = there.max(wait_for(&bed.netns, target(index), port, *patience)?);
                if index + 16 < count {
                    break;
                }
            }
            self.burst.add(there - since);
            for index in 0..count {
                wait_for(&bed.netns, target(index), port, *patience)?;
            }
        }
        load.set_ports(bed, 0..count, PORTS[0])?;
        wait_for(&bed.netns, target(count - 1), PORTS[0], *patience)?;
        Ok(())
    }

    /// The same where one endpoint of each Service changes, one more than the others.
    fn bursts_of_one(
        &mut self,
        contender: &Contender,
        load: Load,
        rounds: usize,
    ) -> anyhow::Result<()> {
        let Contender { bed, patience, .. } = contender;
        let count = BURST.min(load.services);
        for _ in 0..rounds {
            // It answers as the others do, so when it is there cannot be seen.
            load.set_one_more(bed, 0..count, PORTS[0])?;
            std::thread::sleep(REST);
            load.set_one_more(bed, 0..count, PORTS[1])?;
            let since = Instant::now();
            let first_seen = |index: usize| {
                while answer(target(index)) != Some(PORTS[1]) {
                    anyhow::ensure!(
                        since.elapsed() < *patience,
                        "{} did not change",
                        target(index)
                    );
                }
                Ok(Instant::now())
            };
            let last = (0..count).rev().take(LOOKED_AT);
            let seen = bed
                .netns
                .run(|| last.map(first_seen).collect::<anyhow::Result<Vec<_>>>())??;
            self.burst_of_one
                .add(seen.into_iter().max().unwrap_or(since) - since);
        }
        Ok(())
    }

    /// SIGKILL, a change while nobody is there, a new start: when does the change work? And does
    /// any connection to another Service fail meanwhile?
    fn restarts(
        &mut self,
        contender: &Contender,
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
                let steady = scope.spawn(|| contender.bed.netns.run(steady));
                let took = restart(contender, load, port, &mut proxy);
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
}

fn restart(
    contender: &Contender,
    load: Load,
    port: u16,
    proxy: &mut Option<Proxy>,
) -> anyhow::Result<Duration> {
    if let Some(proxy) = proxy.take() {
        proxy.kill()?;
    }
    let Contender { bed, patience, .. } = contender;
    load.set_probe(bed, port)?;
    let started = proxy.insert(contender.start()?).started;
    Ok(wait_for(&bed.netns, load.probe(), port, *patience)? - started)
}

/// The daemon's own counters.
struct Daemon {
    seconds: Duration,
    events: u32,
    last_operations: u64,
}

impl Daemon {
    fn read(bed: &Bed) -> anyhow::Result<Self> {
        let page = Page::read(bed)?;
        Ok(Self {
            seconds: page.seconds("causeway_event_to_kernel_seconds_sum")?,
            events: page
                .value("causeway_event_to_kernel_seconds_count")?
                .parse()?,
            last_operations: page.value("causeway_sync_last_operations")?.parse()?,
        })
    }
}

/// What is under /metrics.
struct Page(String);

impl Page {
    fn read(bed: &Bed) -> anyhow::Result<Self> {
        let (_, _, text) = get(&bed.netns, ([127, 0, 0, 1], 10249).into(), "/metrics")?;
        Ok(Self(text))
    }

    fn value(&self, name: &str) -> anyhow::Result<&str> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.with_context(|| format!("no metric {name}"))
    }

    fn seconds(&self, name: &str) -> anyhow::Result<Duration> {
        Ok(Duration::from_secs_f64(self.value(name)?.parse()?))
    }
}
