//! The role `portmap`: ports of the host that lead to ports of a pod. Chained behind the plugin
//! that gave the pod its addresses.

mod condition;
mod config;
mod listed;
mod localhost;
mod plan;
mod rules;
mod stale;

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Error, PortMapping, Protocol, Success};
use nodekit::route::Handle;
use nodekit::xtables::Table;

use crate::call::Call;
use crate::tables::{Entries, Key, Owner, Removed, Tables};
use crate::{failure, iptables};
pub(crate) use config::Config;
pub(crate) use listed::{Listed, listed};
pub(crate) use localhost::prepare;
pub(crate) use plan::enter;
use rules::Rules;
pub(crate) use stale::forget_before;

/// Has the runtime's host ports lead to the pod; gives the result before as it is.
///
/// # Errors
/// Code 2, 6 or 7 for the configuration; 101 for a port that another pod holds; 100 with the
/// kernel's refusal. Nothing is left then.
pub(crate) fn add(call: &Call, attachment: &Attachment) -> Result<Success, Error> {
    let config = Config::read(call)?;
    let result = call.chained_result()?;
    let Some(config) = config else {
        return Ok(result);
    };
    let pod = Chained::read(&result, attachment);
    let mut route = Handle::open().map_err(failure::kernel)?;
    let guarded = prepare(&mut route, &config, &pod.addresses)?;
    let network = call.config.name();
    if let Some(options) = &config.iptables {
        let rules = Rules::new(network, attachment);
        rules.add(&config, options, &pod.addresses)?;
        if let Err(error) = forget_before(&mut route, &config, &pod.addresses) {
            rules.remove()?;
            return Err(error);
        }
        return Ok(result);
    }
    let owner = Owner::new(network, attachment).with_link(pod.host_end);
    let mut entries = Entries::new(owner);
    let link = guarded.as_deref();
    enter(&mut entries, network, &config, &pod.addresses, link);
    if entries.is_empty() {
        return Ok(result);
    }
    let mut tables = Tables::open()?;
    tables.add(&entries)?;
    if let Err(error) = forget_before(&mut route, &config, &pod.addresses) {
        tables.remove(entries.owner(), &entries.keys())?;
        return Err(error);
    }
    Ok(result)
}

/// Takes the pod's host ports away, whatever is known of them.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn del(call: &Call, attachment: &Attachment) -> Result<(), Error> {
    let result = call.config.prev_result(call.version).ok().flatten();
    let addresses = match &result {
        Some(result) => Chained::read(result, attachment).addresses,
        None => Vec::new(),
    };
    let addresses: Vec<_> = addresses.iter().map(|cidr| cidr.address()).collect();
    let ports = told(call);
    let owner = Owner::new(call.config.name(), attachment);
    let mut tables = Tables::open()?;
    let removed = if addresses.is_empty() || ports.is_empty() {
        tables.remove_all(&owner, Some(&plan::SETS))?
    } else {
        tables.remove(&owner, &keys(&ports, &addresses))?
    };
    forget_after(&removed, &addresses)?;
    if config::is_iptables(call).unwrap_or_default() {
        return remove_rules(call, attachment, &addresses);
    }
    remove_unasked(&mut tables, call, attachment, &addresses)
}

/// Takes away the rules of iptables that an attachment has although the configuration asks for
/// none: it was changed meanwhile, or the reference made them.
///
/// # Errors
/// Code 100 with what iptables said, or the kernel's refusal.
pub(crate) fn remove_unasked(
    tables: &mut Tables,
    call: &Call,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let chain = Rules::new(call.config.name(), attachment).chain();
    match tables.iptables_have(Table::Nat, &chain) {
        true => remove_rules(call, attachment, addresses),
        false => Ok(()),
    }
}

fn remove_rules(call: &Call, attachment: &Attachment, addresses: &[IpAddr]) -> Result<(), Error> {
    Rules::new(call.config.name(), attachment).remove()?;
    let udp = told(call).into_iter();
    let udp = udp.filter(|port| port.protocol == Protocol::Udp);
    stale::forget_after(&udp.map(|port| port.host_port).collect(), addresses)
}

/// Sees whether every host port still leads to the pod.
///
/// # Errors
/// Code 7 without the result before, 102 naming the port that doesn't.
pub(crate) fn check(call: &Call, attachment: &Attachment) -> Result<(), Error> {
    let config = Config::read(call)?;
    let result = call.chained_result()?;
    let Some(config) = config else {
        return Ok(());
    };
    let addresses = Chained::read(&result, attachment).addresses;
    let network = call.config.name();
    if let Some(options) = &config.iptables {
        return Rules::new(network, attachment).check(&config, options, &addresses);
    }
    let mut entries = Entries::new(Owner::new(network, attachment));
    enter(&mut entries, network, &config, &addresses, None);
    Tables::open()?.check(&entries)
}

/// Sees whether ADD could be served.
///
/// # Errors
/// Code 2, 6 or 7 for the configuration, 50 when nf_tables does not answer.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    Config::read(call)?;
    let answers = match config::is_iptables(call)? {
        true => iptables::probe(),
        false => Tables::open().and_then(|mut tables| tables.probe()),
    };
    answers.map_err(|error| Error {
        code: cni_types::Code::NOT_AVAILABLE,
        ..error
    })
}

/// Takes away what no attachment that the runtime still knows has in the tables.
///
/// # Errors
/// Code 7 without a list of attachments; 100 with the kernel's refusal.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept = call.config.valid_attachments()?;
    let network = call.config.name();
    let mut seen = false;
    let tables = Tables::open().and_then(|mut tables| {
        seen = tables.iptables_have_any(Table::Nat, rules::CHAIN);
        tables.keep_only(network, &kept)
    });
    let rules = match config::is_iptables(call) {
        Ok(asked) if asked || seen => rules::keep_only(network, &kept),
        other => other.map(drop),
    };
    failure::joined(tables.err().into_iter().chain(rules.err()).collect())
}

/// Where the elements of an attachment are, whose ports are known.
pub(crate) fn keys(ports: &[PortMapping], addresses: &[IpAddr]) -> Vec<Key> {
    let pods = plan::keys_of_pods(addresses);
    plan::keys_of_ports(ports)
        .chain(plan::keys_of_connections(ports, addresses))
        .chain(pods)
        .collect()
}

/// Whether an attachment has host ports.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn has_any(
    tables: &mut Tables,
    owner: &Owner,
    addresses: &[IpAddr],
) -> Result<bool, Error> {
    let keys: Vec<_> = plan::keys_of_pods(addresses).collect();
    tables.holds_any(owner, &keys)
}

/// The ports that the runtime names at DEL, where that can be read.
pub(crate) fn told(call: &Call) -> Vec<PortMapping> {
    let runtime = call.config.runtime();
    runtime.map(|told| told.port_mappings).unwrap_or_default()
}

/// Forgets the connections of UDP by ports that were taken away.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn forget_after(removed: &[Removed], addresses: &[IpAddr]) -> Result<(), Error> {
    let ports: BTreeSet<_> = removed.iter().filter_map(plan::udp_port).collect();
    if ports.is_empty() {
        return Ok(());
    }
    stale::forget_after(&ports, addresses)
}

/// What the result before says of the pod.
struct Chained {
    addresses: Vec<Cidr>,
    /// The host's end of its link, by which it can be seen whether it is alive.
    host_end: Option<String>,
}

impl Chained {
    fn read(result: &Success, attachment: &Attachment) -> Self {
        let is_pods = |index: usize| {
            let interface = result.interfaces.get(index);
            interface
                .is_none_or(|found| found.name == attachment.ifname && !found.sandbox.is_empty())
        };
        let ips = result.ips.iter();
        let addresses = ips
            .filter(|ip| ip.interface.is_none_or(is_pods))
            .map(|ip| ip.address)
            .collect();
        // Plugins that make a pair list the host's end right before the pod's.
        let mut pairs = result.interfaces.windows(2);
        let pair = pairs.find(|pair| {
            pair[0].sandbox.is_empty()
                && !pair[1].sandbox.is_empty()
                && pair[1].name == attachment.ifname
        });
        Self {
            addresses,
            host_end: pair.map(|pair| pair[0].name.clone()),
        }
    }
}
