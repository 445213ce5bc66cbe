//! The role `firewall`: which connections reach a pod through the node.
//!
//! What a policy refuses is dropped by nf_tables, whatever else would accept it. A table that
//! accepts can't keep another from dropping, so that the policy `open` is nothing at all there;
//! on a node whose iptables drop what they don't know the backend `iptables` makes pods known to
//! them.

mod config;
mod exceptions;
mod policy;

use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Code, Error, Success};
use nodekit::route::Handle;
use nodekit::xtables::Table;

use crate::call::Call;
use crate::identity::HostEnd;
use crate::rollback::{Rollback, Step};
use crate::tables::{Entries, Owner, Tables};
use crate::{failure, iptables, port};
use config::{Backend, Config};
use exceptions::Exceptions;

pub(crate) use policy::{Ingress, Policy, enter, keys};

/// Has the attachment of the result before, which is passed on, protected by the policy.
///
/// # Errors
/// Code 2 or 7 for the configuration, or without a result before; else the failed step's, and
/// nothing is left of it.
pub(crate) fn add(call: &Call, attachment: &Attachment, netns: &Path) -> Result<Success, Error> {
    let config = Config::read(&call.config)?;
    let result = call.chained_result()?;
    let wanted = wanted(call, &config, attachment, netns, &result)?;
    let mut rollback = Rollback::new(&|_| Ok(()));
    apply(&mut rollback, &config, &wanted, &addresses(&result))
        .map_err(|reason| rollback.roll_back(reason))?;
    Ok(result)
}

fn apply(
    rollback: &mut Rollback<'_>,
    config: &Config,
    wanted: &Entries,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    if !wanted.is_empty() {
        let (owner, keys) = (wanted.owner().clone(), wanted.keys());
        rollback.step_with_undo(
            Step::Tables,
            || Tables::open()?.add(wanted),
            move || Tables::open()?.remove(&owner, &keys).map(drop),
        )?;
    }
    if let Backend::Iptables { admin_chain } = &config.backend {
        rollback.step(Step::Iptables, || {
            Exceptions::of(wanted.owner()).add(admin_chain, addresses)
        })?;
    }
    Ok(())
}

/// What the policy has in nf_tables.
fn wanted(
    call: &Call,
    config: &Config,
    attachment: &Attachment,
    netns: &Path,
    result: &Success,
) -> Result<Entries, Error> {
    let mut entries = Entries::new(Owner::new(call.config.name(), attachment));
    if config.policy == Policy::Open {
        return Ok(entries);
    }
    let pod = call.open_netns(netns)?;
    let mut route = Handle::open().map_err(failure::kernel)?;
    let bridge = bridge_of(&mut route, call, result)?;
    let port = port::of_pod(&mut route, &pod, &attachment.ifname, result)?;
    let ingress = Ingress {
        policy: config.policy,
        bridge,
        port: &port.name,
        addresses: &addresses(result),
    };
    enter(&mut entries, &ingress);
    Ok(entries)
}

/// The bridge that the result before begins with, as in the reference, which takes whatever
/// stands there for one.
fn bridge_of<'a>(route: &mut Handle, call: &Call, result: &'a Success) -> Result<&'a str, Error> {
    let name = result.interfaces.first().map_or("", |first| &first.name);
    let link = (!name.is_empty()).then(|| route.link_by_name(name));
    match link {
        Some(Ok(link)) if link.kind.as_deref() == Some("bridge") => Ok(name),
        _ => {
            let expected = format!(
                "open, unless the first interface of prevResult is a bridge, which {name:?} is not"
            );
            Err(call.config.object().invalid("ingressPolicy", &expected))
        }
    }
}

fn addresses(result: &Success) -> Vec<IpAddr> {
    result.ips.iter().map(|ip| ip.address.address()).collect()
}

/// Takes away whatever the attachment has, with or without its namespace.
///
/// # Errors
/// What could not be taken away, all of it.
pub(crate) fn del(call: &Call, attachment: &Attachment) -> Result<(), Error> {
    let owner = Owner::new(call.config.name(), attachment);
    let result = call.config.prev_result(call.version).ok().flatten();
    let addresses = result.as_ref().map(addresses).unwrap_or_default();
    let config = Config::read(&call.config).ok();
    let mut errors = Vec::new();
    // Also those of before the configuration was changed, or of the reference.
    let mut exceptions = matches!(&config, Some(c) if c.backend != Backend::Nftables);
    match Tables::open() {
        Ok(mut tables) => {
            errors.extend(remove(&mut tables, &owner, result.as_ref()).err());
            exceptions |= tables.iptables_have(Table::Filter, exceptions::CHAIN);
        }
        // A kernel without the tables has nothing in them.
        Err(error) if config.as_ref().is_some_and(|c| c.policy != Policy::Open) => {
            errors.push(error);
        }
        Err(_) => {}
    }
    if exceptions {
        errors.extend(Exceptions::of(&owner).remove(&addresses).err());
    }
    failure::joined(errors)
}

/// By the keys that follow from the result; where there is none, by looking at everything.
fn remove(tables: &mut Tables, owner: &Owner, result: Option<&Success>) -> Result<(), Error> {
    let Some(result) = result else {
        return tables.remove_all(owner, Some(&policy::SETS)).map(drop);
    };
    let own = HostEnd::of(owner.attachment()).name;
    let ports = port::on_host(result).chain([own.as_str()]);
    let keys = keys(&addresses(result), ports);
    tables.remove(owner, &keys).map(drop)
}

/// Sees whether everything is as [`add`] left it.
///
/// # Errors
/// As [`add`] for the configuration; code 102 naming what is gone.
pub(crate) fn check(call: &Call, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
    let config = Config::read(&call.config)?;
    let result = call.chained_result()?;
    let wanted = wanted(call, &config, attachment, netns, &result)?;
    if !wanted.is_empty() {
        Tables::open()?.check(&wanted)?;
    }
    match &config.backend {
        Backend::Iptables { admin_chain } => {
            Exceptions::of(wanted.owner()).check(admin_chain, &addresses(&result))
        }
        Backend::Nftables => Ok(()),
    }
}

/// Sees whether the configuration can be used on this node.
///
/// # Errors
/// As [`add`] for the configuration; code 50 where a backend is missing.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let config = Config::read(&call.config)?;
    let not_available = |error: Error| Error::new(Code::NOT_AVAILABLE, error.to_string());
    if config.policy != Policy::Open {
        Tables::open()
            .and_then(|mut tables| tables.probe())
            .map_err(not_available)?;
    }
    match config.backend {
        Backend::Iptables { .. } => iptables::probe().map_err(not_available),
        Backend::Nftables => Ok(()),
    }
}

/// Takes away what attachments to this network have that are not among the kept.
///
/// # Errors
/// Code 7 without a list of attachments; else what could not be taken away, all of it.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept = call.config.valid_attachments()?;
    let network = call.config.name();
    let mut seen = false;
    let tables = Tables::open().and_then(|mut tables| {
        seen = tables.iptables_have(Table::Filter, exceptions::CHAIN);
        tables.keep_only(network, &kept)
    });
    let backend = Config::read(&call.config).map(|config| config.backend);
    let rules = match backend {
        Ok(Backend::Iptables { .. }) => exceptions::keep_only(network, &kept),
        Ok(Backend::Nftables) if seen => exceptions::keep_only(network, &kept),
        Ok(Backend::Nftables) => Ok(()),
        Err(error) => Err(error),
    };
    failure::joined(tables.err().into_iter().chain(rules.err()).collect())
}
