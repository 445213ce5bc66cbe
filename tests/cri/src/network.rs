//! The network that runtimes are given, and what it leaves in the node.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Route, VethEnd, VethPair};
use serde_json::{Value, json};

use crate::containerd::{NAMESPACES, NETWORKS, PLUGINS};
use crate::node::{Node, PATIENCE, said, wait_for};

/// The network's name.
const NAME: &str = "pods";

/// The folder of the network's reservations.
const RESERVATIONS: &str = "/var/lib/cni/networks/pods";

/// The node as seen from outside.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The plugin's executable, beside the running test.
///
/// # Errors
/// When it isn't there: `scripts/test` builds all binaries before it runs a test.
pub fn plugin() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let mut folders = test.ancestors().skip(1).take(2);
    let found =
        folders.find_map(|folder| Some(folder.join("causeway-cni")).filter(|path| path.is_file()));
    found.context("no causeway-cni beside this test: run `cargo build --workspace --bins` first")
}

/// How the pods of a node get their network; the subnets are one of each family at most.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// One plugin for everything, configured by its own `install`.
    Installed(&'a str),
    /// A chain of the reference plugins' names.
    Chained(&'a str),
}

/// Puts the plugin in place as an operator does, with a network for the runtime to find.
///
/// # Errors
/// What `install` refuses.
pub fn install(node: &Node, network: Network<'_>) -> anyhow::Result<()> {
    let mut arguments = vec!["install", "--bin-dir", PLUGINS, "--links"];
    match network {
        Network::Installed(subnets) => {
            arguments.extend(["--conf-dir", NETWORKS, "--pod-cidr", subnets]);
            arguments.extend(["--name", NAME]);
        }
        Network::Chained(subnets) => {
            let list = chained(subnets).to_string();
            node.write(&format!("{NETWORKS}/10-pods.conflist"), &list)?;
        }
    }
    node.run(plugin()?, &arguments).map(drop)
}

fn chained(subnets: &str) -> Value {
    let ranges: Vec<_> = subnets
        .split(',')
        .map(|subnet| json!([{"subnet": subnet}]))
        .collect();
    let plugins = [
        json!({
            "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
            "hairpinMode": true, "ipam": {"type": "host-local", "ranges": ranges},
        }),
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        json!({"type": "firewall"}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
    ];
    json!({"cniVersion": "1.0.0", "name": NAME, "plugins": plugins})
}

/// A host beyond the node, one hop away by a link of its own.
///
/// # Errors
/// As the kernel's.
pub fn outside(node: &Node) -> anyhow::Result<NetNs> {
    let outside = NetNs::anonymous()?;
    let pair = VethPair {
        near: VethEnd::named("uplink"),
        far: VethEnd {
            netns: Some(outside.as_fd()),
            ..VethEnd::named("eth0")
        },
        near_up: true,
        near_master: None,
    };
    node.netns().run(|| {
        Handle::open()?.create_veth(&pair)?;
        address("uplink", NODE_ADDRESS)
    })??;
    outside.run(|| {
        address("eth0", OUTSIDE_ADDRESS)?;
        Handle::open()?.add_route(&Route::default_by(NODE_ADDRESS.into()))?;
        anyhow::Ok(())
    })??;
    Ok(outside)
}

fn address(link: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let mut route = Handle::open()?;
    let index = route.link_by_name(link)?.index;
    let network = format!("{address}/24").parse()?;
    route.add_address(&Address::new(index, network))?;
    route.set_up(index)?;
    Ok(())
}

/// The addresses that the network has reserved.
#[must_use]
pub fn reserved(node: &Node) -> Vec<String> {
    let mut names = node.names(RESERVATIONS);
    names.retain(|name| name.parse::<IpAddr>().is_ok());
    names
}

/// What a host gets by HTTP from a port of the node.
///
/// # Errors
/// When nobody answers.
pub fn fetch(outside: &NetNs, port: u16) -> anyhow::Result<String> {
    outside.run(|| {
        let address = SocketAddrV4::new(NODE_ADDRESS, port);
        let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let page = answer.lines().last().unwrap_or_default();
        Ok(page.to_owned())
    })?
}

/// Waits until no call of the plugin is under way.
///
/// # Errors
/// When one doesn't end.
pub fn wait_for_calls(node: &Node) -> anyhow::Result<()> {
    wait_for("calls to end", || {
        let names = node.names("/proc").into_iter().map(|process| {
            // Those that have ended meanwhile have no name any more.
            let name = node.file(&format!("/proc/{process}/comm"));
            std::fs::read_to_string(name).unwrap_or_default()
        });
        let calls = names.filter(|name| name.trim() == "causeway-cni").count();
        ensure!(calls == 0, "{calls} are running");
        Ok(())
    })
}

/// Calls the plugin for an operation that is about no pod; gives what it printed.
///
/// # Errors
/// The plugin's.
pub fn ask(node: &Node, operation: &str, input: &Value) -> anyhow::Result<String> {
    let mut command = node.command(plugin()?);
    command
        .env("CNI_COMMAND", operation)
        .env("CNI_PATH", PLUGINS);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = pipes.stderr(Stdio::piped()).spawn()?;
    let mut stdin = process.stdin.take().context("its input")?;
    stdin.write_all(input.to_string().as_bytes())?;
    drop(stdin);
    said(&process.wait_with_output()?)
}

/// Has the plugin take away what belongs to no attachment but these, as a runtime of CNI 1.1 does.
/// The network is the installed one.
///
/// # Errors
/// The plugin's.
pub fn collect_garbage(node: &Node, kept: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut call = installed(node)?;
    let attachment = |(id, name): &(&str, &str)| json!({"containerID": id, "ifname": name});
    call["cni.dev/valid-attachments"] = kept.iter().map(attachment).collect();
    ask(node, "GC", &call).map(drop)
}

/// Whether the plugin could add a pod to the installed network now.
///
/// # Errors
/// Why not, in the plugin's words.
pub fn status(node: &Node) -> anyhow::Result<()> {
    ask(node, "STATUS", &installed(node)?).map(drop)
}

/// The installed network's plugin, as a runtime of CNI 1.1 calls it.
fn installed(node: &Node) -> anyhow::Result<Value> {
    let path = node.file(&format!("{NETWORKS}/10-causeway.conflist"));
    let list: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let mut call = list["plugins"][0].clone();
    call["cniVersion"] = "1.1.0".into();
    call["name"] = list["name"].clone();
    Ok(call)
}

/// That nothing of any pod is left in the node, neither a namespace nor what [`nothing_held`]
/// looks for.
///
/// # Errors
/// What there is.
pub fn nothing_left(node: &Node) -> anyhow::Result<()> {
    let namespaces = node.names(NAMESPACES);
    ensure!(namespaces.is_empty(), "network namespaces: {namespaces:?}");
    nothing_held(node)
}

/// That the plugin holds nothing for any pod: no link, reservation or element of a table.
///
/// # Errors
/// What there is.
pub fn nothing_held(node: &Node) -> anyhow::Result<()> {
    let reserved = reserved(node);
    ensure!(reserved.is_empty(), "reserved addresses: {reserved:?}");
    let links = node.netns().run(|| Handle::open()?.links())??;
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    let of_the_node = ["lo", "uplink", "cni0"];
    let pods = names.iter().find(|name| !of_the_node.contains(name));
    ensure!(pods.is_none(), "links: {names:?}");
    // The plugin's index by holder.
    let holders = node.run("find", &[RESERVATIONS, "-name", "*:eth0*"])?;
    ensure!(holders.is_empty(), "holders of addresses: {holders}");
    let ruleset = node.run("nft", &["list", "ruleset"])?;
    ensure!(!ruleset.contains("elements = {"), "{ruleset}");
    Ok(())
}
