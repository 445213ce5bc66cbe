//! Many requests, and who answered them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netns_lab::Lab;
use serde::Deserialize;

use super::cast::Cast;
use super::screen::Screen;

/// One request, as the frontend reports it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Outcome {
    /// Nanoseconds since 1970.
    began: u64,
    ended: u64,
    /// The Redis pod's address, if it was answered.
    by: Option<String>,
    /// Why not, otherwise.
    pub(super) error: Option<String>,
}

impl Outcome {
    pub(super) fn began(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.began)
    }

    pub(super) fn ended(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.ended)
    }

    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }
}

/// Reads what the frontend reported, a line each.
fn outcomes(text: &[u8]) -> anyhow::Result<Vec<Outcome>> {
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| Ok(serde_json::from_slice(line)?))
        .collect()
}

/// So many requests, one after the other, each on a new connection.
pub(super) fn requests(lab: &Lab, cast: &Cast, count: usize) -> anyhow::Result<Vec<Outcome>> {
    let number = count.to_string();
    let output = lab.exec("frontend", &cast.words(&["many", &number]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "the frontend's requests failed: {said}"
    );
    outcomes(&output.stdout)
}

/// How many requests each pod answered, by address.
pub(super) fn shares(outcomes: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for by in outcomes.iter().filter_map(|outcome| outcome.by.as_deref()) {
        *shares.entry(by).or_default() += 1;
    }
    shares
}

/// Shows the shares; gives how many pods had one.
pub(super) fn table(cast: &Cast, outcomes: &[Outcome], screen: &Screen) -> usize {
    let shares = shares(outcomes);
    for redis in &cast.redis {
        let count = shares.get(redis.ip.as_str()).copied().unwrap_or(0);
        screen.share(&redis.label(), count, outcomes.len());
    }
    shares.len()
}

/// Makes requests and shows who answered.
pub(super) fn show(
    lab: &Lab,
    cast: &Cast,
    screen: &mut Screen,
    count: usize,
) -> anyhow::Result<()> {
    screen.heading(&format!("4. {count} requests"));
    let outcomes = requests(lab, cast, count)?;
    let pods = table(cast, &outcomes, screen);
    println!();
    let failed = outcomes.iter().filter(|outcome| outcome.failed()).count();
    let all = outcomes.len() == count && failed == 0;
    screen.claim(all, &format!("all {count} requests were answered"));
    screen.claim(pods == cast.redis.len(), "every Redis pod had its share");
    Ok(())
}
