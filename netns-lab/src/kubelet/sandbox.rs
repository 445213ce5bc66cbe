//! A pod's sandbox: its network namespace with the plugins' work in it, and its files.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use nodekit::netns::{Identity, NetNs};
use serde_json::Value;

use super::{Context, pod::PodSpec};
use crate::cni::{Attachment, Network};
use crate::dns::CLUSTER_DOMAIN;
use crate::folder::{Folder, NodeFolder};
use crate::process;
use crate::state::Sandbox;
use crate::topology::DNS_SERVICE;

/// How long processes left in a sandbox may take to die of SIGKILL.
const DEATH: Duration = Duration::from_secs(5);

/// The name of the network namespace a pod is in.
pub(super) fn netns_name(pod: &PodSpec) -> String {
    if pod.host_network {
        return pod.node.clone();
    }
    format!("pod-{}", pod.uid)
}

/// The networks of a pod's interfaces, in the order in which they are added.
fn networks(node: &NodeFolder) -> anyhow::Result<[(&'static str, Network); 2]> {
    let (bin, results) = (node.cni_bin(), node.cni_results());
    Ok([
        ("lo", Network::loopback(bin.clone(), results.clone())?),
        ("eth0", Network::read(&node.conflist(), bin, results)?),
    ])
}

/// What plugins are told about an interface of a sandbox.
fn attachment(folder: &Folder, sandbox: &Sandbox, interface: &'static str) -> Attachment {
    let Sandbox {
        namespace,
        name,
        uid,
        container_id,
        ..
    } = sandbox;
    Attachment {
        container_id: container_id.clone(),
        netns: folder.netns().join(&sandbox.netns).display().to_string(),
        interface,
        args: format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
        ),
    }
}

/// Makes the sandbox; leaves nothing behind when it fails. Blocks.
pub(super) fn create(context: &Context, pod: &PodSpec) -> anyhow::Result<Vec<IpAddr>> {
    let node = context
        .topology
        .node(&pod.node)
        .context("the pod's node is gone")?;
    let folder = &context.folder;
    let sandbox = Sandbox {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        container_id: container_id(&pod.uid),
        netns: netns_name(pod),
        cni: !pod.host_network,
        ips: vec![node.addresses.v4.into(), node.addresses.v6.into()],
        process: None,
    };
    context
        .state
        .update(|state| state.sandboxes.push(sandbox.clone()))?;
    let make = || {
        if pod.host_network {
            return Ok(sandbox.ips.clone());
        }
        NetNs::create_at(folder.netns().join(&sandbox.netns))?;
        attach(folder, &sandbox)
    };
    let made = make().and_then(|ips| {
        write_files(folder, pod, &ips)?;
        context.state.update(|state| {
            let mut sandboxes = state.sandboxes.iter_mut();
            if let Some(sandbox) = sandboxes.find(|sandbox| sandbox.uid == pod.uid) {
                sandbox.ips.clone_from(&ips);
            }
        })?;
        Ok(ips)
    });
    made.inspect_err(|_| {
        if let Err(error) = destroy(context, pod) {
            let error = format!("{error:#}");
            tracing::warn!(pod = pod.name, error, "leftovers of a failed sandbox");
        }
    })
}

/// Takes the sandbox down; fine to repeat. Goes on past errors and gives the first. Blocks.
pub(super) fn destroy(context: &Context, pod: &PodSpec) -> anyhow::Result<()> {
    let folder = &context.folder;
    let sandbox = context.state.update(|state| {
        state
            .sandboxes
            .iter()
            .find(|sandbox| sandbox.uid == pod.uid)
            .cloned()
    })?;
    let Some(sandbox) = sandbox else {
        return Ok(());
    };
    let mut results = Vec::new();
    if sandbox.cni {
        let path = folder.netns().join(&sandbox.netns);
        let netns = NetNs::open(&path).map(|netns| netns.identity());
        results.extend(netns.map(|identity| end_processes(&[identity])));
        results.push(detach(folder, &sandbox));
        results.push(NetNs::delete(&path).map_err(Into::into));
    }
    results.push(
        fs::remove_dir_all(folder.pod(&pod.uid))
            .or_else(absent)
            .map_err(Into::into),
    );
    let forgotten = context.state.update(|state| {
        state.sandboxes.retain(|sandbox| sandbox.uid != pod.uid);
    });
    results.push(forgotten);
    results.into_iter().collect()
}

/// Kills whatever runs inside these namespaces, as the processes a pod's process left behind.
fn end_processes(namespaces: &[Identity]) -> anyhow::Result<()> {
    for process in process::inside(namespaces) {
        process.signal(Signal::SIGKILL)?;
        anyhow::ensure!(
            process.wait_end(DEATH),
            "process {} outlived SIGKILL",
            process.pid
        );
    }
    Ok(())
}

fn attach(folder: &Folder, sandbox: &Sandbox) -> anyhow::Result<Vec<IpAddr>> {
    let node = NetNs::open(folder.netns().join(&sandbox.node))?;
    let mut result = Value::Null;
    for (interface, network) in networks(&folder.node(&sandbox.node))? {
        result = network.add(&node, &attachment(folder, sandbox, interface))?;
    }
    let addresses = result["ips"].as_array().into_iter().flatten();
    let text = addresses.filter_map(|ip| ip["address"].as_str()?.split('/').next());
    let mut ips: Vec<IpAddr> = text.filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_by_key(IpAddr::is_ipv6);
    anyhow::ensure!(!ips.is_empty(), "the CNI result names no address: {result}");
    Ok(ips)
}

/// Runs DEL for both interfaces; of a sandbox whose ADD never ran, too, as containerd does.
pub(crate) fn detach(folder: &Folder, sandbox: &Sandbox) -> anyhow::Result<()> {
    let node = NetNs::open(folder.netns().join(&sandbox.node))?;
    let mut first = Ok(());
    for (interface, network) in networks(&folder.node(&sandbox.node))?.iter().rev() {
        let mut attachment = attachment(folder, sandbox, interface);
        if NetNs::open(&attachment.netns).is_err() {
            attachment.netns.clear();
        }
        first = first.and(network.del(&node, &attachment));
    }
    first
}

fn write_files(folder: &Folder, pod: &PodSpec, ips: &[IpAddr]) -> anyhow::Result<()> {
    let own = folder.pod(&pod.uid);
    fs::create_dir_all(&own)?;
    let namespace = &pod.namespace;
    let resolver = format!(
        "search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}\n\
         nameserver {DNS_SERVICE}\n\
         options ndots:5\n"
    );
    fs::write(own.join("resolv.conf"), resolver)?;
    let mut hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_owned();
    for ip in ips {
        hosts.push_str(&format!("{ip} {}\n", pod.name));
    }
    fs::write(own.join("hosts"), hosts)?;
    Ok(())
}

/// 64 hexadecimal digits, as containerd's ids: the pod's uid, padded.
fn container_id(uid: &str) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{digits:0<64}")
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
