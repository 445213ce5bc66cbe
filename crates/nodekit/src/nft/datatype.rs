//! nft's data types: what `nft list` makes of a key's bytes. The kernel stores their numbers unread.

/// The byte orders nft knows (`enum byteorder` in nft).
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;

/// Bits of a data type's number in a concatenation (`TYPE_BITS` in nft).
const TYPE_BITS: u32 = 6;

/// A data type of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// `ipv4_addr`, 4 bytes.
    Ipv4Addr,
    /// `ipv6_addr`, 16 bytes.
    Ipv6Addr,
    /// `ether_addr`, 6 bytes.
    EtherAddr,
    /// `inet_proto`, 1 byte.
    InetProto,
    /// `inet_service`, 2 bytes: a TCP, UDP or SCTP port.
    InetService,
    /// `mark`, 4 bytes of the machine's order. Also fits what `numgen` gives.
    Mark,
    /// `iface_index`, 4 bytes of the machine's order.
    InterfaceIndex,
    /// `ifname`, 16 bytes.
    InterfaceName,
}

impl Datatype {
    /// nft's number (`enum datatypes` in nft).
    fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::InterfaceIndex => 20,
            Self::InterfaceName => 41,
        }
    }

    /// Its length in bytes, unpadded.
    #[must_use]
    pub fn bytes(self) -> u32 {
        match self {
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Ipv4Addr | Self::Mark | Self::InterfaceIndex => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::InterfaceName => 16,
        }
    }

    fn byteorder(self) -> u32 {
        match self {
            Self::Mark | Self::InterfaceIndex | Self::InterfaceName => HOST_ENDIAN,
            _ => BIG_ENDIAN,
        }
    }
}

/// The type of a key or of a map's data: one field, or a concatenation of several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Type(Vec<Datatype>);

impl<const N: usize> From<[Datatype; N]> for Type {
    fn from(fields: [Datatype; N]) -> Self {
        Self(fields.to_vec())
    }
}

impl From<Datatype> for Type {
    fn from(field: Datatype) -> Self {
        Self(vec![field])
    }
}

impl Type {
    /// The fields in order.
    #[must_use]
    pub fn fields(&self) -> &[Datatype] {
        &self.0
    }

    /// nft's number: 6 bits per field, the first field uppermost.
    pub(super) fn number(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |sum, field| (sum << TYPE_BITS) | field.number())
    }

    /// The length in registers: a concatenation's fields are padded to 4 bytes each.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        match self.0.as_slice() {
            [field] => field.bytes(),
            fields => fields
                .iter()
                .map(|field| field.bytes().next_multiple_of(4))
                .sum(),
        }
    }

    /// nft's byte order for the whole; 0 for a concatenation, whose fields have their own.
    pub(super) fn byteorder(&self) -> u32 {
        match self.0.as_slice() {
            [field] => field.byteorder(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concatenation_has_six_bits_a_field_and_whole_registers() {
        let key = Type::from([
            Datatype::Ipv4Addr,
            Datatype::InetProto,
            Datatype::InetService,
        ]);
        assert_eq!(key.number(), 0x730d); // as `nft --debug=mnl` sends it
        assert_eq!(key.bytes(), 12);
        let v6 = Type::from([Datatype::Ipv6Addr, Datatype::InetProto]);
        assert_eq!(v6.bytes(), 20);
        assert_eq!(Type::from(Datatype::InetService).bytes(), 2);
    }
}
