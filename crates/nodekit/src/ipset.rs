//! Sets of addresses and ports that rules of iptables ask (`-m set`; ipset(8)).
//!
//! It never makes a set, and never changes what is in one. Source: `linux/netfilter/ipset/ip_set.h`.

use nix::errno::Errno;

use crate::netlink::{AttrWriter, Error, Message, NLM_F_EXCL, Protocol, Socket, attrs};

/// `NFNL_SUBSYS_IPSET` in a message type's upper byte.
const SUBSYSTEM: u16 = 6 << 8;
/// `IPSET_CMD_DESTROY`
const DESTROY: u16 = SUBSYSTEM | 3;
/// `IPSET_CMD_LIST`
const LIST: u16 = SUBSYSTEM | 7;

/// `IPSET_ATTR_PROTOCOL`
const PROTOCOL: u16 = 1;
/// `IPSET_ATTR_SETNAME`
const NAME: u16 = 2;
/// `IPSET_ATTR_FLAGS`
const FLAGS: u16 = 6;
/// `IPSET_ATTR_DATA`
const DATA: u16 = 7;
/// `IPSET_ATTR_REFERENCES`, within [`DATA`].
const REFERENCES: u16 = 25;

/// The protocol's version: every kernel's lowest (`IPSET_PROTOCOL_MIN`).
const VERSION: u8 = 6;
/// `IPSET_FLAG_LIST_HEADER`: without what is in the sets.
const HEADERS_ONLY: u32 = 1 << 2;

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// How many rules and other sets ask it. It can't be destroyed before there are none.
    pub references: u32,
}

/// A connection to the sets of the network namespace it was opened in.
#[derive(Debug)]
pub struct IpSets {
    socket: Socket,
}

impl IpSets {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
        })
    }

    /// All sets.
    ///
    /// # Errors
    /// As [`Socket::dump`]; `EINVAL` where the kernel has no sets (`CONFIG_IP_SET`).
    pub fn list(&mut self) -> Result<Vec<Set>, Error> {
        let what = "list the ipsets";
        let mut writer = request();
        writer.u32_be(FLAGS, HEADERS_ONLY);
        let request = encoded(what, writer)?;
        self.socket.dump(&what, LIST, &request, |message, found| {
            found.push(read(message).ok_or_else(|| Error::malformed(&what, "half a set"))?);
            Ok(())
        })
    }

    /// Destroys the set `name` with all that is in it. Gives whether it was there.
    ///
    /// # Errors
    /// As [`Socket::request`], except `ENOENT`; a set that is asked by somebody stays, which the
    /// kernel says with a number that is no errno (`IPSET_ERR_BUSY`).
    pub fn destroy(&mut self, name: &str) -> Result<bool, Error> {
        let what = format!("destroy the ipset {name}");
        let mut writer = request();
        writer.string(NAME, name);
        let request = encoded(&what, writer)?;
        // Else the absence of a set isn't told.
        match self.socket.request(&what, DESTROY, NLM_F_EXCL, &request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// `struct nfgenmsg` of no family, and what every request says.
fn request() -> AttrWriter {
    let mut writer = AttrWriter::onto(vec![0; 4]);
    writer.u8(PROTOCOL, VERSION);
    writer
}

fn encoded(what: &str, writer: AttrWriter) -> Result<Vec<u8>, Error> {
    writer
        .finish()
        .map_err(|too_long| Error::malformed(&what, &too_long.to_string()))
}

fn read(message: &Message<'_>) -> Option<Set> {
    let attributes = message.payload.get(4..)?;
    let data = attrs(attributes).find(DATA)?;
    Some(Set {
        name: attrs(attributes).find(NAME)?.text()?.to_owned(),
        references: data.nested().find(REFERENCES)?.u32_be()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::{Header, anything};

    /// As Linux 6.1 lists a set of type hash:ip.
    const CLUSTER_IPS: &str = "020000000500010006000000140002004b5542452d434c55535445522d4950000c00\
        0300686173683a697000050005000200000005000400000000002c00078008001240000004000800134000010000\
        080019400000000008001a40000000c80800184000000000";

    fn set(payload: &[u8]) -> Option<Set> {
        let header = Header {
            kind: LIST,
            flags: 0,
            sequence: 1,
        };
        read(&Message { header, payload })
    }

    #[test]
    fn sets_are_read() {
        let byte = |at| u8::from_str_radix(&CLUSTER_IPS[at..at + 2], 16).unwrap();
        let payload: Vec<u8> = (0..CLUSTER_IPS.len()).step_by(2).map(byte).collect();
        let expected = Set {
            name: "KUBE-CLUSTER-IP".to_owned(),
            references: 0,
        };
        assert_eq!(set(&payload), Some(expected));
        assert_eq!(set(&payload[..40]), None);
    }

    proptest! {
        #[test]
        fn random_attributes_never_panic(attributes in anything::attributes()) {
            let _ = (set(&attributes), set(&[&[0; 4], &attributes[..]].concat()));
        }
    }
}
