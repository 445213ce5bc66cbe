//! Many pods at once.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::Value;

use crate::Options;
use crate::contender::Contender;
use crate::network::MASQUERADE;
use crate::node::{Node, Pod};
use causeway_tests::bars::Bars;
use causeway_tests::figures::Table;

/// What one contender made of it.
struct Outcome {
    add: Duration,
    del: Duration,
    failures: usize,
    duplicates: usize,
}

pub(crate) fn measure(options: &Options, bars: &mut Bars) -> anyhow::Result<()> {
    let contenders = [
        Contender::Ours(options.plugin.clone()),
        Contender::Reference(options.peers.clone()),
    ];
    for &crowd in &options.crowds {
        let head = format!(
            "{crowd} pods, {} at a time, {}, ms",
            options.concurrency, MASQUERADE.name
        );
        let heads = [
            "ADD of all",
            "DEL of all",
            "failures",
            "duplicate addresses",
        ];
        let mut table = Table::new([&head, heads[0], heads[1], heads[2], heads[3]]);
        let mut outcomes = Vec::new();
        for contender in &contenders {
            let outcome = come_and_go(&Node::new(contender)?, crowd, options.concurrency)?;
            table.row([
                contender.name().to_owned(),
                format!("{:.0}", outcome.add.as_secs_f64() * 1e3),
                format!("{:.0}", outcome.del.as_secs_f64() * 1e3),
                outcome.failures.to_string(),
                outcome.duplicates.to_string(),
            ]);
            outcomes.push(outcome);
        }
        println!("{table}");
        let [ours, theirs] = outcomes.as_slice() else {
            continue;
        };
        let name = format!("{crowd} pods at once");
        let ratio = |ours: Duration, theirs: Duration| ours.as_secs_f64() / theirs.as_secs_f64();
        let add = ratio(ours.add, theirs.add);
        let del = ratio(ours.del, theirs.del);
        bars.at_most(format!("{name}: ADD, ours/reference"), add, 0.2);
        bars.at_most(format!("{name}: DEL, ours/reference"), del, 0.2);
        let wrong = u32::try_from(ours.failures + ours.duplicates)?;
        bars.at_most(format!("{name}: failures, duplicates"), wrong.into(), 0.0);
    }
    Ok(())
}

fn come_and_go(node: &Node, crowd: usize, concurrency: usize) -> anyhow::Result<Outcome> {
    let pods = (0..crowd)
        .map(Pod::new)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let failures = AtomicUsize::new(0);
    let results: Vec<Mutex<Value>> = pods.iter().map(|_| Mutex::default()).collect();
    let noted = |outcome: anyhow::Result<()>| {
        if let Err(error) = outcome {
            failures.fetch_add(1, Ordering::Relaxed);
            eprintln!("{error:#}");
        }
    };
    let slot = |number: usize| {
        results[number]
            .lock()
            .map_err(|_| anyhow!("a call panicked"))
    };
    let add = at_once(crowd, concurrency, |number| {
        noted(
            node.add(&pods[number], &MASQUERADE)
                .and_then(|(_, result)| {
                    *slot(number)? = result;
                    Ok(())
                }),
        );
    });
    let given: Vec<String> = (0..crowd)
        .map(|number| Ok(slot(number)?["ips"][0]["address"].to_string()))
        .collect::<anyhow::Result<_>>()?;
    let del = at_once(crowd, concurrency, |number| {
        let result = slot(number).map(|result| result.clone());
        let deleted = result.and_then(|result| node.del(&pods[number], &MASQUERADE, &result));
        noted(deleted.map(drop));
    });
    noted(node.is_empty());
    let duplicates = given.len() - given.iter().collect::<BTreeSet<_>>().len();
    Ok(Outcome {
        add,
        del,
        failures: failures.into_inner(),
        duplicates,
    })
}

fn at_once(count: usize, concurrency: usize, work: impl Fn(usize) + Sync) -> Duration {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
    start.elapsed()
}
