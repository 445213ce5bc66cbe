//! Single elements, found by their keys, and chains by their names: what it costs doesn't grow with
//! the set, or the table.

use nix::errno::Errno;

use super::dump::{encoded, read_elements, table_request};
use super::error::Error;
use super::kernel::{CHAIN_NAME, ELEMENTS_LIST, ELEMENTS_SET, GET_CHAIN, GET_ELEMENT};
use super::object::Family;
use super::set::Element;
use super::socket::NftSocket;
use super::value::Value;
use crate::netlink::{self, AttrWriter, NLM_F_REQUEST, Reply, messages, push_message};

/// How many are asked for at once: their answers, of up to 8 KiB in the kernel's books, fit a
/// receive buffer that nobody could raise.
const AT_ONCE: usize = 16;

const WHAT: &str = "find elements by their keys";

/// Where an element stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ElementPath<'a> {
    /// Its table's family.
    pub family: Family,
    /// Its table.
    pub table: &'a str,
    /// Its set or map.
    pub set: &'a str,
    /// What it is found by.
    pub key: &'a Value,
}

impl NftSocket {
    /// The elements that stand there, each with its data and comment, in the order asked for;
    /// `None` where there is no such element, set or table.
    ///
    /// One exchange with the kernel for every 16. A commit that comes in between may show in some
    /// of them and not in others. In sets of ranges a key finds the range that holds it.
    ///
    /// # Errors
    /// [`Error::Netlink`]; among others `EINVAL` for a key that isn't of the set's length.
    pub fn find_elements(
        &mut self,
        paths: &[ElementPath<'_>],
    ) -> Result<Vec<Option<Element>>, Error> {
        self.may_read(WHAT)?;
        let mut found = Vec::with_capacity(paths.len());
        for some in paths.chunks(AT_ONCE) {
            found.extend(self.find_some(some)?);
        }
        Ok(found)
    }

    /// Whether a table has a chain of this name; it hasn't where there is no such table.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn has_chain(&mut self, family: Family, table: &str, chain: &str) -> Result<bool, Error> {
        const WHAT: &str = "find a chain by its name";
        self.may_read(WHAT)?;
        let mut writer = AttrWriter::onto(table_request(family, table));
        writer.string(CHAIN_NAME, chain);
        let payload = encoded(writer, WHAT)?;
        match self.socket.get_one(&WHAT, GET_CHAIN, &payload, |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn find_some(&mut self, paths: &[ElementPath<'_>]) -> Result<Vec<Option<Element>>, Error> {
        let mut requests = Vec::new();
        let mut sequences = Vec::with_capacity(paths.len());
        for path in paths {
            let sequence = self.socket.next_sequence();
            let payload = request(path)?;
            push_message(
                &mut requests,
                GET_ELEMENT,
                NLM_F_REQUEST,
                sequence,
                &payload,
            );
            sequences.push(sequence);
        }
        self.socket.send(&WHAT, &[&requests])?;
        let mut answers: Vec<Option<Option<Element>>> = vec![None; paths.len()];
        let mut failed = None;
        // The kernel works within the send call: every answer is there by now.
        while let Some(length) = self.socket.receive(&WHAT, false)? {
            for message in messages(self.socket.datagram(length)) {
                let sequence = message.header.sequence;
                let Some(index) = sequences.iter().position(|one| *one == sequence) else {
                    continue;
                };
                answers[index] = match message.reply() {
                    Reply::Data => Some(read_elements(&message).next()),
                    Reply::Error {
                        errno: Errno::ENOENT,
                        ..
                    } => Some(None),
                    Reply::Error { errno, message } => {
                        failed = Some(netlink::Error::kernel(&WHAT, errno, message));
                        Some(None)
                    }
                    Reply::Ack | Reply::Done { .. } | Reply::Noop | Reply::Malformed => continue,
                };
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => answers
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| netlink::Error::malformed(&WHAT, "a request without answer").into()),
        }
    }
}

/// One element per request: at the first that is absent the kernel answers no further.
fn request(path: &ElementPath<'_>) -> Result<Vec<u8>, netlink::Error> {
    let mut list = AttrWriter::default();
    Element::new(path.key.clone()).write_named(&mut list);
    let list = encoded(list, WHAT)?;
    let mut writer = AttrWriter::onto(table_request(path.family, path.table));
    writer
        .string(ELEMENTS_SET, path.set)
        .nested_bytes(ELEMENTS_LIST, &list);
    encoded(writer, WHAT)
}
