//! `netns-lab status`.

use netns_lab::Lab;
use netns_lab::apiserver::Resource;
use netns_lab::process::ProcessId;
use netns_lab::state::State;
use netns_lab::topology::Role;
use serde_json::Value;

use super::table::Table;

/// Prints what there is.
pub(crate) fn show(lab: &Lab) -> anyhow::Result<()> {
    let state = lab.state()?;
    println!(
        "lab {} ({}), proxies in mode {}",
        lab.folder().name(),
        lab.folder().root().display(),
        state.mode
    );
    if let Some(cgroup) = &state.cgroup {
        let pins = lab.folder().bpffs();
        println!("  a cgroup for each node in {}", cgroup.display());
        println!("  its maps and programs in  {}", pins.display());
    }
    println!();
    print!("{}", nodes(&state));
    println!();
    print!("{}", services(lab)?);
    let pods = lab.client().list(Resource::Pod)?;
    if !pods.is_empty() {
        println!();
        print!("{}", pods_table(&pods));
    }
    Ok(())
}

fn nodes(state: &State) -> Table {
    let mut table = Table::new(["NODE", "ADDRESS", "PODS' RANGE", "PROXY"]);
    for node in &state.topology.nodes {
        let role = match node.role {
            Role::ControlPlane => " (API server, DNS)",
            Role::Worker => "",
        };
        let proxy = state.proxies.iter().find(|proxy| proxy.node == node.name);
        let proxy = match proxy.map(|proxy| (proxy.process.filter(ProcessId::runs), proxy)) {
            None => "none".to_owned(),
            Some((None, proxy)) => format!("ended {} times", proxy.restarts),
            Some((Some(process), proxy)) if proxy.restarts == 0 => format!("pid {}", process.pid),
            Some((Some(process), proxy)) => {
                format!("pid {}, {} restarts", process.pid, proxy.restarts)
            }
        };
        table.row([
            format!("{}{role}", node.name),
            node.addresses.v4.to_string(),
            node.pods_v4.to_string(),
            proxy,
        ]);
    }
    table.row([
        "client (outside)".to_owned(),
        state.topology.client.v4.to_string(),
        "-".to_owned(),
        "-".to_owned(),
    ]);
    table
}

fn services(lab: &Lab) -> anyhow::Result<Table> {
    let slices = lab.client().list(Resource::EndpointSlice)?;
    let mut table = Table::new(["SERVICE", "CLUSTERIP", "PORTS", "ENDPOINTS"]);
    for service in lab.client().list(Resource::Service)? {
        let metadata = &service["metadata"];
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        let ports = service["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(port);
        let own = slices.iter().filter(|slice| {
            slice["metadata"]["labels"]["kubernetes.io/service-name"] == name
                && slice["metadata"]["namespace"] == namespace
                && slice["addressType"] == "IPv4"
        });
        let endpoints = own.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses: Vec<_> = ready
            .map(|endpoint| text(&endpoint["addresses"][0]).to_owned())
            .collect();
        table.row([
            format!("{namespace}/{name}"),
            text(&service["spec"]["clusterIP"]).to_owned(),
            ports.collect::<Vec<_>>().join(","),
            addresses.join(","),
        ]);
    }
    Ok(table)
}

fn port(port: &Value) -> String {
    let number = &port["port"];
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["nodePort"].as_u64() {
        Some(node_port) => format!("{number}:{node_port}/{protocol}"),
        None => format!("{number}/{protocol}"),
    }
}

fn pods_table(pods: &[Value]) -> Table {
    let mut table = Table::new(["POD", "STATUS", "READY", "ADDRESS", "NODE"]);
    for pod in pods {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        let phase = match metadata["deletionTimestamp"].is_null() {
            true => text(&status["phase"]),
            false => "Terminating",
        };
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
        table.row([
            format!(
                "{}/{}",
                text(&metadata["namespace"]),
                text(&metadata["name"])
            ),
            phase.to_owned(),
            if ready { "yes" } else { "no" }.to_owned(),
            text(&status["podIP"]).to_owned(),
            text(&pod["spec"]["nodeName"]).to_owned(),
        ]);
    }
    table
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
