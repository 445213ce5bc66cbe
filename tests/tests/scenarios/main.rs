//! What a Service does, shown the same in every data plane: each file of `tests/scenarios` against
//! the oracle and the walkers, without a kernel, and over real packets for each data plane.
//!
//! What this kernel lacks is reported as ignored, and why is said: `scripts/vm` has another kernel.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these tests cannot do fails them; without the standard harness lints don't know"
)]

mod decide;
mod file;
mod packets;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use nodekit::ipvs::IpvsSocket;
use nodekit::xtables::Variant;

use packets::Plane;

/// The data planes, by the names of their tests.
const PLANES: [(&str, Plane); 5] = [
    ("nftables", Plane::Nftables),
    ("ebpf", Plane::Ebpf),
    ("iptables", Plane::Iptables(Variant::Nft)),
    ("iptables_legacy", Plane::Iptables(Variant::Legacy)),
    ("ipvs", Plane::Ipvs),
];

/// Where the scenarios are.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// The scenarios, sorted, as their files are called.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let yaml = names.filter_map(|name| Some(name.strip_suffix(".yaml")?.to_owned()));
    let mut names: Vec<String> = yaml.collect();
    assert!(!names.is_empty(), "no scenarios in {}", folder().display());
    names.sort();
    names
}

/// A test of `scenario`, which is called `SCENARIO::AGAINST`.
fn trial(scenario: &str, against: &str, run: impl Fn(&str) + Send + 'static) -> Trial {
    let scenario = scenario.to_owned();
    let name = format!("{}::{against}", scenario.replace('-', "_"));
    Trial::test(name, move || {
        run(&scenario);
        Ok(())
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let no_ipvs = IpvsSocket::open().err();
    let mut trials = Vec::new();
    for scenario in names() {
        trials.push(trial(&scenario, "without_a_kernel", decide::agree));
        for (name, plane) in PLANES {
            let send = move |scenario: &str| packets::send(scenario, plane);
            let lacking = plane == Plane::Ipvs && no_ipvs.is_some();
            trials.push(trial(&scenario, name, send).with_ignored_flag(lacking));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(error) = no_ipvs.filter(|_| !arguments.list) {
        println!("SKIPPED: the scenarios in mode ipvs, which scripts/vm runs: {error}\n");
    }
    conclusion.exit_code()
}
