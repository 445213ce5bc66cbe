//! The network's configuration that `install` writes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cni_types::{Args, Cidr, Error, NetworkList, PluginConfig, Version, check_network_name};
use serde_json::{Map, Value, json};

use super::place::failed;
use super::{CONFLIST, PROGRAM, refused};
use crate::bridge;
use crate::call::Call;
use crate::command_line::Given;

/// What the runtime may ask for, and passes as `runtimeConfig`.
const CAPABILITIES: [&str; 6] = ["bandwidth", "dns", "ipRanges", "ips", "mac", "portMappings"];

/// What the runtime may choose among: the newest it knows.
const VERSIONS: [Version; 3] = [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

/// The file's path and content; `None` where no folder is given.
///
/// # Errors
/// What is missing or wrong, as ADD would say it.
pub(super) fn file(given: &Given) -> Result<Option<(PathBuf, String)>, Error> {
    let Some(folder) = given.path("--conf-dir") else {
        if let Some(option) = ["--pod-cidr", "--name", "--bridge", "--mtu"]
            .into_iter()
            .find(|option| given.is_on(option))
        {
            return Err(refused(format!("{option} needs --conf-dir")));
        }
        return Ok(None);
    };
    let Some(cidrs) = given.text("--pod-cidr")? else {
        let accepted = "accepted is as 10.244.1.0/24 or 10.244.1.0/24,fd00:10:244:1::/64";
        return Err(refused(format!("--pod-cidr: missing; {accepted}")));
    };
    let name = given.text("--name")?.unwrap_or("causeway");
    check_network_name(name).map_err(|error| error.at("--name"))?;
    let mut plugin = plugin(&subnets(cidrs)?, given.text("--bridge")?.unwrap_or("cni0"));
    if let Some(bytes) = given.text("--mtu")? {
        let bytes: u32 = bytes
            .parse()
            .map_err(|_| refused(format!("--mtu: {bytes:?}; accepted is a number of bytes")))?;
        plugin["mtu"] = bytes.into();
    }
    let list = json!({
        "cniVersion": Version::V1_0_0.as_str(),
        "cniVersions": VERSIONS.map(Version::as_str),
        "name": name,
        "plugins": [plugin],
    });
    check(&list)?;
    Ok(Some((folder.join(CONFLIST), format!("{list:#}\n"))))
}

fn subnets(text: &str) -> Result<Vec<Cidr>, Error> {
    let parse = |text: &str| {
        let accepted = "accepted is a subnet, as 10.244.1.0/24";
        text.parse()
            .map_err(|_| refused(format!("--pod-cidr: {text:?}; {accepted}")))
    };
    let subnets: Vec<Cidr> = text.split(',').map(parse).collect::<Result<_, _>>()?;
    let of_ipv4 = subnets.iter().filter(|c| c.address().is_ipv4()).count();
    if of_ipv4 > 1 || subnets.len() - of_ipv4 > 1 {
        let accepted = "accepted is one subnet of each family";
        return Err(refused(format!("--pod-cidr: {text:?}; {accepted}")));
    }
    Ok(subnets)
}

fn plugin(subnets: &[Cidr], bridge: &str) -> Value {
    let ranges: Vec<_> = subnets
        .iter()
        .map(|subnet| json!([{"subnet": subnet.to_string()}]))
        .collect();
    let capabilities: Map<_, _> = CAPABILITIES
        .map(|name| (name.to_owned(), true.into()))
        .into_iter()
        .collect();
    json!({
        "type": PROGRAM,
        "bridge": bridge,
        "isDefaultGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": ranges},
        "capabilities": capabilities,
    })
}

/// Reads the list as a runtime does, and its plugin as ADD does.
fn check(list: &Value) -> Result<(), Error> {
    let list = NetworkList::decode(list.to_string().as_bytes())?;
    for plugin in &list.plugins {
        let request = list.request(plugin, None, &Map::new());
        bridge::check_config(&Call {
            config: PluginConfig::decode(request.to_string().as_bytes())?,
            version: list.version,
            args: Args::default(),
            plugin_path: Vec::new(),
            netns_override: false,
        })?;
    }
    Ok(())
}

/// Whether a network's file is one that `install` wrote, perhaps edited since.
pub(super) fn is_ours(path: &Path) -> Result<bool, Error> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        content => content.map_err(failed("read", path))?,
    };
    let list = NetworkList::decode(&content);
    Ok(list.is_ok_and(|list| list.plugins.iter().any(|p| p.plugin_type == PROGRAM)))
}
