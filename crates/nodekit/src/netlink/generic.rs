//! Generic netlink: one protocol for families that are found by name (`linux/genetlink.h`).

use super::{AttrWriter, Error, Socket, attrs};

/// The family of the controller, which knows all others (`GENL_ID_CTRL`).
const CONTROLLER: u16 = 0x10;
const CONTROLLER_VERSION: u8 = 2;
/// `CTRL_CMD_GETFAMILY`
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`
const FAMILY_ID: u16 = 1;
/// `CTRL_ATTR_FAMILY_NAME`
const FAMILY_NAME: u16 = 2;

/// `struct genlmsghdr`, for the attributes that follow it.
#[must_use]
pub fn generic_request(command: u8, version: u8) -> AttrWriter {
    AttrWriter::onto(vec![command, version, 0, 0])
}

impl Socket {
    /// The number of a family of [`Protocol::Generic`](super::Protocol::Generic), which is the type
    /// of its messages. The kernel loads the family's module (alias `net-pf-16-proto-16-family-NAME`)
    /// where it can.
    ///
    /// # Errors
    /// As [`Socket::get_one`]; `ENOENT` where there is no such family.
    pub fn generic_family(&mut self, name: &str) -> Result<u16, Error> {
        let what = format!("find the generic netlink family {name}");
        let mut request = generic_request(GET_FAMILY, CONTROLLER_VERSION);
        request.string(FAMILY_NAME, name);
        let request = request
            .finish()
            .map_err(|too_long| Error::malformed(&what, &too_long.to_string()))?;
        self.get_one(&what, CONTROLLER, &request, |answer| {
            answer
                .payload
                .get(4..)
                .and_then(|attributes| attrs(attributes).find(FAMILY_ID)?.u16_ne())
                .ok_or_else(|| Error::malformed(&what, "an answer without its number"))
        })
    }
}
