//! Measures what Services cost packets and connections: rates through ClusterIPs and node ports,
//! and directly from pod to pod, of what a node without any rule can do, in turns. Everything runs
//! in network namespaces and cgroups of its own. It never touches the machine's own network.

mod cluster;
mod contender;
mod interrupt;
mod load;
mod objects;
mod report;
mod rounds;
mod rows;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use causeway_tests::arguments::{self, number};
use netns_lab::apiserver::ApiServer;

use contender::{Contender, EBPF_MODES, Plane};
use interrupt::Interrupt;
use load::Manner;
use rounds::{Measure, Rounds};
use rows::Row;

const USAGE: &str = "\
bench-datapath: connections, requests and bulk through Services, of a node without rules

  --modes LIST       the data planes (nftables,iptables,ebpf,ebpf-sockets,ebpf-by-stack);
                     ebpf-sockets is ebpf with --ebpf-external-cluster-ips=false, where nothing
                     can be reached from outside; ebpf-by-stack is with --ebpf-host-routing=false
  --services LIST    how many Services there are (10,10000)
  --rows TEXT        only the rows that have this in their names
  --rounds N         slices of each row for each data plane (20)
  --seconds S        how long a slice is (0.25)
  --threads N        clients at a time (1)
  --processor N      of clients and servers; `any` leaves it to the kernel (0)
  --peer PROGRAM     a kube-proxy, measured in the same modes (but ebpf) and in turns
  --measure NAME     what promises are held against: `rate`, operations a second, or
                     `processor-time`, operations a second of processor time of both ends,
                     which means more on a machine that is busy (rate)
  --json FILE        the figures as JSON, too
";

struct Options {
    modes: Vec<String>,
    services: Vec<usize>,
    rows: String,
    rounds: usize,
    manner: Manner,
    peer: Option<PathBuf>,
    measure: Measure,
    json: Option<PathBuf>,
}

impl Options {
    /// Reads the command line; `None` where help was asked for.
    fn read() -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            modes: ["nftables", "iptables"]
                .iter()
                .chain(&EBPF_MODES)
                .map(|mode| (*mode).to_owned())
                .collect(),
            services: vec![10, 10_000],
            rows: String::new(),
            rounds: 20,
            manner: Manner {
                length: Duration::from_millis(250),
                threads: 1,
                processor: Some(0),
            },
            peer: None,
            measure: Measure::Rate,
            json: None,
        };
        let Some(given) = arguments::options()? else {
            return Ok(None);
        };
        for (name, value) in given {
            options
                .take(&name, &value)
                .with_context(|| format!("{name} {value}"))?;
        }
        Ok(Some(options))
    }

    fn take(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        match name {
            "--modes" => self.modes = value.split(',').map(str::to_owned).collect(),
            "--services" => {
                self.services = value.split(',').map(number).collect::<Result<_, _>>()?;
                self.services.sort_unstable();
            }
            "--rows" => value.clone_into(&mut self.rows),
            "--rounds" => self.rounds = number(value)?,
            "--seconds" => {
                let length = Duration::try_from_secs_f64(value.parse()?);
                let length = length.context("accepted is a number of seconds")?;
                anyhow::ensure!(!length.is_zero(), "accepted is a number above 0");
                self.manner.length = length;
            }
            "--threads" => self.manner.threads = number(value)?,
            "--processor" if value == "any" => self.manner.processor = None,
            "--processor" => self.manner.processor = Some(value.parse()?),
            "--peer" => self.peer = Some(std::path::absolute(value)?),
            "--measure" if value == "rate" => self.measure = Measure::Rate,
            "--measure" if value == "processor-time" => self.measure = Measure::Work,
            "--measure" => bail!("accepted are rate and processor-time"),
            "--json" => self.json = Some(value.into()),
            _ => bail!("it is unknown\n{USAGE}"),
        }
        Ok(())
    }

    /// Who is measured with so many Services.
    fn planes(&self, services: usize) -> Vec<Plane> {
        let own = self.modes.iter().map(|mode| Plane::Own {
            mode: mode.clone(),
            services,
        });
        let common = self.modes.iter();
        let common = common.filter(|mode| !EBPF_MODES.contains(&mode.as_str()));
        let peers = self.peer.iter().flat_map(|program| {
            common.clone().map(|mode| Plane::Peer {
                program: program.clone(),
                mode: mode.clone(),
                services,
            })
        });
        own.chain(peers).collect()
    }

    /// The rows that are wanted.
    fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let mut rows = Row::all();
        rows.retain(|row| row.to_string().contains(&self.rows));
        anyhow::ensure!(!rows.is_empty(), "--rows {}: there is none", self.rows);
        Ok(rows)
    }
}

fn main() -> anyhow::Result<()> {
    let Some(options) = Options::read()? else {
        println!("{USAGE}");
        return Ok(());
    };
    let interrupt = Interrupt::watch()?;
    let (manner, rows) = (options.manner, options.rows()?);
    let mut servers = Vec::new();
    let empty = ApiServer::start(objects::store(0, false)?)?;
    let mut contenders = vec![Contender::start(&Plane::Bare, &empty, manner, &interrupt)?];
    for services in &options.services {
        for plane in options.planes(*services) {
            println!("starting {plane}");
            let store = objects::store(*services, plane.is_reachable())?;
            let api = ApiServer::start(store)?;
            contenders.push(Contender::start(&plane, &api, manner, &interrupt)?);
            servers.push(api);
        }
    }
    println!(
        "\n{} rounds of slices of {:?}, {} clients at a time\n",
        options.rounds, manner.length, manner.threads
    );
    let rounds = Rounds::run(&contenders, rows, options.rounds, &interrupt)?;
    for table in report::tables(&rounds) {
        println!("{table}");
    }
    println!("{}", report::bars(&rounds, options.measure).table());
    if let Some(file) = options.json {
        let text = serde_json::to_string_pretty(&report::json(&rounds))?;
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
