//! The same exchanges with messages of the netlink-packet crates.

use std::fmt::Display;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

use super::{Error, Message, Socket};

impl Socket {
    /// [`Socket::request`] with a typed message.
    ///
    /// # Errors
    /// As [`Socket::request`].
    pub fn request_message<M: NetlinkSerializable>(
        &mut self,
        what: &dyn Display,
        flags: u16,
        message: &M,
    ) -> Result<(), Error> {
        self.request(what, message.message_type(), flags, &serialized(message))
    }

    /// [`Socket::get`] with a typed message; gives every message answered.
    ///
    /// # Errors
    /// As [`Socket::get`]; [`Error::Malformed`] for an answer that can't be read.
    pub fn get_messages<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        what: &dyn Display,
        flags: u16,
        message: &M,
    ) -> Result<Vec<M>, Error> {
        let mut found = Vec::new();
        self.get(
            what,
            message.message_type(),
            flags,
            &serialized(message),
            |answer| {
                found.push(deserialized(what, answer)?);
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// [`Socket::get_one`] with a typed message.
    ///
    /// # Errors
    /// As [`Socket::get_one`]; [`Error::Malformed`] for an answer that can't be read.
    pub fn get_one_message<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        what: &dyn Display,
        message: &M,
    ) -> Result<M, Error> {
        let payload = serialized(message);
        self.get_one(what, message.message_type(), &payload, |answer| {
            deserialized(what, answer)
        })
    }

    /// [`Socket::dump`] with a typed message; gives every object dumped.
    ///
    /// # Errors
    /// As [`Socket::dump`]; [`Error::Malformed`] for an answer that can't be read.
    pub fn dump_messages<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        what: &dyn Display,
        message: &M,
    ) -> Result<Vec<M>, Error> {
        self.dump(
            what,
            message.message_type(),
            &serialized(message),
            |answer, found| {
                found.push(deserialized(what, answer)?);
                Ok(())
            },
        )
    }
}

fn serialized<M: NetlinkSerializable>(message: &M) -> Vec<u8> {
    let mut payload = vec![0; message.buffer_len()];
    message.serialize(&mut payload);
    payload
}

fn deserialized<M: NetlinkDeserializable>(
    what: &dyn Display,
    answer: &Message<'_>,
) -> Result<M, Error> {
    let mut header = NetlinkHeader::default();
    header.message_type = answer.header.kind;
    header.flags = answer.header.flags;
    header.sequence_number = answer.header.sequence;
    M::deserialize(&header, answer.payload).map_err(|e| Error::malformed(what, &e.to_string()))
}
