//! Sets, maps and their elements.

use std::time::Duration;

use super::datatype::Type;
use super::kernel::{
    DATA_TYPE_VERDICT, ELEMENT_DATA, ELEMENT_EXPIRATION, ELEMENT_FLAGS, ELEMENT_INTERVAL_END,
    ELEMENT_KEY, ELEMENT_KEY_END, ELEMENT_TIMEOUT, ELEMENT_USERDATA, LIST_ELEMENT, SET_CONCAT,
    SET_CONSTANT, SET_DATA_LEN, SET_DATA_TYPE, SET_DESC, SET_DESC_CONCAT, SET_DESC_SIZE,
    SET_DYNAMIC, SET_FIELD_LEN, SET_FLAGS, SET_ID, SET_INTERVAL, SET_KEY_LEN, SET_KEY_TYPE,
    SET_MAP, SET_NAME, SET_TIMEOUT, SET_TIMEOUTS, SET_USERDATA,
};
use super::userdata::{self, SET_COMMENT, SET_DATA_BYTEORDER, SET_KEY_BYTEORDER};
use super::value::{Data, Value};
use crate::netlink::{Attr, AttrWriter};

/// A set, or a map where [`Set::data`] says to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Unique in its table; up to 127 bytes.
    pub name: String,
    /// What elements are found by.
    pub key: Type,
    /// What elements lead to; `None` for a plain set.
    pub data: Option<MapData>,
    /// How it may be used.
    pub flags: SetFlags,
    /// The most elements it takes; without limit where `None`.
    pub size: Option<u32>,
    /// How long elements stay that don't say it themselves.
    pub timeout: Option<Duration>,
    /// Shown by `nft list`; up to 200 bytes.
    pub comment: Option<String>,
}

/// What a map's elements lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapData {
    /// Bytes for registers.
    Value(Type),
    /// A verdict (`vmap`).
    Verdict,
}

/// How a set may be used (`enum nft_set_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetFlags {
    /// Its elements don't change once a rule uses it.
    pub constant: bool,
    /// Its elements may be ranges.
    pub interval: bool,
    /// Its elements may go by themselves.
    pub timeout: bool,
    /// Rules add elements to it ([`super::Expr::Dynset`]).
    pub dynamic: bool,
}

impl Set {
    /// A plain set.
    #[must_use]
    pub fn new(name: &str, key: impl Into<Type>) -> Self {
        Self {
            name: name.to_owned(),
            key: key.into(),
            data: None,
            flags: SetFlags::default(),
            size: None,
            timeout: None,
            comment: None,
        }
    }

    /// A map.
    #[must_use]
    pub fn map(name: &str, key: impl Into<Type>, data: MapData) -> Self {
        Self {
            data: Some(data),
            ..Self::new(name, key)
        }
    }

    /// A concatenation with ranges in it, which the kernel must know the fields of.
    fn has_concatenated_ranges(&self) -> bool {
        self.flags.interval && self.key.fields().len() > 1
    }

    fn flag_bits(&self) -> u32 {
        let SetFlags {
            constant,
            interval,
            timeout,
            dynamic,
        } = self.flags;
        [
            (constant, SET_CONSTANT),
            (interval, SET_INTERVAL),
            (self.data.is_some(), SET_MAP),
            (timeout || self.timeout.is_some(), SET_TIMEOUTS),
            (dynamic, SET_DYNAMIC),
            (self.has_concatenated_ranges(), SET_CONCAT),
        ]
        .iter()
        .filter(|(is_set, _)| *is_set)
        .fold(0, |bits, (_, bit)| bits | bit)
    }

    /// `id` names the set within its transaction.
    pub(super) fn write(&self, writer: &mut AttrWriter, id: u32) {
        writer
            .string(SET_NAME, &self.name)
            .u32_be(SET_FLAGS, self.flag_bits())
            .u32_be(SET_KEY_TYPE, self.key.number())
            .u32_be(SET_KEY_LEN, self.key.bytes());
        match &self.data {
            None => {}
            Some(MapData::Verdict) => {
                writer
                    .u32_be(SET_DATA_TYPE, DATA_TYPE_VERDICT)
                    .u32_be(SET_DATA_LEN, 0);
            }
            Some(MapData::Value(data)) => {
                writer
                    .u32_be(SET_DATA_TYPE, data.number())
                    .u32_be(SET_DATA_LEN, data.bytes());
            }
        }
        writer.u32_be(SET_ID, id);
        if self.size.is_some() || self.has_concatenated_ranges() {
            writer.nested(SET_DESC, |w| self.write_description(w));
        }
        if let Some(timeout) = self.timeout {
            writer.u64_be(SET_TIMEOUT, milliseconds(timeout));
        }
        writer.bytes(SET_USERDATA, &self.userdata());
    }

    fn write_description(&self, writer: &mut AttrWriter) {
        if let Some(size) = self.size {
            writer.u32_be(SET_DESC_SIZE, size);
        }
        if self.has_concatenated_ranges() {
            writer.nested(SET_DESC_CONCAT, |fields| {
                for field in self.key.fields() {
                    fields.nested(LIST_ELEMENT, |w| {
                        w.u32_be(SET_FIELD_LEN, field.bytes());
                    });
                }
            });
        }
    }

    fn userdata(&self) -> Vec<u8> {
        let mut out = Vec::new();
        userdata::push(
            &mut out,
            SET_KEY_BYTEORDER,
            &self.key.byteorder().to_ne_bytes(),
        );
        if let Some(data) = &self.data {
            let byteorder = match data {
                MapData::Verdict => 0,
                MapData::Value(data) => data.byteorder(),
            };
            userdata::push(&mut out, SET_DATA_BYTEORDER, &byteorder.to_ne_bytes());
        }
        if let Some(text) = &self.comment {
            userdata::push_comment(&mut out, SET_COMMENT, text);
        }
        out
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// What it is found by; the lower end of a range.
    pub key: Value,
    /// The upper end, included, of a concatenation with ranges (each field has its own).
    pub key_end: Option<Value>,
    /// What it leads to, in maps.
    pub data: Option<Data>,
    /// How long it stays.
    pub timeout: Option<Duration>,
    /// How much of that is left; as read from the kernel.
    pub expires: Option<Duration>,
    /// It ends, excluded, the range that the element before it began: single-field interval sets.
    pub interval_end: bool,
    /// Shown by `nft list`; up to 254 bytes.
    pub comment: Option<String>,
}

impl Element {
    /// An element of a plain set.
    #[must_use]
    pub fn new(key: Value) -> Self {
        Self {
            key,
            key_end: None,
            data: None,
            timeout: None,
            expires: None,
            interval_end: false,
            comment: None,
        }
    }

    /// An element of a map.
    #[must_use]
    pub fn to(key: Value, data: Data) -> Self {
        Self {
            data: Some(data),
            ..Self::new(key)
        }
    }

    /// Writes what a new element needs.
    pub(super) fn write(&self, writer: &mut AttrWriter) {
        writer.nested(LIST_ELEMENT, |w| {
            self.write_key(w);
            if let Some(data) = &self.data {
                data.write(w, ELEMENT_DATA);
            }
            if let Some(timeout) = self.timeout {
                w.u64_be(ELEMENT_TIMEOUT, milliseconds(timeout));
            }
            if let Some(expires) = self.expires {
                w.u64_be(ELEMENT_EXPIRATION, milliseconds(expires));
            }
            if let Some(text) = &self.comment {
                w.bytes(ELEMENT_USERDATA, &userdata::comment(text));
            }
        });
    }

    /// Writes what names an element.
    pub(super) fn write_named(&self, writer: &mut AttrWriter) {
        writer.nested(LIST_ELEMENT, |w| self.write_key(w));
    }

    fn write_key(&self, writer: &mut AttrWriter) {
        if self.interval_end {
            writer.u32_be(ELEMENT_FLAGS, ELEMENT_INTERVAL_END);
        }
        self.key.write(writer, ELEMENT_KEY);
        if let Some(end) = &self.key_end {
            end.write(writer, ELEMENT_KEY_END);
        }
    }

    /// `None` for an element without key (a catch-all) and for bytes that are no element.
    pub(super) fn read(attr: &Attr<'_>) -> Option<Self> {
        let mut element = Self::new(Value::default());
        let mut key = None;
        for attr in attr.nested() {
            match attr.kind {
                ELEMENT_KEY => key = Value::read(&attr),
                ELEMENT_KEY_END => element.key_end = Value::read(&attr),
                ELEMENT_DATA => element.data = Data::read(&attr),
                ELEMENT_FLAGS => {
                    element.interval_end = attr.u32_be()? & ELEMENT_INTERVAL_END != 0;
                }
                ELEMENT_TIMEOUT => element.timeout = attr.u64_be().map(Duration::from_millis),
                ELEMENT_EXPIRATION => element.expires = attr.u64_be().map(Duration::from_millis),
                ELEMENT_USERDATA => {
                    element.comment = userdata::read_comment(attr.payload, userdata::COMMENT);
                }
                _ => {}
            }
        }
        element.key = key?;
        Some(element)
    }
}

/// Milliseconds as the kernel counts timeouts.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
