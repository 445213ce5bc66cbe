//! A node and its pods: namespaces that end with their handles.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nodekit::netns::NetNs;
use nodekit::route::Handle;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::contender::Contender;
use crate::network::Network;

pub(crate) struct Node {
    pub(crate) netns: NetNs,
    folder: TempDir,
    contender: Contender,
}

pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    id: String,
}

impl Pod {
    pub(crate) fn new(number: usize) -> anyhow::Result<Self> {
        let id = format!("pod-{number}");
        Ok(Self {
            netns: NetNs::anonymous()?,
            id,
        })
    }

    fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.netns.as_fd().as_raw_fd()
        )
    }
}

impl Node {
    pub(crate) fn new(contender: &Contender) -> anyhow::Result<Self> {
        let netns = NetNs::anonymous()?;
        netns.run(|| Handle::open()?.set_up(1))??;
        Ok(Self {
            netns,
            folder: tempfile::tempdir()?,
            contender: contender.clone(),
        })
    }

    fn reservations(&self) -> &Path {
        self.folder.path()
    }

    /// Attaches a pod: how long it took, and the result.
    pub(crate) fn add(&self, pod: &Pod, network: &Network) -> anyhow::Result<(Duration, Value)> {
        if matches!(self.contender, Contender::Floor) {
            let took = self.empty_program(pod)? + self.bare_add(pod, network)?;
            return Ok((took, Value::Null));
        }
        let (mut took, mut result) = (Duration::ZERO, Value::Null);
        for plugin in self.contender.plugins(network, self.reservations()) {
            let (time, answer) = self.call("ADD", pod, plugin, &result)?;
            took += time;
            result = answer;
        }
        Ok((took, result))
    }

    /// Detaches a pod, given ADD's result.
    pub(crate) fn del(
        &self,
        pod: &Pod,
        network: &Network,
        result: &Value,
    ) -> anyhow::Result<Duration> {
        if matches!(self.contender, Contender::Floor) {
            return Ok(self.empty_program(pod)? + self.bare_delete()?);
        }
        let mut took = Duration::ZERO;
        let plugins = self.contender.plugins(network, self.reservations());
        for plugin in plugins.into_iter().rev() {
            took += self.call("DEL", pod, plugin, result)?.0;
        }
        Ok(took)
    }

    /// ADD and DEL of one pod, after which there must be nothing of it.
    pub(crate) fn come_and_go(
        &self,
        pod: &Pod,
        network: &Network,
    ) -> anyhow::Result<(Duration, Duration)> {
        let (add, result) = self.add(pod, network)?;
        let del = self.del(pod, network, &result)?;
        self.no_links()?;
        Ok((add, del))
    }

    fn empty_program(&self, pod: &Pod) -> anyhow::Result<Duration> {
        Ok(self.call("VERSION", pod, json!({}), &Value::Null)?.0)
    }

    /// Runs one plugin once, from start to exit, as a runtime does.
    fn call(
        &self,
        command: &str,
        pod: &Pod,
        plugin: Value,
        result: &Value,
    ) -> anyhow::Result<(Duration, Value)> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let program = self.contender.program(kind);
        let input = input(plugin, result);
        // A child starts in the namespace of the thread that makes it.
        let (elapsed, output) = self.netns.run(|| {
            let start = Instant::now();
            let child = start_plugin(&program, command, pod)?;
            let output = feed(child, &input)?;
            Ok::<_, std::io::Error>((start.elapsed(), output))
        })??;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let complaints = String::from_utf8_lossy(&output.stderr);
            let program = program.display();
            bail!("{program}: {command} {}: {text}{complaints}", pod.id);
        }
        Ok((elapsed, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Starts our plugin without giving it its input yet.
    pub(crate) fn start(&self, command: &str, pod: &Pod) -> anyhow::Result<Child> {
        let program = self.contender.program("causeway-cni");
        Ok(self.netns.run(|| start_plugin(&program, command, pod))??)
    }

    /// The input of our plugin.
    pub(crate) fn input(&self, network: &Network, result: &Value) -> String {
        input(network.combined(self.reservations()).swap_remove(0), result)
    }

    /// Reserves addresses for containers that don't exist, as the reference plugin writes it.
    pub(crate) fn reserve(&self, count: u32) -> anyhow::Result<()> {
        let folder = self.reservations().join("net");
        for number in 0..count {
            let address = Ipv4Addr::from(0x0a01_8000 + number);
            let content = format!("container-{number}\r\neth0");
            std::fs::write(folder.join(address.to_string()), content).context("a reservation")?;
        }
        Ok(())
    }

    /// That a pod gets all that the network promises: what isn't done need not be measured.
    pub(crate) fn keeps_its_word(&self, network: &Network) -> anyhow::Result<()> {
        let pod = Pod::new(usize::MAX)?;
        let (_, result) = self.add(&pod, network)?;
        // Of iptables' rules it has the names in capitals.
        let rules = self.printed("nft", &["list", "ruleset"])?.to_lowercase();
        let buckets = self.printed("tc", &["qdisc", "show"])?;
        let (who, what) = (self.contender.name(), network.name);
        for (promised, word) in [(network.masquerade, "masquerade"), (network.ports, "8080")] {
            ensure!(!promised || rules.contains(word), "{who}: {what}: {rules}");
        }
        let limited = buckets.matches("tbf").count() == 2;
        ensure!(!network.chain || limited, "{who}: {what}: {buckets}");
        self.del(&pod, network, &result).map(drop)
    }

    /// What a program prints that runs in the node's network.
    fn printed(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .netns
            .run(|| Command::new(program).args(arguments).output())??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// That no link of a pod is left in the node.
    fn no_links(&self) -> anyhow::Result<()> {
        let links = self.netns.run(|| Handle::open()?.links())??;
        let left = links
            .iter()
            .filter(|link| !["lo", "cni0"].contains(&link.name.as_str()));
        let left: Vec<_> = left.map(|link| link.name.as_str()).collect();
        let who = self.contender.name();
        ensure!(left.is_empty(), "{who} left links: {left:?}");
        Ok(())
    }

    /// That no pod is left in the node: neither a link, nor a reservation, nor a rule.
    ///
    /// # Errors
    /// What there is.
    pub(crate) fn is_empty(&self) -> anyhow::Result<()> {
        self.no_links()?;
        let who = self.contender.name();
        let reserved = std::fs::read_dir(self.reservations().join("net"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .find(|name| name.parse::<std::net::IpAddr>().is_ok());
        ensure!(reserved.is_none(), "{who} left a reservation: {reserved:?}");
        let rules = self.printed("nft", &["list", "ruleset"])?;
        // Whole networks may stay; a pod's own address or name may not.
        let pods = rules.replace("10.1.0.0/16", "").replace("fd01::/64", "");
        let left = ["10.1.", "fd01::", "pod-"]
            .iter()
            .find(|text| pods.contains(**text));
        ensure!(left.is_none(), "{who} left rules:\n{rules}");
        Ok(())
    }
}

/// What a runtime makes of a plugin's object in a list, and of the result before.
fn input(mut plugin: Value, result: &Value) -> String {
    plugin["cniVersion"] = "1.0.0".into();
    plugin["name"] = "net".into();
    if !result.is_null() {
        plugin["prevResult"] = result.clone();
    }
    plugin.to_string()
}

fn start_plugin(program: &Path, command: &str, pod: &Pod) -> std::io::Result<Child> {
    let folder = program.parent().unwrap_or(Path::new("/usr/lib/cni"));
    let mut process = Command::new(program);
    process
        .envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &pod.id),
            ("CNI_NETNS", &pod.path()),
            ("CNI_IFNAME", "eth0"),
        ])
        .env("CNI_PATH", folder);
    process
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn feed(mut child: Child, input: &str) -> std::io::Result<std::process::Output> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that doesn't read is no failure.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}
