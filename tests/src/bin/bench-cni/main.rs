//! Measures ADD and DEL of the plugin against the reference plugins and against what nobody can be
//! faster than, in the same run and in turns, each on a node of its own that is a network
//! namespace. It never touches the machine's own network.

mod contender;
mod crowd;
mod floor;
mod network;
mod node;
mod one_by_one;
mod size;

use std::path::PathBuf;

use anyhow::{Context, bail};

use causeway_tests::arguments;
use causeway_tests::bars::Bars;

const USAGE: &str = "\
bench-cni: ADD and DEL of causeway-cni, in turns with the reference plugins

  --plugin PATH      the plugin (causeway-cni beside this program)
  --peer-dir DIR     the folder with bridge, host-local, portmap, firewall and bandwidth
                     (/usr/lib/cni)
  --rounds N         pods attached and detached one after the other, each (60)
  --crowds N,N...    pods attached at a time, for the parallel part (50,200)
  --concurrency N    calls at a time, for the parallel part (16)
";

struct Options {
    plugin: PathBuf,
    peers: PathBuf,
    rounds: usize,
    crowds: Vec<usize>,
    concurrency: usize,
}

impl Options {
    /// Reads the command line; `None` where help was asked for.
    fn read() -> anyhow::Result<Option<Self>> {
        let own = std::env::current_exe().context("where this program is")?;
        let mut options = Self {
            plugin: own.with_file_name("causeway-cni"),
            peers: PathBuf::from("/usr/lib/cni"),
            rounds: 60,
            crowds: vec![50, 200],
            concurrency: 16,
        };
        let Some(given) = arguments::options()? else {
            return Ok(None);
        };
        for (name, value) in given {
            let number = |text: &str| arguments::number(text).with_context(|| name.clone());
            match name.as_str() {
                "--plugin" => options.plugin = value.into(),
                "--peer-dir" => options.peers = value.into(),
                "--rounds" => options.rounds = number(&value)?,
                "--crowds" => {
                    options.crowds = value.split(',').map(number).collect::<Result<_, _>>()?;
                }
                "--concurrency" => options.concurrency = number(&value)?,
                _ => bail!("{name} is unknown\n{USAGE}"),
            }
        }
        for program in [options.plugin.clone(), options.peers.join("bridge")] {
            if !program.is_file() {
                bail!("there is no {}", program.display());
            }
        }
        Ok(Some(options))
    }

    /// What the peers call themselves.
    fn peer_version(&self) -> anyhow::Result<String> {
        let output = std::process::Command::new(self.peers.join("bridge")).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

fn main() -> anyhow::Result<()> {
    let Some(options) = Options::read()? else {
        println!("{USAGE}");
        return Ok(());
    };
    println!(
        "reference: {}; {} rounds; floor: an empty program and the bare netlink calls\n",
        options.peer_version()?,
        options.rounds
    );
    let mut bars = Bars::default();
    one_by_one::configurations(&options, &mut bars)?;
    one_by_one::reservations(&options, &mut bars)?;
    crowd::measure(&options, &mut bars)?;
    size::measure(&options, &mut bars)?;
    println!("{}", bars.table());
    Ok(())
}
