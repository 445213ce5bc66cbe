//! One request, hop by hop.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use netns_lab::Lab;
use nodekit::conntrack::{Transport, Tuple};
use serde::Deserialize;

use super::cast::Cast;
use super::kernel::{self, Plane};
use super::screen::Screen;

/// What the frontend saw of its request.
#[derive(Debug, Deserialize)]
struct Seen {
    nameserver: String,
    resolved: String,
    local: SocketAddr,
    peer: SocketAddr,
    kernel_says: SocketAddr,
    visits: u64,
    redis_says: Sides,
}

/// Both ends of the connection, as Redis sees them.
#[derive(Debug, Deserialize)]
struct Sides {
    redis: SocketAddr,
    client: SocketAddr,
}

/// Makes a request and shows what everybody on its way saw.
pub(super) fn show(lab: &Lab, cast: &Cast, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("2. One request, step by step");
    let output = lab.exec("frontend", &cast.words(&["one"]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "the frontend's request failed: {said}"
    );
    let seen: Seen = serde_json::from_slice(&output.stdout)?;
    name(cast, &seen, screen);
    address(lab, &seen, screen)?;
    let (chosen, way_home) = match cast.plane {
        Plane::Tables => {
            let chosen = choice(lab, cast, &seen, screen)?;
            (chosen, "the kernel put the address back on the way home")
        }
        Plane::Maps(_) => {
            let chosen = choice_at_the_socket(cast, &seen, screen);
            (chosen, "the kernel says so when asked; no packet does")
        }
    };
    road(lab, cast, &seen, &chosen, screen)?;
    answer(&seen, &chosen, way_home, screen);
    Ok(())
}

fn name(cast: &Cast, seen: &Seen, screen: &mut Screen) {
    let Seen {
        nameserver,
        resolved,
        ..
    } = seen;
    screen.step("name", "the frontend knows a name only: redis-service");
    screen.more(&format!(
        "it asks the cluster's DNS, {nameserver}, and hears: {resolved}"
    ));
    let same = *resolved == cast.cluster_ip;
    screen.claim(same, "the name leads to the Service's ClusterIP");
}

fn address(lab: &Lab, seen: &Seen, screen: &mut Screen) -> anyhow::Result<()> {
    screen.step(
        "connect",
        &format!("the frontend, {}, connects to {}", seen.local, seen.peer),
    );
    let (owners, asked) = kernel::who_has(lab, seen.peer.ip())?;
    screen.more("a ClusterIP is nobody's: it is only an entry in every node's kernel");
    screen.claim(
        owners.is_empty(),
        &format!("none of the {asked} namespaces has this address"),
    );
    Ok(())
}

/// The pod that the node's kernel chose, by the connection it tracks.
fn choice(lab: &Lab, cast: &Cast, seen: &Seen, screen: &mut Screen) -> anyhow::Result<SocketAddr> {
    let node = &cast.frontend_node;
    let entry = kernel::connection(lab, node, seen.local)?;
    // What comes back is what went out, turned round: after the choice.
    let chosen = source(&entry.reply).context("a TCP connection without ports")?;
    let pod = cast.by_ip(&chosen.ip().to_string());
    let pod_name = pod.map_or("no pod of ours", |pod| pod.name.as_str());
    screen.step(
        "choice",
        &format!("{node}'s kernel looks into the map that causeway-proxy wrote,"),
    );
    screen.more(&format!(
        "picks one of {} pods at random and rewrites the packet:",
        cast.redis.len()
    ));
    screen.more(&format!(
        "its connection table: {}",
        kernel::words(&entry.original)
    ));
    screen.more(&format!(
        "  answers expected as {}  ({pod_name})",
        kernel::words(&entry.reply)
    ));
    let rewritten = entry.original.destination == seen.peer.ip() && pod.is_some();
    screen.claim(
        rewritten,
        "the kernel turned the ClusterIP into a Redis pod's address",
    );
    Ok(chosen)
}

/// The pod that the socket was connected to.
fn choice_at_the_socket(cast: &Cast, seen: &Seen, screen: &mut Screen) -> SocketAddr {
    let chosen = seen.kernel_says;
    let pod = cast.by_ip(&chosen.ip().to_string());
    let pod_name = pod.map_or("no pod of ours", |pod| pod.name.as_str());
    let node = &cast.frontend_node;
    screen.step(
        "choice",
        "before a packet is sent, an eBPF program sees the socket connect,",
    );
    screen.more(&format!(
        "on {node}'s cgroup: it looks into the map that causeway-proxy wrote,"
    ));
    screen.more(&format!(
        "picks one of {} pods at random and connects the socket there:",
        cast.redis.len()
    ));
    let (local, peer) = (seen.local, seen.peer);
    screen.more(&format!("the frontend's view:       {local} → {peer}"));
    screen.more(&format!(
        "the kernel's socket table: {local} → {chosen}  ({pod_name})"
    ));
    screen.claim(
        pod.is_some() && peer.ip() != chosen.ip(),
        "the kernel connected the socket to a Redis pod's address",
    );
    chosen
}

fn road(
    lab: &Lab,
    cast: &Cast,
    seen: &Seen,
    chosen: &SocketAddr,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let from = &cast.frontend_node;
    let Some(pod) = cast.by_ip(&chosen.ip().to_string()) else {
        return Ok(());
    };
    if pod.node == *from {
        screen.step(
            "road",
            &format!("pod and frontend share {from}: over its bridge, cni0"),
        );
        return Ok(());
    }
    screen.step(
        "road",
        &format!(
            "out of {from}, over the wire, into {}, over its bridge",
            pod.node
        ),
    );
    if let Plane::Maps(_) = cast.plane {
        screen.more("an ordinary packet from pod to pod: nobody has anything to rewrite");
        return Ok(());
    }
    let entry = kernel::connection(lab, &pod.node, seen.local)?;
    screen.more(&format!(
        "{} saw: {}",
        pod.node,
        kernel::words(&entry.original)
    ));
    let plain = entry.original.destination == chosen.ip();
    screen.claim(
        plain,
        "on the wire it is an ordinary packet from pod to pod",
    );
    Ok(())
}

fn answer(seen: &Seen, chosen: &SocketAddr, way_home: &str, screen: &mut Screen) {
    let Sides { redis, client } = &seen.redis_says;
    screen.step(
        "Redis",
        &format!("says: I am {redis}, my client is {client}"),
    );
    let agrees = redis == chosen && *client == seen.local;
    screen.claim(agrees, "Redis and the kernel agree about who talks to whom");
    let (peer, visits) = (seen.peer, seen.visits);
    screen.step(
        "answer",
        &format!("\"visits\" is {visits}. The frontend still believes it talks to"),
    );
    screen.more(&format!("{peer}: {way_home}"));
}

fn source(tuple: &Tuple) -> Option<SocketAddr> {
    let ip: IpAddr = tuple.source;
    match tuple.transport {
        Transport::Ports { source, .. } => Some(SocketAddr::new(ip, source)),
        _ => None,
    }
}
