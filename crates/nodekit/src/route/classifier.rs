//! eBPF programs as filters of what a link receives or sends (tc-bpf(8); constants:
//! linux/pkt_cls.h, linux/rtnetlink.h).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::qdisc::Side;
use super::redirect::{RTM_GETTFILTER, RTM_NEWTFILTER};
use super::traffic::{Place, TCA_KIND, TCA_OPTIONS, finished};
use super::{Error, Handle};
use crate::netlink::{Attrs, NLM_F_CREATE};

const RTM_DELTFILTER: u16 = 45;

/// The attributes of a filter that is a program, and the flag that what the program returns is the
/// verdict.
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// `ETH_P_ALL` in network order (linux/if_ether.h).
const EVERY_PROTOCOL: u32 = 3_u16.to_be() as u32;

/// A filter that is an eBPF program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classifier {
    /// What whoever put it there calls it.
    pub name: String,
    /// Filters are asked in this order, the lowest number first.
    pub priority: u16,
    /// Its number among those of its priority.
    pub handle: u32,
}

/// A filter as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its kind, as `bpf` or `u32`.
    pub kind: String,
    /// What it is, where it is a program that has a name, and the program's number (`bpf_prog_info`,
    /// linux/bpf.h).
    pub classifier: Option<(Classifier, u32)>,
}

/// Where filters of a side hang (`TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`,
/// linux/pkt_sched.h). The discipline `ingress` takes the first one, too.
const fn parent(side: Side) -> u32 {
    match side {
        Side::Incoming => 0xffff_fff2,
        Side::Outgoing => 0xffff_fff3,
    }
}

fn place(link: u32, side: Side, classifier: &Classifier) -> Place {
    Place {
        link,
        handle: classifier.handle,
        parent: parent(side),
        info: (u32::from(classifier.priority) << 16) | EVERY_PROTOCOL,
    }
}

impl Handle {
    /// Has `program`, of the type `BPF_PROG_TYPE_SCHED_CLS`, decide on what a link receives or
    /// sends. It takes the place of one of the same priority and handle in one go: no packet passes
    /// between them. The link needs the hook of [`Handle::add_clsact`].
    ///
    /// # Errors
    /// [`Error`]; `EINVAL` without the hook, `ENODEV` without the link, `ENOENT` on a kernel
    /// without `cls_bpf`.
    pub fn set_classifier(
        &mut self,
        link: u32,
        side: Side,
        classifier: &Classifier,
        program: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let Classifier { name, .. } = classifier;
        let what = format_args!("have program {name} see what link number {link} has {side:?}");
        let mut message = place(link, side, classifier).begin();
        message
            .string(TCA_KIND, "bpf")
            .nested(TCA_OPTIONS, |options| {
                options
                    .bytes(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
                    .string(TCA_BPF_NAME, name)
                    .u32_ne(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
            });
        let payload = finished(&what, message)?;
        self.socket
            .request(&what, RTM_NEWTFILTER, NLM_F_CREATE, &payload)
    }

    /// The filters of a link's side, whatever they are; none where there is no hook for them.
    ///
    /// # Errors
    /// [`Error`].
    pub fn filters(&mut self, link: u32, side: Side) -> Result<Vec<Filter>, Error> {
        let what = format_args!("list the filters of what link number {link} has {side:?}");
        let place = Place {
            link,
            parent: parent(side),
            ..Place::default()
        };
        let payload = finished(&what, place.begin())?;
        self.socket
            .dump(&what, RTM_GETTFILTER, &payload, |message, found| {
                let (place, attributes) = Place::read(&what, message)?;
                // Without a handle it is the head of a priority, whose filters follow.
                if place.handle != 0 {
                    found.extend(read(place, attributes));
                }
                Ok(())
            })
    }

    /// Takes such a filter away. `ENOENT` when it is not there, `EINVAL` without a hook, `ENODEV`
    /// when there is no such link.
    ///
    /// # Errors
    /// [`Error`].
    pub fn delete_classifier(
        &mut self,
        link: u32,
        side: Side,
        classifier: &Classifier,
    ) -> Result<(), Error> {
        let Classifier { name, .. } = classifier;
        let what = format_args!("take program {name} from what link number {link} has {side:?}");
        let payload = finished(&what, place(link, side, classifier).begin())?;
        self.socket.request(&what, RTM_DELTFILTER, 0, &payload)
    }
}

fn read(place: Place, attributes: Attrs<'_>) -> Option<Filter> {
    let kind = attributes.clone().find(TCA_KIND)?.text()?.to_owned();
    let options = attributes.find(TCA_OPTIONS).filter(|_| kind == "bpf");
    let classifier = options.and_then(|options| {
        let options = options.nested();
        let classifier = Classifier {
            name: options.clone().find(TCA_BPF_NAME)?.text()?.to_owned(),
            priority: u16::try_from(place.info >> 16).ok()?,
            handle: place.handle,
        };
        let id = options.clone().find(TCA_BPF_ID)?.payload.first_chunk()?;
        Some((classifier, u32::from_ne_bytes(*id)))
    });
    Some(Filter { kind, classifier })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::{anything, attrs};

    proptest! {
        #[test]
        fn random_attributes_never_panic(attributes in anything::attributes()) {
            let _ = read(Place::default(), attrs(&attributes));
        }
    }
}
