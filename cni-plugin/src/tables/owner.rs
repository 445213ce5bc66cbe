//! Whose an element is, as its comment says.

use std::fmt;

use cni_types::{Attachment, Error};
use nodekit::Errno;
use nodekit::nft::Element;
use nodekit::route::Handle;

use crate::{failure, hash};

/// The longest network name that stands in comments as it is, in bytes. With a container id of 64
/// bytes, as runtimes make them, and a link, an owner then fits the 128 that `nft` writes back.
const LONGEST_TAG: usize = 24;

/// The owner of elements: an attachment to a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    attachment: Attachment,
    /// [`network_tag`] of its name.
    network: String,
    /// The link on the host that is there as long as the attachment.
    link: Option<String>,
}

impl Owner {
    pub(crate) fn new(network: &str, attachment: &Attachment) -> Self {
        Self {
            attachment: attachment.clone(),
            network: network_tag(network),
            link: None,
        }
    }

    /// The same, with the link that shows whether it is alive.
    pub(crate) fn with_link(self, link: Option<String>) -> Self {
        Self { link, ..self }
    }

    /// `None` for a comment that isn't an owner's.
    pub(crate) fn read(comment: &str) -> Option<Self> {
        let mut words = comment.split(' ');
        let attachment = Attachment::new(words.next()?, words.next()?).ok()?;
        Some(Self {
            attachment,
            network: words.next()?.to_owned(),
            link: words.next().map(str::to_owned),
        })
    }

    /// As an element's comment. No word has a space in it.
    pub(super) fn comment(&self, with_link: bool) -> String {
        let Attachment {
            container_id,
            ifname,
        } = &self.attachment;
        let mut comment = format!("{container_id} {ifname} {}", self.network);
        if let Some(link) = self.link.as_ref().filter(|_| with_link) {
            comment.push(' ');
            comment.push_str(link);
        }
        comment
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.attachment, &self.network) == (&other.attachment, &other.network)
    }

    pub(super) fn has(&self, element: &Element) -> bool {
        let owner = element.comment.as_deref().and_then(Self::read);
        owner.is_some_and(|owner| self.is_same(&owner))
    }

    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// The network's tag.
    pub(crate) fn network(&self) -> &str {
        &self.network
    }

    /// Whether its link is there. Who has none to show it counts as alive.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(super) fn is_alive(&self) -> Result<bool, Error> {
        let Some(link) = &self.link else {
            return Ok(true);
        };
        let mut route = Handle::open().map_err(failure::kernel)?;
        match route.link_by_name(link) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
            Err(error) => Err(failure::kernel(error)),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attachment {
            container_id,
            ifname,
        } = &self.attachment;
        let network = &self.network;
        write!(f, "container {container_id} ({ifname}, network {network})")
    }
}

/// A network's name as comments have it: a long one cut, with a hash that tells it from others.
pub(crate) fn network_tag(name: &str) -> String {
    if name.len() <= LONGEST_TAG {
        return name.to_owned();
    }
    let hash = u32::from_be_bytes(hash::fold(&[name.as_bytes()]));
    let short: String = name.chars().take(LONGEST_TAG - 9).collect();
    format!("{short}-{hash:08x}")
}
