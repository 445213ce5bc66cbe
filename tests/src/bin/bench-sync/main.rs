//! Measures how fast the proxy brings Services into the kernel, and what it needs for that: the
//! real program, against the lab's API server, on a node that is a network namespace. What counts
//! is a packet that arrives, not a log line. It never touches the machine's own network.

mod load;
mod rounds;

use anyhow::{Context, bail};

use causeway_tests::figures::Table;
use load::Load;
use rounds::Rounds;

const USAGE: &str = "\
bench-sync: from a change to the packet that arrives, and memory and processor time

  --loads LIST      Services x endpoints of each (1000x10,10000x2,5000x50)
  --rounds N        starts from an empty kernel, for each load (5)
  --changes N       single changes, for each load (50)
  --json FILE       the figures as JSON, too
";

struct Options {
    loads: Vec<Load>,
    rounds: usize,
    changes: usize,
    json: Option<String>,
}

impl Options {
    /// Reads the command line; `None` where help was asked for.
    fn read() -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            loads: Load::list("1000x10,10000x2,5000x50")?,
            rounds: 5,
            changes: 50,
            json: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--help" {
                return Ok(None);
            }
            let value = arguments
                .next()
                .with_context(|| format!("{name}: a value belongs to it"))?;
            let number = || match value.parse::<usize>() {
                Ok(number) if number > 0 => Ok(number),
                _ => bail!("{name} {value}: accepted is a whole number above 0"),
            };
            match name.as_str() {
                "--loads" => options.loads = Load::list(&value)?,
                "--rounds" => options.rounds = number()?,
                "--changes" => options.changes = number()?,
                "--json" => options.json = Some(value),
                _ => bail!("{name} is unknown\n{USAGE}"),
            }
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
    for load in &options.loads {
        println!("{load}: filling the API server");
        let rows = Rounds::measure(*load, options.rounds, options.changes)?.rows(*load);
        all.push(serde_json::json!({"load": load.to_string(), "rows": rows}));
        println!("{}", table(*load, rows));
    }
    if let Some(file) = options.json {
        std::fs::write(&file, serde_json::to_string_pretty(&all)?).with_context(|| file.clone())?;
    }
    Ok(())
}

fn table(load: Load, rows: Vec<[String; 4]>) -> Table {
    let head = load.to_string();
    let mut table = Table::new([head.as_str(), "median", "p90", "limit"]);
    rows.into_iter().for_each(|row| table.row(row));
    table
}
