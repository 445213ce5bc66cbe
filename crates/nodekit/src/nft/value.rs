//! What registers, set keys and map data hold.

use super::kernel::{DATA_VALUE, DATA_VERDICT, VERDICT_CHAIN, VERDICT_CODE};
use crate::netlink::{Attr, AttrWriter};

/// Bytes as they stand in registers: fields in network order, except those that nft keeps in the
/// machine's order (marks, interface indices, `numgen` results).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Value(Box<[u8]>);

impl Value {
    /// One field, unpadded.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// A concatenation: each field padded with zeros to whole 4-byte registers.
    #[must_use]
    pub fn concat(fields: &[&[u8]]) -> Self {
        let length = fields
            .iter()
            .map(|field| field.len().next_multiple_of(4))
            .sum();
        let mut bytes = Vec::with_capacity(length);
        for field in fields {
            bytes.extend_from_slice(field);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        Self(bytes.into())
    }

    /// A number of the machine's order: a mark, a `fib` or `numgen` result, a `ct status`.
    #[must_use]
    pub fn host_u32(number: u32) -> Self {
        Self::new(&number.to_ne_bytes())
    }

    /// An interface's name, padded to the kernel's 16 bytes (`IFNAMSIZ`); longer names are cut.
    #[must_use]
    pub fn interface(name: &str) -> Self {
        let mut bytes: Vec<u8> = name.bytes().take(15).collect();
        bytes.resize(16, 0);
        Self(bytes.into())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of a concatenation's field that begins at `offset` and has `N` bytes.
    #[must_use]
    pub fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The packet goes on in the network stack.
    Accept,
    /// The packet is gone.
    Drop,
    /// The next rule decides.
    Continue,
    /// The calling chain decides.
    Return,
    /// The chain decides; its end comes back here.
    Jump(String),
    /// The chain decides; its end comes back to where this chain was jumped to from.
    Goto(String),
}

impl Verdict {
    /// `NF_DROP`, `NF_ACCEPT`, `enum nft_verdicts`.
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    fn write(&self, writer: &mut AttrWriter) {
        writer.nested(DATA_VERDICT, |w| {
            w.bytes(VERDICT_CODE, &self.code().to_be_bytes());
            if let Self::Jump(chain) | Self::Goto(chain) = self {
                w.string(VERDICT_CHAIN, chain);
            }
        });
    }

    fn read(attr: &Attr<'_>) -> Option<Self> {
        let mut code = None;
        let mut chain = None;
        for attr in attr.nested() {
            match attr.kind {
                VERDICT_CODE => code = attr.u32_be(),
                VERDICT_CHAIN => chain = attr.text(),
                _ => {}
            }
        }
        Some(match code?.cast_signed() {
            0 => Self::Drop,
            1 => Self::Accept,
            -1 => Self::Continue,
            -3 => Self::Jump(chain?.to_owned()),
            -4 => Self::Goto(chain?.to_owned()),
            -5 => Self::Return,
            _ => return None,
        })
    }
}

/// What a map's element leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    /// Bytes for registers.
    Value(Value),
    /// A verdict, in verdict maps.
    Verdict(Verdict),
}

impl Data {
    /// Writes `struct nft_data` as attribute `kind`.
    pub(super) fn write(&self, writer: &mut AttrWriter, kind: u16) {
        match self {
            Self::Value(value) => value.write(writer, kind),
            Self::Verdict(verdict) => {
                writer.nested(kind, |w| verdict.write(w));
            }
        }
    }

    pub(super) fn read(attr: &Attr<'_>) -> Option<Self> {
        let inner = attr.nested().next()?;
        match inner.kind {
            DATA_VALUE => Some(Self::Value(Value::new(inner.payload))),
            DATA_VERDICT => Verdict::read(&inner).map(Self::Verdict),
            _ => None,
        }
    }
}

impl Value {
    /// Writes `struct nft_data` as attribute `kind`.
    pub(super) fn write(&self, writer: &mut AttrWriter, kind: u16) {
        writer.nested(kind, |w| {
            w.bytes(DATA_VALUE, &self.0);
        });
    }

    pub(super) fn read(attr: &Attr<'_>) -> Option<Self> {
        let inner = attr.nested().find(DATA_VALUE)?;
        Some(Self::new(inner.payload))
    }
}
