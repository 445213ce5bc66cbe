//! Queue disciplines: a token bucket for what a link sends, and the hook for what it receives.

mod bucket;

pub use bucket::{Ticks, TicksError, TokenBucket};

use super::traffic::{Place, TCA_KIND, TCA_OPTIONS, finished};
use super::{Error, Handle};
use crate::netlink::{Attrs, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use nix::errno::Errno;
use std::fmt::Display;

/// Message types (linux/rtnetlink.h).
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;

/// Parents that stand for a link's two sides (`TC_H_ROOT`, `TC_H_INGRESS`, linux/pkt_sched.h).
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;

/// The handles that iproute2 and the CNI's reference plugins give: `1:` and `ffff:`.
const BUCKET_HANDLE: u32 = 0x0001_0000;
pub(super) const INGRESS_HANDLE: u32 = 0xffff_0000;

/// Statistics, and the parts of them wanted here (`TCA_STATS_BASIC` and `TCA_STATS_QUEUE`,
/// linux/gen_stats.h).
const TCA_STATS2: u16 = 7;
const STATS_BASIC: u16 = 1;
const STATS_QUEUE: u16 = 3;

/// A link's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the link sends.
    Outgoing,
    /// What the link receives.
    Incoming,
}

impl Side {
    fn parent(self) -> u32 {
        match self {
            Self::Outgoing => TC_H_ROOT,
            Self::Incoming => TC_H_INGRESS,
        }
    }
}

/// A queue discipline as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// Its name, as `tbf`, `ingress` or `noqueue`.
    pub kind: String,
    /// What it lets through, of a `tbf`.
    pub bucket: Option<TokenBucket>,
    /// How many bytes it has let through.
    pub bytes: u64,
    /// How many packets it has dropped.
    pub drops: u32,
}

impl Handle {
    /// Lets a link send no faster than the bucket says. `EEXIST` when it has a discipline of its
    /// own already.
    ///
    /// # Errors
    /// [`Error`]; `EINVAL` for a bucket without any depth, `ENOENT` on a kernel without `tbf`.
    pub fn add_token_bucket(&mut self, link: u32, bucket: &TokenBucket) -> Result<(), Error> {
        let what = format_args!("limit link number {link} to {} bytes/s", bucket.rate);
        let place = Place {
            link,
            handle: BUCKET_HANDLE,
            parent: TC_H_ROOT,
            info: 0,
        };
        let mut message = place.begin();
        message
            .string(TCA_KIND, "tbf")
            .nested(TCA_OPTIONS, |options| bucket.write(options));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.socket
            .request(&what, RTM_NEWQDISC, flags, &finished(&what, message)?)
    }

    /// Gives a link the hook by which filters see what it receives. `EEXIST` when it has it, or
    /// `clsact`, already.
    ///
    /// # Errors
    /// [`Error`]; `ENOENT` on a kernel without it.
    pub fn add_ingress(&mut self, link: u32) -> Result<(), Error> {
        let what = format_args!("hook what link number {link} receives");
        self.add_hook(&what, link, "ingress")
    }

    /// Gives a link the hooks by which filters see what it receives and what it sends (tc(8),
    /// `clsact`). `EEXIST` when it has them, or `ingress`, already.
    ///
    /// # Errors
    /// [`Error`]; `ENOENT` on a kernel without them.
    pub fn add_clsact(&mut self, link: u32) -> Result<(), Error> {
        let what = format_args!("hook what link number {link} receives and sends");
        self.add_hook(&what, link, "clsact")
    }

    fn add_hook(&mut self, what: &dyn Display, link: u32, kind: &str) -> Result<(), Error> {
        let place = Place {
            link,
            handle: INGRESS_HANDLE,
            parent: TC_H_INGRESS,
            info: 0,
        };
        let mut message = place.begin();
        message.string(TCA_KIND, kind);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.socket
            .request(what, RTM_NEWQDISC, flags, &finished(what, message)?)
    }

    /// The links that have such hooks.
    ///
    /// # Errors
    /// [`Error`].
    pub fn hooked_links(&mut self) -> Result<Vec<u32>, Error> {
        let what = "list queue disciplines";
        let payload = finished(&what, Place::default().begin())?;
        self.socket
            .dump(&what, RTM_GETQDISC, &payload, |message, found| {
                let (place, _) = Place::read(&what, message)?;
                if place.handle == INGRESS_HANDLE {
                    found.push(place.link);
                }
                Ok(())
            })
    }

    /// The discipline of a link's side; `None` where there is none.
    ///
    /// # Errors
    /// [`Error`]; `ENODEV` when there is no such link.
    pub fn qdisc(&mut self, link: u32, side: Side) -> Result<Option<Qdisc>, Error> {
        let what = format_args!("look up the discipline of what link number {link} has {side:?}");
        let place = Place {
            link,
            parent: side.parent(),
            ..Place::default()
        };
        let payload = finished(&what, place.begin())?;
        let mut found = None;
        let asked = self
            .socket
            // The answer is a notification, which comes back only to who asks for it.
            .get(&what, RTM_GETQDISC, NLM_F_ECHO, &payload, |message| {
                let (_, attributes) = Place::read(&what, message)?;
                found = read(attributes);
                Ok(())
            });
        match asked {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Takes away the discipline of a link's side, with its filters. `ENOENT` or `EINVAL` when
    /// there is none but the kernel's own, `ENODEV` when there is no such link.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_qdisc(&mut self, link: u32, side: Side) -> Result<(), Error> {
        let what = format_args!("take away the discipline of what link number {link} has {side:?}");
        let place = Place {
            link,
            parent: side.parent(),
            ..Place::default()
        };
        let payload = finished(&what, place.begin())?;
        self.socket.request(&what, RTM_DELQDISC, 0, &payload)
    }
}

fn read(attributes: Attrs<'_>) -> Option<Qdisc> {
    let kind = attributes.clone().find(TCA_KIND)?.text()?.to_owned();
    let bucket = (kind == "tbf")
        .then(|| attributes.clone().find(TCA_OPTIONS))
        .flatten()
        .and_then(|options| TokenBucket::read(options.nested()));
    let statistics = attributes.find(TCA_STATS2);
    let part = |kind| statistics.and_then(|all| all.nested().find(kind));
    let bytes = part(STATS_BASIC).and_then(|basic| basic.payload.first_chunk().copied());
    // struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits.
    let drops = part(STATS_QUEUE)
        .and_then(|queue| queue.payload.get(8..)?.first_chunk().copied())
        .map_or(0, u32::from_ne_bytes);
    Some(Qdisc {
        kind,
        bucket,
        bytes: bytes.map_or(0, u64::from_ne_bytes),
        drops,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::{anything, attrs};

    proptest! {
        #[test]
        fn random_attributes_never_panic(attributes in anything::attributes()) {
            let _ = read(attrs(&attributes));
        }
    }
}
