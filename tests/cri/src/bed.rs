//! A node with containerd and a network, and its pods.

use std::fmt::Write as _;
use std::thread;

use anyhow::Context;
use k8s_cri::v1::{DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata};

use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::image;
use crate::network::{self, Network};
use crate::node::Node;

/// The runtime handler that works.
pub const HANDLER: &str = "runc";

/// A node with containerd and one network. Fields end in this order.
#[derive(Debug)]
pub struct Bed {
    /// The running containerd; none while it is down.
    pub containerd: Option<Containerd>,
    /// Its client.
    pub cri: Cri,
    /// The node.
    pub node: Node,
}

/// A pod and its one container.
#[derive(Debug)]
pub struct Pod {
    /// The sandbox's identifier, which the plugin knows as the container's.
    pub id: String,
    /// The container's.
    pub container: String,
    /// Its addresses, in the order of the plugin's result.
    pub addresses: Vec<String>,
}

impl Bed {
    /// A node whose pods get their network this way.
    ///
    /// # Errors
    /// When containerd doesn't start, or not with this network.
    pub fn new(network: Network<'_>) -> anyhow::Result<Self> {
        let node = Node::new()?;
        network::install(&node, network)?;
        let (containerd, cri) = Containerd::install(&node)?;
        let bed = Self {
            containerd: Some(containerd),
            cri,
            node,
        };
        Containerd::wait_for_network(&bed.cri)?;
        Ok(bed)
    }

    /// What a pod of a name is asked to be.
    #[must_use]
    pub fn wanted(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            dns_config: Some(DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["default.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.node.cgroup(),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// Makes a pod whose container serves its own name by HTTP on port 80.
    ///
    /// # Errors
    /// When the pod or the container isn't made.
    pub fn pod(&self, wanted: &PodSandboxConfig) -> anyhow::Result<Pod> {
        let id = self.cri.run_pod(wanted, HANDLER)?;
        let container = self.cri.start(&id, wanted, &image::SERVE)?;
        self.cri.exec(&container, &image::WAIT)?;
        let addresses = self.cri.addresses(&id)?;
        Ok(Pod {
            id,
            container,
            addresses,
        })
    }

    /// Several pods at once, by name.
    ///
    /// # Errors
    /// The first failure.
    pub fn pods(&self, names: &[String]) -> anyhow::Result<Vec<Pod>> {
        thread::scope(|scope| {
            let calls: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || self.pod(&self.wanted(name))))
                .collect();
            let pods = calls.into_iter().map(|call| match call.join() {
                Ok(pod) => pod,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            pods.collect()
        })
    }

    /// What a pod gets by HTTP from an address, with a port where it isn't 80.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn fetch(&self, from: &Pod, address: &str) -> anyhow::Result<String> {
        let url = format!("http://{address}/index.html");
        let page = self
            .cri
            .exec(&from.container, &["wget", "-q", "-O-", &url])?;
        Ok(page.trim().to_owned())
    }

    /// Stops and removes every pod, each as a kubelet does.
    ///
    /// # Errors
    /// The first failure.
    pub fn empty(&self) -> anyhow::Result<()> {
        thread::scope(|scope| {
            let calls: Vec<_> = self
                .cri
                .pods()?
                .into_iter()
                .map(|pod| {
                    scope.spawn(move || {
                        self.cri.stop_pod(&pod)?;
                        self.cri.remove_pod(&pod)
                    })
                })
                .collect();
            calls.into_iter().try_for_each(|call| match call.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Ends containerd by SIGKILL. The pods go on.
    ///
    /// # Errors
    /// When it is down already.
    pub fn kill_containerd(&mut self) -> anyhow::Result<()> {
        self.containerd.take().context("containerd is down")?.kill()
    }

    /// Starts containerd again.
    ///
    /// # Errors
    /// When it doesn't come back with its network.
    pub fn restart_containerd(&mut self) -> anyhow::Result<()> {
        self.containerd = Some(Containerd::start(&self.node)?);
        self.cri.wait_until_ready()?;
        Containerd::wait_for_network(&self.cri)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut complaints = String::new();
            let log = Containerd::log(&self.node);
            for line in log.lines().filter(|line| !line.contains("level=info")) {
                let _ = writeln!(complaints, "{line}");
            }
            eprintln!("containerd's complaints:\n{complaints}");
        }
    }
}
