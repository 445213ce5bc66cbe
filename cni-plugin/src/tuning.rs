//! The role `tuning`: settings of a pod's namespace and of its interface.
//!
//! What the interface had before is written down, so that DEL can give it back to a namespace
//! that lives on.

mod allowlist;
mod config;
mod saved;

use std::path::Path;

use cni_types::{Attachment, Error, Success};
use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Link, LinkChange};
use nodekit::sysctl::{self, Key};

use crate::call::Call;
use crate::failure;
use crate::rollback::{Rollback, Step};
use allowlist::Allowlist;
use config::{Tuning, data_dir};
use saved::{File, Saved};

/// Tunes the attachment of the result before, which is passed on with what changed.
///
/// # Errors
/// Code 7 for settings that make no sense or are not allowed, or without a result before; else
/// the failed step's, and everything is as it was.
pub(crate) fn add(call: &Call, attachment: &Attachment, netns: &Path) -> Result<Success, Error> {
    let tuning = read_allowed(call, &attachment.ifname)?;
    let mut result = call.chained_result()?;
    let pod = call.open_netns(netns)?;
    let file = File::of(&tuning.data_dir, attachment);
    let mut rollback = Rollback::new(&|_| Ok(()));
    tune(
        &mut rollback,
        &tuning,
        &pod,
        &file,
        call.config.name(),
        attachment,
    )
    .map_err(|reason| rollback.roll_back(reason))?;
    for interface in &mut result.interfaces {
        if interface.name != attachment.ifname || interface.sandbox.is_empty() {
            continue;
        }
        if let Some(mac) = tuning.mac {
            interface.mac = mac.to_string();
        }
        // The reference leaves the old one there.
        if let (Some(told), Some(mtu)) = (&mut interface.mtu, tuning.mtu) {
            *told = mtu;
        }
    }
    Ok(result)
}

fn read_allowed(call: &Call, ifname: &str) -> Result<Tuning, Error> {
    let tuning = Tuning::read(call, ifname)?;
    if let Some(allowlist) = Allowlist::read(Path::new(allowlist::PATH))? {
        allowlist.check(tuning.sysctls.iter().map(|sysctl| sysctl.said.as_str()))?;
    }
    Ok(tuning)
}

fn tune<'a>(
    rollback: &mut Rollback<'a>,
    tuning: &Tuning,
    pod: &'a NetNs,
    file: &'a File,
    network: &str,
    attachment: &Attachment,
) -> Result<(), Error> {
    for sysctl in &tuning.sysctls {
        // Some can only be written.
        let before = visit(pod, || sysctl::read(&sysctl.key))
            .ok()
            .and_then(Result::ok);
        let key = sysctl.key.clone();
        rollback.step_with_undo(
            Step::Sysctl,
            || set(pod, &sysctl.key, &sysctl.value),
            move || before.map_or(Ok(()), |before| set(pod, &key, &before)),
        )?;
    }
    if !tuning.changes_link() {
        return Ok(());
    }
    let link = find(pod, &attachment.ifname)?;
    let before = Saved::before(tuning, &link);
    rollback.step_with_undo(
        Step::Save,
        || file.write(network, &before),
        || file.remove(),
    )?;
    rollback.step(Step::Tune, || {
        let done = change(pod, link.index, &tuning.link_change());
        // The kernel may have done a part of it.
        done.map_err(
            |error| match change(pod, link.index, &before.link_change()) {
                Ok(()) => error,
                Err(left) => error.with_details(format!("changing it back failed: {left}")),
            },
        )
    })
}

fn visit<T>(pod: &NetNs, work: impl FnOnce() -> T) -> Result<T, Error> {
    pod.visit(work).map_err(failure::namespace)
}

fn set(pod: &NetNs, key: &Key, value: &str) -> Result<(), Error> {
    visit(pod, || sysctl::write(key, value))?.map_err(failure::setting)
}

fn find(pod: &NetNs, ifname: &str) -> Result<Link, Error> {
    visit(pod, || Handle::open()?.link_by_name(ifname))?.map_err(failure::kernel)
}

fn change(pod: &NetNs, link: u32, change: &LinkChange<'_>) -> Result<(), Error> {
    visit(pod, || Handle::open()?.change_link(link, change))?.map_err(failure::kernel)
}

/// Gives the interface back what it had, where there still is one, and forgets it.
///
/// # Errors
/// The kernel's refusal; code 5 or 6 for what was written down.
pub(crate) fn del(call: &Call, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
    let file = File::of(&data_dir(&call.config)?, attachment);
    let saved = match file.read() {
        Ok(None) => return Ok(()),
        Ok(Some(saved)) => saved,
        // Said once; after that nothing stands in the way.
        Err(error) => {
            return failure::joined(
                [Some(error), file.remove().err()]
                    .into_iter()
                    .flatten()
                    .collect(),
            );
        }
    };
    if let Some(pod) = call.open_netns_if_any(netns)? {
        let link = visit(&pod, || Handle::open()?.link_by_name(&attachment.ifname))?;
        match link {
            Ok(link) => change(&pod, link.index, &saved.link_change())?,
            Err(error) if error.errno() == Some(Errno::ENODEV) => {}
            Err(error) => return Err(failure::kernel(error)),
        }
    }
    file.remove()
}

/// Compares namespace and interface with the configuration.
///
/// # Errors
/// As [`add`] for the configuration; code 102 naming what differs.
pub(crate) fn check(call: &Call, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
    let ifname = &attachment.ifname;
    let tuning = read_allowed(call, ifname)?;
    call.chained_result()?;
    let pod = call.open_netns(netns)?;
    for sysctl in &tuning.sysctls {
        let held = match visit(&pod, || sysctl::read(&sysctl.key))? {
            Ok(held) => held,
            // It can only be written.
            Err(error) if error.errno() == Some(Errno::EACCES) => continue,
            Err(error) => return Err(failure::setting(error)),
        };
        // The kernel puts tabs between several numbers.
        if !held.split_whitespace().eq(sysctl.value.split_whitespace()) {
            let message = format!("{} is {held:?} instead of {:?}", sysctl.key, sysctl.value);
            return Err(Error::new(failure::CHANGED, message));
        }
    }
    if !tuning.changes_link() {
        return Ok(());
    }
    let differs = tuning.differences(&find(&pod, ifname)?);
    if differs.is_empty() {
        return Ok(());
    }
    let message = format!("{ifname} has {}", differs.join(", "));
    Err(Error::new(failure::CHANGED, message))
}

/// Sees whether the configuration can be used.
///
/// # Errors
/// As [`add`] for the configuration.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    read_allowed(call, "eth0").map(drop)
}

/// Forgets what attachments to this network had that are not among the kept.
///
/// # Errors
/// Code 7 without a list of attachments; 5 for what could not be removed.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept = call.config.valid_attachments()?;
    saved::keep_only(&data_dir(&call.config)?, call.config.name(), &kept)
}
