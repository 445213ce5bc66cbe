//! A node and its pods: namespaces that end with their handles.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nodekit::netns::NetNs;
use nodekit::route::{Handle, NewBridge, VethEnd, VethPair};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) masquerade: bool,
    pub(crate) dual_stack: bool,
}

pub(crate) struct Node {
    netns: NetNs,
    folder: TempDir,
    program: PathBuf,
}

pub(crate) struct Pod {
    netns: NetNs,
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
    pub(crate) fn new(program: &Path) -> anyhow::Result<Self> {
        let netns = NetNs::anonymous()?;
        netns.run(|| Handle::open()?.set_up(1))??;
        Ok(Self {
            netns,
            folder: tempfile::tempdir()?,
            program: program.to_owned(),
        })
    }

    fn config(&self, network: &Network) -> String {
        let mut ranges = vec![json!([{"subnet": "10.1.0.0/16"}])];
        if network.dual_stack {
            ranges.push(json!([{"subnet": "fd01::/64"}]));
        }
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
            "isGateway": true, "isDefaultGateway": true, "ipMasq": network.masquerade,
            "ipam": {"type": "host-local", "ranges": ranges, "dataDir": self.folder.path()},
        })
        .to_string()
    }

    /// Runs the plugin once, from start to exit.
    pub(crate) fn call(
        &self,
        command: &str,
        pod: &Pod,
        input: &str,
    ) -> anyhow::Result<(Duration, Value)> {
        let mut process = Command::new(&self.program);
        process.envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &pod.id),
            ("CNI_NETNS", &pod.path()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/usr/lib/cni"),
        ]);
        process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A child starts in the namespace of the thread that makes it.
        let (elapsed, output) = self.netns.run(|| {
            let start = Instant::now();
            let mut child = process.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that doesn't read is no failure.
                let _ = stdin.write_all(input.as_bytes());
            }
            let output = child.wait_with_output()?;
            Ok::<_, std::io::Error>((start.elapsed(), output))
        })??;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let program = self.program.display();
            bail!(
                "{program}: {command} {}: {text}{}",
                pod.id,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok((elapsed, serde_json::from_str(&text).unwrap_or_default()))
    }

    pub(crate) fn add(&self, pod: &Pod, network: &Network) -> anyhow::Result<(Duration, Value)> {
        self.call("ADD", pod, &self.config(network))
    }

    pub(crate) fn del(&self, pod: &Pod, network: &Network) -> anyhow::Result<Duration> {
        Ok(self.call("DEL", pod, &self.config(network))?.0)
    }

    /// ADD and DEL of one pod.
    pub(crate) fn come_and_go(
        &self,
        pod: &Pod,
        network: &Network,
    ) -> anyhow::Result<(Duration, Duration)> {
        Ok((self.add(pod, network)?.0, self.del(pod, network)?))
    }

    /// Reserves addresses for containers that don't exist, as the reference plugin writes it.
    pub(crate) fn reserve(&self, count: u32) -> anyhow::Result<()> {
        let folder = self.folder.path().join("net");
        for number in 0..count {
            let address = Ipv4Addr::from(0x0a01_8000 + number);
            let content = format!("container-{number}\r\neth0");
            std::fs::write(folder.join(address.to_string()), content).context("a reservation")?;
        }
        Ok(())
    }

    /// The least that an attachment needs of the kernel: a veth pair between a bridge and the pod.
    pub(crate) fn bare_attachment(&self, pod: &Pod) -> anyhow::Result<(Duration, Duration)> {
        self.netns.run(|| {
            let mut route = Handle::open()?;
            let bridge = match route.link_by_name("cni0") {
                Ok(bridge) => bridge,
                Err(_) => {
                    let (mac, mtu, vlan_filtering) = (None, None, None);
                    let new = NewBridge {
                        name: "cni0",
                        mac,
                        mtu,
                        vlan_filtering,
                        up: true,
                    };
                    route.create_bridge(&new)?;
                    route.link_by_name("cni0")?
                }
            };
            let pair = VethPair {
                near: VethEnd::named("veth0"),
                far: VethEnd {
                    netns: Some(pod.netns.as_fd()),
                    ..VethEnd::named("eth0")
                },
                near_up: true,
                near_master: Some(bridge.index),
            };
            let start = Instant::now();
            route.create_veth(&pair)?;
            pod.netns.run(|| {
                let mut route = Handle::open()?;
                let link = route.link_by_name("eth0")?;
                route.set_up(link.index)
            })??;
            let made = start.elapsed();
            let start = Instant::now();
            route.delete_link_by_name("veth0")?;
            anyhow::Ok((made, start.elapsed()))
        })?
    }
}
