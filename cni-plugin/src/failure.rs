//! From the errors of the kernel's side to the plugin's error object.

use cni_types::{Code, Error};
use nodekit::{netlink, netns, sysctl};

/// 100: the kernel refused a change; the message has the operation and the errno.
pub(crate) const KERNEL: Code = Code::plugin(0);

/// 101: something that is there already stands in the way.
pub(crate) const CONFLICT: Code = Code::plugin(1);

/// 102: CHECK found the attachment different from what ADD left.
pub(crate) const CHANGED: Code = Code::plugin(2);

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(crate) fn kernel(error: netlink::Error) -> Error {
    Error::new(KERNEL, error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(crate) fn setting(error: sysctl::Error) -> Error {
    Error::new(KERNEL, error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(crate) fn namespace(error: netns::Error) -> Error {
    Error::new(Code::INVALID_NETNS, error.to_string())
}

/// Several failures as one: the first one's code and message, the others in the details.
pub(crate) fn joined(mut errors: Vec<Error>) -> Result<(), Error> {
    if errors.is_empty() {
        return Ok(());
    }
    let first = errors.remove(0);
    if errors.is_empty() {
        return Err(first);
    }
    let details: Vec<_> = errors.iter().map(Error::to_string).collect();
    Err(first.with_details(details.join("; ")))
}
