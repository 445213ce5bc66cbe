//! Everything that a link receives goes to another link's queue first.

use super::qdisc::INGRESS_HANDLE;
use super::traffic::{Place, TCA_KIND, TCA_OPTIONS, finished};
use super::{Error, Handle};
use crate::netlink::{AttrWriter, Attrs, NLM_F_CREATE, NLM_F_EXCL};

/// Message types (linux/rtnetlink.h).
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_GETTFILTER: u16 = 46;

/// Priority 1 and, in network order, `ETH_P_ALL` (3, linux/if_ether.h).
const FIRST_OF_ALL: u32 = (1 << 16) | 3_u16.to_be() as u32;

/// Attributes of the filter and of an action (linux/pkt_cls.h), the one of `mirred`
/// (linux/tc_act/tc_mirred.h).
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

/// `struct tc_u32_sel` and one key: flags `TC_U32_TERMINAL`, one key, of which no bit is looked at.
const ANY_PACKET: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes[2] = 1;
    bytes
};

/// `TC_ACT_STOLEN` (linux/pkt_cls.h), `TCA_EGRESS_REDIR` (linux/tc_act/tc_mirred.h).
const STOLEN: u32 = 4;
const EGRESS_REDIRECT: u32 = 1;
/// Bytes of `struct tc_mirred`; where in it stand the action, what it does and to which link.
const MIRRED: usize = 28;
const ACTION: usize = 8;
const KIND: usize = 20;
const TARGET: usize = 24;

impl Handle {
    /// Sends everything that `from` receives through the queue of `to`, from which an `ifb` gives
    /// it back. `from` needs the hook of [`Handle::add_ingress`].
    ///
    /// # Errors
    /// [`Error`]; `EINVAL` without the hook, `ENODEV` without the links, `ENOENT` on a kernel
    /// without `u32` or `mirred`.
    pub fn redirect_received(&mut self, from: u32, to: u32) -> Result<(), Error> {
        let what = format_args!("redirect what link number {from} receives to link number {to}");
        let place = Place {
            link: from,
            handle: 0,
            parent: INGRESS_HANDLE,
            info: FIRST_OF_ALL,
        };
        let mut message = place.begin();
        message
            .string(TCA_KIND, "u32")
            .nested(TCA_OPTIONS, |options| {
                options
                    .bytes(TCA_U32_SEL, &ANY_PACKET)
                    .nested(TCA_U32_ACT, |actions| {
                        actions.nested(1, |action| mirred(action, to));
                    });
            });
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.socket
            .request(&what, RTM_NEWTFILTER, flags, &finished(&what, message)?)
    }

    /// The links to which what a link receives is redirected.
    ///
    /// # Errors
    /// [`Error`].
    pub fn redirects_of_received(&mut self, link: u32) -> Result<Vec<u32>, Error> {
        let what = format_args!("list the filters of what link number {link} receives");
        let place = Place {
            link,
            parent: INGRESS_HANDLE,
            ..Place::default()
        };
        let payload = finished(&what, place.begin())?;
        self.socket
            .dump(&what, RTM_GETTFILTER, &payload, |message, found| {
                let (_, attributes) = Place::read(&what, message)?;
                found.extend(target(attributes));
                Ok(())
            })
    }
}

fn mirred(action: &mut AttrWriter, to: u32) {
    let mut parms = [0; MIRRED];
    for (at, field) in [(ACTION, STOLEN), (KIND, EGRESS_REDIRECT), (TARGET, to)] {
        parms[at..at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    action
        .string(TCA_ACT_KIND, "mirred")
        .nested(TCA_ACT_OPTIONS, |options| {
            options.bytes(TCA_MIRRED_PARMS, &parms);
        });
}

/// The link that a filter's first action redirects to.
fn target(attributes: Attrs<'_>) -> Option<u32> {
    let actions = attributes.find(TCA_OPTIONS)?.nested().find(TCA_U32_ACT)?;
    let first = actions.nested().next()?;
    if first.nested().find(TCA_ACT_KIND)?.text()? != "mirred" {
        return None;
    }
    let options = first.nested().find(TCA_ACT_OPTIONS)?;
    let parms = options.nested().find(TCA_MIRRED_PARMS)?.payload;
    let field = |at: usize| Some(u32::from_ne_bytes(*parms.get(at..)?.first_chunk()?));
    (field(KIND)? == EGRESS_REDIRECT)
        .then(|| field(TARGET))
        .flatten()
}
