//! `netns-lab demo`: a frontend pod talks to Redis through a Service, told for a reader who has
//! just learned what a Pod is. Everything it says was measured or looked up while it ran.

mod burst;
mod cast;
mod kernel;
mod one_request;
mod screen;
mod survival;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use netns_lab::teardown::{Traces, take_down};
use netns_lab::{Folder, Lab, Options, Plugins};

use super::{Make, interrupt, retyped};
use cast::Cast;
use kernel::Plane;
use screen::Screen;

/// The requests whose shares are counted.
const REQUESTS: usize = 300;

/// Shows how a request finds its way, and that it still does when a pod dies.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    make: Make,
    /// Leave the lab up, and say what to try next.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Plays it; fails when one of its claims turns out wrong.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let begin = Instant::now();
        let options = self.make.options("demo", !self.keep)?;
        let folder = Folder::new(&options.run_dir, &options.name)?;
        let _guard = interrupt::take_down_on_interrupt(folder.clone())?;
        let mut screen = Screen::new();
        screen.title("A frontend pod asks Redis, through a Service");
        screen.heading("1. A cluster, out of network namespaces");
        let lab = Lab::up(&options)?;
        let up = begin.elapsed().as_millis();
        screen.text(&format!("(It took {up} ms to come up.)"));
        let mut played = play(&lab, &options, &mut screen);
        if let Err(error) = &played {
            screen.claim(false, &format!("the story goes on to its end ({error:#})"));
        }
        if self.keep && played.is_ok() {
            what_next(&screen, &lab, &options);
        } else {
            let ended = end(lab, &folder, &mut screen);
            played = played.and(ended);
        }
        let wrong = screen.wrong_claims();
        let seconds = begin.elapsed().as_secs_f64();
        match (wrong, played) {
            (0, Ok(())) => {
                screen.title(&format!("Every claim held. {seconds:.1} s in all."));
                Ok(ExitCode::SUCCESS)
            }
            (wrong, _) => {
                screen.title(&format!(
                    "{wrong} claims did not hold. {seconds:.1} s in all."
                ));
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

fn play(lab: &Lab, options: &Options, screen: &mut Screen) -> anyhow::Result<()> {
    let mut cast = Cast::enter(lab, &options.settings).context("starting the pods")?;
    let plugin = match options.settings.plugins {
        Plugins::Causeway(_) => "causeway-cni",
        Plugins::Reference(_) => "bridge, of the reference plugins",
    };
    cast.picture(lab, plugin, screen)?;
    one_request::show(lab, &cast, screen).context("following one request")?;
    from_outside(lab, &cast, screen).context("asking from outside")?;
    burst::show(lab, &cast, screen, REQUESTS).context("counting requests")?;
    survival::show(lab, &mut cast, screen).context("losing and adding a pod")
}

/// A browser that is no part of the cluster, as those of a shop's visitors.
fn from_outside(lab: &Lab, cast: &Cast, screen: &mut Screen) -> anyhow::Result<()> {
    let state = lab.state()?;
    let node = state
        .topology
        .nodes
        .iter()
        .find(|node| node.name != cast.frontend_node);
    let node = node.context("no other node")?;
    let url = format!("http://{}:{}/", node.addresses.v4, cast::NODE_PORT);
    screen.heading("3. The same from outside the cluster");
    let script = "import sys, urllib.request as r; \
                  sys.stdout.write(r.urlopen(sys.argv[1], timeout=3).read().decode())";
    let output = lab.client_exec(&[cast::python(), "-c", script, &url])?;
    let page = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let client = state.topology.client.v4;
    screen.step("visitor", &format!("{client}, outside, opens {url}"));
    screen.more(&format!(
        "that is node {}, where the frontend does not run:",
        node.name
    ));
    screen.more("a NodePort is answered by every node, and the proxy there sends it on");
    screen.step("answer", &page);
    screen.more("(each Redis pod counts for itself: these three share nothing)");
    screen.claim(
        page.starts_with("Welcome, visitor number"),
        "the page arrived outside",
    );
    Ok(())
}

fn end(lab: Lab, folder: &Folder, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("6. Everything goes");
    let state = lab.state()?;
    let traces = Traces::of(folder);
    let down = lab.down();
    // A lab that could not be taken down whole may be by a second look.
    let down = down.or_else(|error| take_down(folder).map_err(|_| error));
    let remains = traces.remains()?;
    screen.step(
        "gone",
        &format!(
            "{} nodes, {} pods",
            state.topology.nodes.len(),
            state.sandboxes.len()
        ),
    );
    let nothing = "no process, no namespace, no cgroup, no mount and no file of the lab is left";
    screen.claim(remains.is_empty() && down.is_ok(), nothing);
    for thing in remains {
        screen.more(&format!("left: {thing}"));
    }
    down
}

fn what_next(screen: &Screen, lab: &Lab, options: &Options) {
    let kubectl = format!("kubectl --kubeconfig {}", lab.kubeconfig().display());
    let exec = retyped(options, "exec");
    screen.heading("6. The lab stays up. Try this:");
    let written = "see what the proxy wrote into a node's kernel";
    let looks = match Plane::of(&options.settings) {
        Plane::Tables => vec![
            (
                written,
                format!("{exec} worker-1 nft list table ip causeway"),
            ),
            (
                "see which connections that node's kernel rewrites",
                format!("{exec} worker-2 conntrack -L -d 10.96.0.0/16"),
            ),
        ],
        Plane::Maps(proxy) => {
            let pins = lab.folder().pins("worker-1");
            let dump = format!("ebpf dump --ebpf-pin-dir {}", pins.display());
            vec![(written, format!("{} {dump}", proxy.display()))]
        }
    };
    let first = [
        ("look around", retyped(options, "status")),
        (
            "use Redis as the frontend does",
            format!("{exec} frontend redis-cli -h redis-service INCR visits"),
        ),
    ];
    let last = [
        (
            "ask the API",
            format!("{kubectl} get pods,svc,endpointslices -o wide"),
        ),
        ("delete a pod", format!("{kubectl} delete pod redis-1")),
        ("end", retyped(options, "down")),
    ];
    for (what, command) in first.into_iter().chain(looks).chain(last) {
        screen.suggestion(what, &command);
    }
}
