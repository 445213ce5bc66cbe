//! Measures how fast the proxy brings Services into the kernel, and what it needs for that: the
//! real program, against the lab's API server, on a node that is a network namespace. What counts
//! is a packet that arrives, not a log line. It never touches the machine's own network.

mod contender;
mod load;
mod report;
mod rounds;

use std::path::PathBuf;

use anyhow::{Context, bail};
use causeway_tests::arguments;
use causeway_tests::bars::Bars;

use contender::Contender;
use load::Load;
use rounds::Rounds;

const USAGE: &str = "\
bench-sync: from a change to the packet that arrives, and memory and processor time

  --loads LIST      Services x endpoints of each (1000x10,10000x2,5000x50; in mode ebpf
                    1000x10,10000x10)
  --rounds N        starts from an empty kernel, for each load (5)
  --changes N       single changes, for each load (50)
  --mode MODE       the data plane: nftables, iptables or ebpf (nftables)
  --peer PROGRAM    a kube-proxy, measured in the same mode and in turns with causeway-proxy
  --json FILE       the figures as JSON, too
";

struct Options {
    loads: Vec<Load>,
    rounds: usize,
    changes: usize,
    mode: String,
    peer: Option<PathBuf>,
    json: Option<String>,
}

impl Options {
    /// Reads the command line; `None` where help was asked for.
    fn read() -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            loads: Vec::new(),
            rounds: 5,
            changes: 50,
            mode: "nftables".to_owned(),
            peer: None,
            json: None,
        };
        let Some(given) = arguments::options()? else {
            return Ok(None);
        };
        for (name, value) in given {
            let number = || arguments::number(&value).with_context(|| name.clone());
            match name.as_str() {
                "--loads" => options.loads = Load::list(&value)?,
                "--rounds" => options.rounds = number()?,
                "--changes" => options.changes = number()?,
                "--mode" => options.mode = value,
                "--peer" => options.peer = Some(value.into()),
                "--json" => options.json = Some(value),
                _ => bail!("{name} is unknown\n{USAGE}"),
            }
        }
        if options.loads.is_empty() {
            options.loads = Load::list(match options.mode.as_str() {
                "ebpf" => "1000x10,10000x10",
                _ => "1000x10,10000x2,5000x50",
            })?;
        }
        Ok(Some(options))
    }
}

fn main() -> anyhow::Result<()> {
    let Some(options) = Options::read()? else {
        println!("{USAGE}");
        return Ok(());
    };
    let mut all = Vec::new();
    let mut bars = Bars::default();
    for load in &options.loads {
        println!("{load}, {}: filling the API server", options.mode);
        let (mut own, mut peer) = measure(*load, &options)?;
        println!("{}", own.table(*load, &options.mode));
        let mut figures = serde_json::json!({"load": load.to_string(), "own": own.json()});
        if let Some(peer) = &mut peer {
            let mode = &options.mode;
            let ratios = report::ratios(*load, mode, &mut own, peer, &mut bars);
            println!("{ratios}");
            figures["peer"] = peer.json();
        }
        all.push(figures);
    }
    if options.peer.is_some() {
        println!("{}", bars.table());
    }
    if let Some(file) = options.json {
        std::fs::write(&file, serde_json::to_string_pretty(&all)?).with_context(|| file.clone())?;
    }
    Ok(())
}

/// Both programs in turns, each on a node of its own, so that what the machine does meanwhile
/// meets both.
fn measure(load: Load, options: &Options) -> anyhow::Result<(Rounds, Option<Rounds>)> {
    let own = Contender::own(&options.mode, load)?;
    let peer = options
        .peer
        .as_ref()
        .map(|program| Contender::peer(program, &options.mode, load))
        .transpose()?;
    let mut own_rounds = Rounds::default();
    let mut peer_rounds = peer.as_ref().map(|_| Rounds::default());
    for round in 0..options.rounds {
        let changes = (round + 1 == options.rounds).then_some(options.changes);
        own.inside(|| own_rounds.round(&own, load, options.rounds, changes))?;
        if let (Some(peer), Some(rounds)) = (&peer, &mut peer_rounds) {
            rounds.round(peer, load, options.rounds, changes)?;
        }
    }
    Ok((own_rounds, peer_rounds))
}
