//! Netlink attributes: length and type in two `u16` of host order, the payload padded to 4 bytes
//! (`struct nlattr`, `linux/netlink.h`).

/// Bytes of an attribute's header.
const ATTR_HEADER: usize = 4;
/// Marks an attribute whose payload is attributes (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;
/// The bits of a type that aren't flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// An attribute whose payload doesn't fit the `u16` length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attribute {kind} has {length} bytes, more than the 65535 that netlink can say")]
pub struct AttrTooLong {
    /// The attribute's type.
    pub kind: u16,
    /// Its length with header, in bytes.
    pub length: usize,
}

/// Writes attributes one after the other.
#[derive(Debug, Default, Clone)]
pub struct AttrWriter {
    bytes: Vec<u8>,
    too_long: Option<AttrTooLong>,
}

impl AttrWriter {
    /// A writer that goes on behind `bytes` (a family's fixed struct, or earlier messages), whose
    /// length is a multiple of 4.
    #[must_use]
    pub fn onto(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            too_long: None,
        }
    }

    /// Writes an attribute of plain bytes.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(payload);
        self.end(start, kind)
    }

    /// Writes a NUL-terminated string.
    pub fn string(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.end(start, kind)
    }

    /// Writes one byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Writes a number in network order, as nf_tables and conntrack want theirs.
    pub fn u16_be(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Writes a number in network order, as nf_tables and conntrack want theirs.
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Writes a number in network order, as nf_tables and conntrack want theirs.
    pub fn u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Writes a number in the machine's order, as route and generic netlink want theirs.
    pub fn u16_ne(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Writes a number in the machine's order, as route and generic netlink want theirs.
    pub fn u32_ne(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Writes an attribute without payload: its presence says it all.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.bytes(kind, &[])
    }

    /// Writes an attribute whose payload is what `inner` writes.
    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind | NESTED);
        inner(self);
        self.end(start, kind)
    }

    /// Writes an attribute whose payload is attributes that were written before.
    pub fn nested_bytes(&mut self, kind: u16, attributes: &[u8]) -> &mut Self {
        let start = self.begin(kind | NESTED);
        self.bytes.extend_from_slice(attributes);
        self.end(start, kind)
    }

    /// How many bytes were written, header included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives the bytes.
    ///
    /// # Errors
    /// [`AttrTooLong`] for the first attribute that was longer than netlink can say.
    pub fn finish(self) -> Result<Vec<u8>, AttrTooLong> {
        self.too_long.map_or(Ok(self.bytes), Err)
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize, kind: u16) -> &mut Self {
        let length = self.bytes.len() - start;
        match u16::try_from(length) {
            Ok(short) => self.bytes[start..start + 2].copy_from_slice(&short.to_ne_bytes()),
            Err(_) if self.too_long.is_none() => self.too_long = Some(AttrTooLong { kind, length }),
            Err(_) => {}
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

/// One attribute as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// The type without flags.
    pub kind: u16,
    /// The payload without padding.
    pub payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The payload as attributes.
    #[must_use]
    pub fn nested(&self) -> Attrs<'a> {
        attrs(self.payload)
    }

    /// The payload as text up to its NUL.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        let end = self
            .payload
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(self.payload.len());
        std::str::from_utf8(self.payload.get(..end)?).ok()
    }

    /// The payload as one byte.
    #[must_use]
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The payload as a number in network order.
    #[must_use]
    pub fn u16_be(&self) -> Option<u16> {
        self.payload.first_chunk().map(|b| u16::from_be_bytes(*b))
    }

    /// The payload as a number in network order.
    #[must_use]
    pub fn u32_be(&self) -> Option<u32> {
        self.payload.first_chunk().map(|b| u32::from_be_bytes(*b))
    }

    /// The payload as a number in network order.
    #[must_use]
    pub fn u64_be(&self) -> Option<u64> {
        self.payload.first_chunk().map(|b| u64::from_be_bytes(*b))
    }

    /// The payload as a number in the machine's order.
    #[must_use]
    pub fn u16_ne(&self) -> Option<u16> {
        self.payload.first_chunk().map(|b| u16::from_ne_bytes(*b))
    }

    /// The payload as a number in the machine's order.
    #[must_use]
    pub fn u32_ne(&self) -> Option<u32> {
        self.payload.first_chunk().map(|b| u32::from_ne_bytes(*b))
    }
}

/// Reads the attributes in `bytes`. Reading ends at the first one whose length can't be.
#[must_use]
pub fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs { rest: bytes }
}

/// The attributes of a message or of an outer attribute, in order.
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// The first attribute of type `kind`.
    #[must_use]
    pub fn find(mut self, kind: u16) -> Option<Attr<'a>> {
        Iterator::find(&mut self, |attr| attr.kind == kind)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let header: [u8; ATTR_HEADER] = *self.rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let payload = self.rest.get(ATTR_HEADER..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Attr { kind, payload })
    }
}

#[cfg(test)]
pub(crate) mod anything {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::AttrWriter;

    const KINDS: [&[u8]; 2] = [b"tbf\0", b"bpf\0"];

    /// Attributes in attributes, of the types that are common: for the properties of what reads some.
    pub(crate) fn attributes() -> impl Strategy<Value = Vec<u8>> {
        let payload = || {
            prop_oneof![
                vec(any::<u8>(), 0..40),
                select(&KINDS[..]).prop_map(<[u8]>::to_vec)
            ]
        };
        let level = |payload| vec((0_u16..16, payload), 0..8).prop_map(written);
        let inner = prop_oneof![payload(), level(payload().boxed())].boxed();
        let outer = prop_oneof![payload(), level(inner)].boxed();
        level(outer)
    }

    fn written(all: Vec<(u16, Vec<u8>)>) -> Vec<u8> {
        let mut writer = AttrWriter::default();
        for (kind, payload) in all {
            writer.bytes(kind, &payload);
        }
        writer.finish().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = AttrWriter::default();
        writer.string(1, "abc").u32_be(2, 7).flag(3).nested(4, |w| {
            w.u16_be(1, 80).u8(2, 6);
        });
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = attrs(&bytes).collect();
        assert_eq!(
            read.iter().map(|a| a.kind).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        assert_eq!(read[0].text(), Some("abc"));
        assert_eq!(read[1].u32_be(), Some(7));
        assert!(read[2].payload.is_empty());
        let inner: Vec<_> = read[3].nested().collect();
        assert_eq!((inner[0].u16_be(), inner[1].u8()), (Some(80), Some(6)));
    }

    #[test]
    fn a_payload_above_the_u16_length_is_an_error_not_a_wrap() {
        let mut writer = AttrWriter::default();
        writer.nested(9, |w| {
            for _ in 0..3 {
                w.bytes(1, &[0; 30_000]);
            }
        });
        let error = writer.finish().unwrap_err();
        assert_eq!(
            error,
            AttrTooLong {
                kind: 9,
                length: 4 + 3 * 30_004
            }
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut count = 0;
            for attr in attrs(&bytes) {
                count += 1 + attr.nested().count();
                let _ = (attr.text(), attr.u8(), attr.u16_be(), attr.u32_be(), attr.u64_be(), attr.u16_ne(), attr.u32_ne());
            }
            prop_assert!(count <= bytes.len());
        }
    }
}
