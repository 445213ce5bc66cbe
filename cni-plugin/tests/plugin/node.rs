//! A node and its pods: namespaces that end with their handles, so that nothing is left behind.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nodekit::netns::{Entry, NetNs};
use nodekit::nft::{Element, Family, NftSocket};
use nodekit::route::{Handle, Link};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For what must come: the machine may be busy, and an emulated one (scripts/vm) is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// For what must not come: a late one goes unnoticed, which no busy machine can turn into a failure.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// The plugin's own executable.
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_causeway-cni");

pub(crate) struct Node {
    pub(crate) netns: NetNs,
    pub(crate) folder: TempDir,
    pub(crate) program: PathBuf,
}

pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) id: String,
}

/// What a call of the plugin gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) succeeded: bool,
    pub(crate) output: Value,
    pub(crate) complaints: String,
}

impl Answer {
    /// The result of a success.
    pub(crate) fn result(self) -> Value {
        assert!(self.succeeded, "{} {}", self.output, self.complaints);
        self.output
    }

    /// The error object's code and text.
    pub(crate) fn error(self) -> (u64, String) {
        assert!(!self.succeeded, "{} {}", self.output, self.complaints);
        let text = |key: &str| self.output[key].as_str().unwrap_or_default().to_owned();
        (
            self.output["code"].as_u64().unwrap(),
            format!("{} {}", text("msg"), text("details")),
        )
    }
}

impl Pod {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            netns: NetNs::anonymous().unwrap(),
            id: id.to_owned(),
        }
    }

    /// A path that leads to the namespace as long as it lives.
    pub(crate) fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.netns.as_fd().as_raw_fd()
        )
    }

    pub(crate) fn link(&self, name: &str) -> Option<Link> {
        link(&self.netns, name)
    }
}

pub(crate) fn link(netns: &NetNs, name: &str) -> Option<Link> {
    netns
        .run(|| Handle::open().unwrap().link_by_name(name).ok())
        .unwrap()
}

impl Node {
    pub(crate) fn new() -> Self {
        let netns = NetNs::anonymous().unwrap();
        netns
            .run(|| Handle::open().unwrap().set_up(1).unwrap())
            .unwrap();
        Self {
            netns,
            folder: tempfile::tempdir().unwrap(),
            program: PLUGIN.into(),
        }
    }

    /// A configuration for one or two families, with further keys.
    pub(crate) fn config(&self, subnets: &[&str], more: &Value) -> Value {
        let ranges: Vec<_> = subnets
            .iter()
            .map(|subnet| json!([{"subnet": subnet}]))
            .collect();
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "causeway-cni", "bridge": "br0",
            "isGateway": true, "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": ranges, "dataDir": self.folder.path()},
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    pub(crate) fn call(&self, command: &str, pod: &Pod, config: &Value) -> Answer {
        self.call_with(command, &pod.id, &pod.path(), &config.to_string(), &[])
    }

    /// A call of the plugin, ready to run on the node.
    pub(crate) fn process(
        &self,
        command: &str,
        id: &str,
        netns: &str,
        more: &[(&str, &str)],
    ) -> Command {
        let mut process = Command::new(&self.program);
        process.env_clear().envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/usr/lib/cni"),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        ]);
        process.envs(more.iter().copied());
        Entry::default().prepare(&mut process, &self.netns).unwrap();
        process
    }

    pub(crate) fn call_with(
        &self,
        command: &str,
        id: &str,
        netns: &str,
        input: &str,
        more: &[(&str, &str)],
    ) -> Answer {
        let mut process = self.process(command, id, netns, more);
        let pipes = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        // Who refuses early need not read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        Answer {
            succeeded: output.status.success(),
            output: if text.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&text).unwrap()
            },
            complaints: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Links of the node beside `lo` and the bridge.
    pub(crate) fn ports(&self) -> Vec<String> {
        let links = self
            .netns
            .run(|| Handle::open().unwrap().links().unwrap())
            .unwrap();
        links
            .into_iter()
            .filter(|l| l.kind.as_deref() == Some("veth"))
            .map(|l| l.name)
            .collect()
    }

    /// The host's end of a pod's pair.
    pub(crate) fn port_of(&self, pod: &Pod) -> Link {
        let index = pod.link("eth0").unwrap().peer.unwrap();
        let find = || Handle::open().unwrap().link_by_index(index).unwrap();
        self.netns.run(find).unwrap()
    }

    /// The addresses that are reserved in the network.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("net")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| name.parse::<IpAddr>().is_ok())
            .collect();
        names.sort();
        names
    }

    /// The elements that have pods masqueraded.
    pub(crate) fn masqueraded(&self) -> Vec<Element> {
        let elements = |family| {
            NftSocket::open()
                .unwrap()
                .elements(family, "causeway-cni", "masquerade-pods")
        };
        let of = |family| {
            self.netns
                .run(|| elements(family).unwrap_or_default())
                .unwrap()
        };
        [of(Family::Ip), of(Family::Ip6)].concat()
    }

    /// That nothing of any pod is left.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.ports(), Vec::<String>::new());
        assert_eq!(self.reserved(), Vec::<String>::new());
        assert_eq!(self.masqueraded(), []);
    }
}

/// The address of a result, without its prefix.
pub(crate) fn address(result: &Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"].as_str().unwrap();
    text.split_once('/').unwrap().0.parse().unwrap()
}

/// A datagram from one namespace to another: the address that its receiver saw it come from.
pub(crate) fn seen_from(from: &NetNs, to: &NetNs, destination: IpAddr) -> Option<IpAddr> {
    seen_within(PATIENCE, from, to, destination)
}

/// The same where nothing should arrive.
pub(crate) fn arrives_all_the_same(from: &NetNs, to: &NetNs, destination: IpAddr) -> bool {
    seen_within(SILENCE, from, to, destination).is_some()
}

/// It is sent again and again.
fn seen_within(
    patience: Duration,
    from: &NetNs,
    to: &NetNs,
    destination: IpAddr,
) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => "0.0.0.0".parse().unwrap(),
        IpAddr::V6(_) => "::".parse().unwrap(),
    };
    let receiver = to.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sender = from.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        // Unreachable for now is what the loop is for.
        let _ = sender.send_to(b"x", SocketAddr::new(destination, port));
        if let Ok((_, source)) = receiver.recv_from(&mut [0; 8]) {
            return Some(source.ip());
        }
    }
    None
}
