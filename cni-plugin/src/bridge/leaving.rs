//! What goes from the kernel with an attachment: of several attachments together where their DELs
//! come at the same time, as the kernel waits as long for one link as for many.

use std::iter;
use std::net::IpAddr;

use cni_types::{Args, Attachment, Error, PluginConfig, Supported};
use nodekit::Errno;
use nodekit::route::Handle;
use serde_json::{Value, json};

use super::wanted;
use crate::call::Call;
use crate::identity::HostEnd;
use crate::tables::Tables;
use crate::turn::{Mine, Turn};
use crate::{bandwidth, failure, ipam, masquerade, pod, portmap};

/// An attachment that is to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving<'a> {
    pub(super) call: &'a Call,
    pub(super) attachment: &'a Attachment,
    pub(super) addresses: &'a [IpAddr],
}

/// The same, as another process asks for it.
#[derive(Debug)]
struct Asked {
    call: Call,
    attachment: Attachment,
    addresses: Vec<IpAddr>,
}

impl Leaving<'_> {
    /// Takes the attachment's elements and links away, or has it done by a process that does so
    /// for other attachments.
    pub(super) fn leave(&self) -> Result<(), Error> {
        let folder = ipam::notes(self.call);
        match Turn::take(folder.as_deref(), || self.request()) {
            Turn::Mine(mine) => self.leave_with_others(mine),
            Turn::Done => Ok(()),
        }
    }

    fn leave_with_others(&self, mine: Mine) -> Result<(), Error> {
        let asked: Vec<_> = mine
            .requests()
            .filter_map(|text| Some((text.to_owned(), Asked::read(text)?)))
            .collect();
        let others = asked.iter().map(|(_, asked)| asked.leaving());
        let mut outcomes = take_away(&iter::once(*self).chain(others).collect::<Vec<_>>());
        let own = outcomes.remove(0);
        let outcomes = asked.iter().zip(outcomes);
        let done = outcomes.filter_map(|((text, _), errors)| errors.is_empty().then_some(text));
        mine.end(done.map(String::as_str));
        failure::joined(own)
    }

    /// In one line, for [`Asked::read`].
    fn request(&self) -> String {
        let Attachment {
            container_id,
            ifname,
        } = self.attachment;
        let request = json!({
            "containerID": container_id,
            "ifname": ifname,
            "args": self.call.args.to_string(),
            "addresses": self.addresses,
            "config": self.call.config.to_string(),
        });
        request.to_string()
    }

    /// The links: the host's end of the pair, by which the pair goes, and the device that limits
    /// the pod's traffic.
    fn links(&self, route: &mut Handle) -> Result<Vec<u32>, Error> {
        // What stands in the way of the first is told by whoever asked.
        let port = pod::find_host_end(route, &HostEnd::of(self.attachment)).unwrap_or_default();
        // Under the name `bridge` limits are another plugin's.
        let device = if self.call.is_combined() {
            bandwidth::find(route, self.call.config.name(), self.attachment)?
        } else {
            None
        };
        let links = port.iter().chain(&device);
        Ok(links.map(|link| link.index).collect())
    }
}

impl Asked {
    fn read(request: &str) -> Option<Self> {
        let request: Value = serde_json::from_str(request).ok()?;
        let text = |key| request.get(key).and_then(Value::as_str);
        let config = PluginConfig::decode(text("config")?.as_bytes()).ok()?;
        let addresses = request.get("addresses")?.as_array()?.iter();
        Some(Self {
            call: Call {
                version: config.version(Supported::ALL).ok()?,
                config,
                args: Args::parse(text("args")?).ok()?,
                plugin_path: Vec::new(),
                netns_override: false,
            },
            attachment: Attachment::new(text("containerID")?, text("ifname")?).ok()?,
            addresses: addresses
                .map(|address| address.as_str()?.parse().ok())
                .collect::<Option<_>>()?,
        })
    }

    fn leaving(&self) -> Leaving<'_> {
        Leaving {
            call: &self.call,
            attachment: &self.attachment,
            addresses: &self.addresses,
        }
    }
}

/// Takes away what attachments have in nf_tables, and their links; gives what failed of each.
fn take_away(all: &[Leaving<'_>]) -> Vec<Vec<Error>> {
    // The tables go first and their connection stays open: what the kernel has to free of them is
    // freed while it deletes the links, which takes longer.
    let mut tables = Tables::open();
    let mut errors = Vec::new();
    for leaving in all {
        let Leaving {
            call,
            attachment,
            addresses,
        } = leaving;
        let left = match &mut tables {
            Ok(tables) => {
                let done = [
                    wanted::remove(tables, call, attachment, addresses),
                    masquerade::remove_unasked(tables, call, attachment, addresses),
                    // Under the name `bridge` ports are another plugin's.
                    match call.is_combined() {
                        true => portmap::remove_unasked(tables, call, attachment, addresses),
                        false => Ok(()),
                    },
                ];
                failure::joined(done.into_iter().filter_map(Result::err).collect())
            }
            // A kernel without the tables has nothing in them.
            Err(error) if masquerade::needs_tables(call) => Err(error.clone()),
            Err(_) => Ok(()),
        };
        errors.push(left.err().into_iter().collect());
    }
    match Handle::open() {
        Ok(mut route) => delete_links(&mut route, all, &mut errors),
        Err(error) => {
            let error = failure::kernel(error);
            errors.iter_mut().for_each(|of| of.push(error.clone()));
        }
    }
    errors
}

fn delete_links(route: &mut Handle, all: &[Leaving<'_>], errors: &mut [Vec<Error>]) {
    let mut links = Vec::new();
    for (leaving, errors) in all.iter().zip(errors.iter_mut()) {
        links.push(leaving.links(route).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        }));
    }
    match route.delete_links_together(&links.concat()) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => {}
        _ => return,
    }
    // One stands in the way of all: each for itself, then.
    for (links, errors) in links.iter().zip(errors) {
        for link in links {
            match route.delete_link(*link) {
                Err(error) if error.errno() != Some(Errno::ENODEV) => {
                    errors.push(failure::kernel(error));
                }
                _ => {}
            }
        }
    }
}
