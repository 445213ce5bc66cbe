//! Measures ADD and DEL of the plugin against the reference plugins, in the same run and in turns,
//! each on a node of its own that is a network namespace. It never touches the machine's own
//! network.

mod crowd;
mod node;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use causeway_tests::figures::{Figures, Table};
use node::{Network, Node, Pod};

const USAGE: &str = "\
bench-cni: ADD and DEL of causeway-cni, in turns with the reference plugins

  --plugin PATH      the plugin (causeway-cni beside this program)
  --reference DIR    the folder with bridge and host-local (/usr/lib/cni)
  --rounds N         pods attached and detached one after the other, each (60)
  --crowd N          pods attached at a time, for the parallel part (50)
  --concurrency N    calls at a time, for the parallel part (16)
";

struct Options {
    plugin: PathBuf,
    reference: PathBuf,
    rounds: usize,
    crowd: usize,
    concurrency: usize,
}

impl Options {
    /// Reads the command line; `None` where help was asked for.
    fn read() -> anyhow::Result<Option<Self>> {
        let own = std::env::current_exe().context("where this program is")?;
        let mut options = Self {
            plugin: own.with_file_name("causeway-cni"),
            reference: PathBuf::from("/usr/lib/cni"),
            rounds: 60,
            crowd: 50,
            concurrency: 16,
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
                "--plugin" => options.plugin = value.into(),
                "--reference" => options.reference = value.into(),
                "--rounds" => options.rounds = number()?,
                "--crowd" => options.crowd = number()?,
                "--concurrency" => options.concurrency = number()?,
                _ => bail!("{name} is unknown\n{USAGE}"),
            }
        }
        for program in [options.plugin.clone(), options.reference.join("bridge")] {
            if !program.is_file() {
                bail!("there is no {}", program.display());
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
    let version = std::process::Command::new(options.reference.join("bridge"))
        .output()?
        .stderr;
    let version = String::from_utf8_lossy(&version)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    println!(
        "reference: {version}; {} rounds; times in milliseconds\n",
        options.rounds
    );
    floors(&options)?;
    one_by_one(&options)?;
    many_reservations(&options)?;
    crowd::measure(&options)
}

/// What no plugin can be faster than.
fn floors(options: &Options) -> anyhow::Result<()> {
    let node = Node::new(Path::new("/bin/true"))?;
    let mut exec = Figures::default();
    let (mut make, mut delete) = (Figures::default(), Figures::default());
    for round in 0..options.rounds {
        let pod = Pod::new(round)?;
        exec.add(node.call("VERSION", &pod, "")?.0);
        let (made, deleted) = node.bare_attachment(&pod)?;
        make.add(made);
        delete.add(deleted);
    }
    let mut table = Table::new(["floor", "median", "p90"]);
    for (name, figures) in [
        ("an empty program", &mut exec),
        ("veth pair on a bridge, made", &mut make),
        ("veth pair on a bridge, deleted", &mut delete),
    ] {
        table.row([name.to_owned(), figures.quantile(50), figures.quantile(90)]);
    }
    println!("{table}");
    Ok(())
}

const NETWORKS: [Network; 4] = [
    Network {
        name: "bridge",
        masquerade: false,
        dual_stack: false,
    },
    Network {
        name: "bridge, ipMasq",
        masquerade: true,
        dual_stack: false,
    },
    Network {
        name: "bridge, dual stack",
        masquerade: false,
        dual_stack: true,
    },
    Network {
        name: "bridge, dual stack, ipMasq",
        masquerade: true,
        dual_stack: true,
    },
];

/// One pod after the other, the two plugins in turns.
fn one_by_one(options: &Options) -> anyhow::Result<()> {
    let mut table = Table::new([
        "one pod at a time",
        "ours",
        "p90",
        "reference",
        "p90",
        "ours/reference",
    ]);
    for network in NETWORKS {
        let reference = options.reference.join("bridge");
        let nodes = [Node::new(&options.plugin)?, Node::new(&reference)?];
        let mut figures: [[Figures; 2]; 2] = Default::default();
        // The first ones make the bridge and the tables.
        for round in 0..options.rounds + 2 {
            let (warm, first) = (round >= 2, round % 2);
            for turn in [first, 1 - first] {
                let pod = Pod::new(round)?;
                let (add, del) = nodes[turn].come_and_go(&pod, &network)?;
                if warm {
                    figures[0][turn].add(add);
                    figures[1][turn].add(del);
                }
            }
        }
        for (operation, [ours, theirs]) in ["ADD", "DEL"].iter().zip(&mut figures) {
            table.row([
                format!("{}: {operation}", network.name),
                ours.quantile(50),
                ours.quantile(90),
                theirs.quantile(50),
                theirs.quantile(90),
                format!("{:.2}", ours.median() / theirs.median()),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}

/// Whether time grows with the number of pods that a node has already.
fn many_reservations(options: &Options) -> anyhow::Result<()> {
    let network = &NETWORKS[1];
    let mut table = Table::new(["ours, ipMasq", "ADD", "p90", "DEL", "p90"]);
    for reservations in [10, 1000] {
        let node = Node::new(&options.plugin)?;
        node.come_and_go(&Pod::new(usize::MAX)?, network)?;
        node.reserve(reservations)?;
        node.come_and_go(&Pod::new(usize::MAX)?, network)?;
        let (mut add, mut del) = (Figures::default(), Figures::default());
        for round in 0..options.rounds {
            let (added, deleted) = node.come_and_go(&Pod::new(round)?, network)?;
            add.add(added);
            del.add(deleted);
        }
        table.row([
            format!("beside {reservations} reservations"),
            add.quantile(50),
            add.quantile(90),
            del.quantile(50),
            del.quantile(90),
        ]);
    }
    println!("{table}");
    Ok(())
}
