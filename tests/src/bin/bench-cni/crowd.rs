//! Many pods at once.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::Options;
use crate::node::{Network, Node, Pod};
use causeway_tests::figures::Table;

const NETWORK: Network = Network {
    name: "bridge, ipMasq",
    masquerade: true,
    dual_stack: false,
};

/// What one plugin made of it.
struct Outcome {
    add: Duration,
    del: Duration,
    failures: usize,
    duplicates: usize,
}

pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let heads = [
        "plugin",
        "ADD of all",
        "DEL of all",
        "failures",
        "duplicate addresses",
    ];
    let head = format!(
        "{} pods, {} at a time, {}",
        options.crowd, options.concurrency, NETWORK.name
    );
    let mut table = Table::new([&head, heads[1], heads[2], heads[3], heads[4]]);
    let reference = options.reference.join("bridge");
    let mut totals = Vec::new();
    for (name, program) in [("ours", &options.plugin), ("reference", &reference)] {
        let node = Node::new(program)?;
        let outcome = come_and_go(&node, options)?;
        totals.push([outcome.add, outcome.del].map(|time| time.as_secs_f64()));
        table.row([
            name.to_owned(),
            format!("{:.0}", outcome.add.as_secs_f64() * 1e3),
            format!("{:.0}", outcome.del.as_secs_f64() * 1e3),
            outcome.failures.to_string(),
            outcome.duplicates.to_string(),
        ]);
    }
    if let [ours, theirs] = totals.as_slice() {
        let [add, del] = [0, 1].map(|operation| ours[operation] / theirs[operation]);
        let [none, nor] = [String::new(), String::new()];
        let name = "ours/reference".to_owned();
        table.row([name, format!("{add:.2}"), format!("{del:.2}"), none, nor]);
    }
    println!("{table}");
    Ok(())
}

fn come_and_go(node: &Node, options: &Options) -> anyhow::Result<Outcome> {
    let pods = (0..options.crowd)
        .map(Pod::new)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let failures = AtomicUsize::new(0);
    let given = Mutex::new(Vec::new());
    let noted = |outcome: anyhow::Result<()>| {
        if let Err(error) = outcome {
            failures.fetch_add(1, Ordering::Relaxed);
            eprintln!("{error:#}");
        }
    };
    let add = at_once(&pods, options.concurrency, |pod| {
        noted(node.add(pod, &NETWORK).and_then(|(_, result)| {
            let address = result["ips"][0]["address"].to_string();
            given
                .lock()
                .map_err(|_| anyhow!("another call panicked"))?
                .push(address);
            Ok(())
        }));
    });
    let del = at_once(&pods, options.concurrency, |pod| {
        noted(node.del(pod, &NETWORK).map(drop));
    });
    let given = given.into_inner().map_err(|_| anyhow!("a call panicked"))?;
    let duplicates = given.len() - given.iter().collect::<BTreeSet<_>>().len();
    Ok(Outcome {
        add,
        del,
        failures: failures.into_inner(),
        duplicates,
    })
}

fn at_once(pods: &[Pod], concurrency: usize, work: impl Fn(&Pod) + Sync) -> Duration {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(pod);
                }
            });
        }
    });
    start.elapsed()
}
