//! A pod dies while requests run, and another one comes.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use netns_lab::Lab;

use super::burst::{self, Outcome};
use super::cast::{self, Cast, Redis};
use super::screen::Screen;

/// How many requests there are before the pod dies, and after its endpoint left.
const BEFORE: usize = 100;
const AFTER: usize = 300;
/// How long a kernel may take to hear of a change, and requests to be made.
const LIMIT: Duration = Duration::from_secs(5);
/// The requests by which a new pod must have been used.
const REQUESTS: usize = 100;

/// Shows both.
pub(super) fn show(lab: &Lab, cast: &mut Cast, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("5. A pod dies, while requests run");
    let victim = cast.redis.get(1).context("no second Redis pod")?.clone();
    let traffic = Traffic::start(lab, cast)?;
    traffic.wait_for(BEFORE)?;
    let killed = SystemTime::now();
    lab.kill_pod_process(&victim.name)?;
    let gone = left_kernel(lab, cast, &victim)?;
    traffic.wait_for(AFTER)?;
    let outcomes = traffic.stop()?;
    tell(&outcomes, &victim, cast, (killed, gone), screen)?;
    cast.redis.retain(|redis| redis.name != victim.name);
    let left = cast::endpoints(lab, "redis-service")?;
    screen.claim(
        !left.contains(&victim.ip),
        "the Service no longer lists the dead pod",
    );
    one_more(lab, cast, screen)
}

fn left_kernel(lab: &Lab, cast: &Cast, pod: &Redis) -> anyhow::Result<SystemTime> {
    let ip: Ipv4Addr = pod.ip.parse()?;
    let node = &cast.frontend_node;
    cast.plane.wait_programmed(lab, node, ip, false, LIMIT)
}

fn tell(
    outcomes: &[Outcome],
    victim: &Redis,
    cast: &Cast,
    (killed, gone): (SystemTime, SystemTime),
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let detection = gone.duration_since(killed)?;
    let before: Vec<_> = outcomes.iter().filter(|o| o.ended() < killed).collect();
    let after: Vec<_> = outcomes.iter().filter(|o| o.began() > gone).collect();
    let between = outcomes.len() - before.len() - after.len();
    let failed = |some: &[&Outcome]| some.iter().filter(|outcome| outcome.failed()).count();
    let all_failed = outcomes.iter().filter(|outcome| outcome.failed()).count();
    let failed_between = all_failed - failed(&before) - failed(&after);
    let node = &cast.frontend_node;
    screen.step(
        "killed",
        &format!(
            "{}: its process is gone, its address remains",
            victim.label()
        ),
    );
    let millis = detection.as_secs_f64() * 1000.0;
    screen.step(
        "noticed",
        &format!("{millis:.0} ms later it was gone from {node}'s kernel: the node"),
    );
    screen.more("saw the process end, the pod became unready, the EndpointSlice lost it,");
    screen.more("every causeway-proxy heard of that and took it out of its map");
    screen.step(
        "requests",
        &format!(
            "{:>5} before the kill, {} failed",
            before.len(),
            failed(&before)
        ),
    );
    screen.more(&format!("{between:>5} in those {millis:.0} ms, {failed_between} failed: nobody can know before it happened"));
    screen.more(&format!(
        "{:>5} after that, {} failed",
        after.len(),
        failed(&after)
    ));
    for outcome in after.iter().filter(|outcome| outcome.failed()).take(3) {
        screen.more(outcome.error.as_deref().unwrap_or_default());
    }
    screen.claim(
        failed(&before) == 0 && !before.is_empty(),
        "before the kill nothing failed",
    );
    let none = failed(&after) == 0 && !after.is_empty();
    screen.claim(none, "after the endpoint had left, nothing failed");
    Ok(())
}

fn one_more(lab: &Lab, cast: &mut Cast, screen: &mut Screen) -> anyhow::Result<()> {
    println!();
    let new = cast.add_redis(lab, "redis-4")?;
    let (node, ip) = (&cast.frontend_node, new.ip.parse()?);
    cast.plane.wait_programmed(lab, node, ip, true, LIMIT)?;
    screen.step("added", &format!("{}, as a Deployment would", new.label()));
    println!();
    let outcomes = burst::requests(lab, cast, REQUESTS)?;
    burst::table(cast, &outcomes, screen);
    println!();
    let used = burst::shares(&outcomes).contains_key(new.ip.as_str());
    screen.claim(used, "the new pod is used");
    let failed = outcomes.iter().filter(|outcome| outcome.failed()).count();
    screen.claim(
        failed == 0,
        &format!("all {REQUESTS} requests were answered"),
    );
    Ok(())
}

/// Requests that run in the frontend pod until they are stopped.
struct Traffic {
    child: Child,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    reader: JoinHandle<anyhow::Result<()>>,
}

impl Traffic {
    fn start(lab: &Lab, cast: &Cast) -> anyhow::Result<Self> {
        let words = cast.words(&["stream"]);
        let (program, arguments) = words.split_first().context("no program")?;
        let mut command = lab.command_in_pod("frontend", program)?;
        let command = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .context("starting requests in the frontend pod")?;
        let stdout = child.stdout.take().context("no output to read")?;
        let outcomes = Arc::<Mutex<Vec<Outcome>>>::default();
        let found = outcomes.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let outcome = serde_json::from_str(&line?)?;
                found
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(outcome);
            }
            Ok(())
        });
        Ok(Self {
            child,
            outcomes,
            reader,
        })
    }

    fn count(&self) -> usize {
        self.outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Waits until so many more requests have ended.
    fn wait_for(&self, more: usize) -> anyhow::Result<()> {
        let (wanted, begin) = (self.count() + more, Instant::now());
        while self.count() < wanted {
            let waited = begin.elapsed();
            anyhow::ensure!(
                waited < LIMIT,
                "{waited:?} were too short for {more} requests"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<Vec<Outcome>> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the requests ended with {status}");
        let read = self.reader.join();
        read.map_err(|_| anyhow::anyhow!("reading what the frontend reports failed"))??;
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut outcomes))
    }
}
