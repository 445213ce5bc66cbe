//! The loads and comparisons that rules are mostly made of.

use super::{
    BitwiseOperand, CmpOp, CtDirection, CtKey, Expr, FibResult, FibSource, MetaKey, PayloadBase,
    Register,
};
use crate::nft::object::Family;
use crate::nft::value::Value;

impl Expr {
    /// The packet's source address; `family` says of IPv4 (4 bytes) or IPv6 (16 bytes).
    #[must_use]
    pub fn source_address(family: Family, to: Register) -> Self {
        let (offset, len) = if family == Family::Ip6 {
            (8, 16)
        } else {
            (12, 4)
        };
        Self::Payload {
            base: PayloadBase::Network,
            offset,
            len,
            to,
        }
    }

    /// The packet's destination address; `family` says of IPv4 (4 bytes) or IPv6 (16 bytes).
    #[must_use]
    pub fn destination_address(family: Family, to: Register) -> Self {
        let (offset, len) = if family == Family::Ip6 {
            (24, 16)
        } else {
            (16, 4)
        };
        Self::Payload {
            base: PayloadBase::Network,
            offset,
            len,
            to,
        }
    }

    /// The destination port of TCP, UDP and SCTP, 2 bytes.
    #[must_use]
    pub fn destination_port(to: Register) -> Self {
        Self::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            len: 2,
            to,
        }
    }

    /// The transport protocol, 1 byte.
    #[must_use]
    pub fn l4proto(to: Register) -> Self {
        Self::Meta {
            key: MetaKey::L4proto,
            to,
        }
    }

    /// Something of the connection's first packet, before any translation.
    #[must_use]
    pub fn ct_original(key: CtKey, to: Register) -> Self {
        Self::Ct {
            key,
            direction: Some(CtDirection::Original),
            to,
        }
    }

    /// The type of the packet's source address ([`FibResult::LOCAL`]).
    #[must_use]
    pub fn source_address_type(to: Register) -> Self {
        let source = FibSource {
            saddr: true,
            ..FibSource::default()
        };
        Self::Fib {
            source,
            result: FibResult::AddressType,
            to,
        }
    }

    /// Equal to `value`.
    #[must_use]
    pub fn equal(from: Register, value: Value) -> Self {
        Self::Cmp {
            op: CmpOp::Eq,
            from,
            value,
        }
    }

    /// Not equal to `value`.
    #[must_use]
    pub fn differs(from: Register, value: Value) -> Self {
        Self::Cmp {
            op: CmpOp::Ne,
            from,
            value,
        }
    }

    /// `register = (register & mask) ^ xor` of a number of the machine's order, such as a mark.
    #[must_use]
    pub fn mask_xor(register: Register, mask: u32, xor: u32) -> Self {
        let operand = BitwiseOperand {
            mask: Value::host_u32(mask),
            xor: Value::host_u32(xor),
        };
        Self::Bitwise {
            from: register,
            to: register,
            operand,
        }
    }

    /// Keeps the first `prefix` bits of an address of `len` bytes.
    #[must_use]
    pub fn mask_prefix(register: Register, prefix: u8, len: u8) -> Self {
        let mask: Vec<u8> = (0..len)
            .map(|byte| {
                let bits = prefix.saturating_sub(byte.saturating_mul(8)).min(8);
                u8::MAX.checked_shl(u32::from(8 - bits)).unwrap_or(0)
            })
            .collect();
        let xor = Value::new(&vec![0; mask.len()]);
        Self::Bitwise {
            from: register,
            to: register,
            operand: BitwiseOperand {
                mask: Value::new(&mask),
                xor,
            },
        }
    }

    /// The key that begins at `key` is in `set`.
    #[must_use]
    pub fn in_set(set: &str, key: Register) -> Self {
        Self::Lookup {
            set: set.to_owned(),
            key,
            data: None,
            inverted: false,
        }
    }

    /// The key that begins at `key` isn't in `set`.
    #[must_use]
    pub fn not_in_set(set: &str, key: Register) -> Self {
        Self::Lookup {
            set: set.to_owned(),
            key,
            data: None,
            inverted: true,
        }
    }

    /// What `map` says for the key that begins at `key`.
    #[must_use]
    pub fn map(map: &str, key: Register, data: Register) -> Self {
        Self::Lookup {
            set: map.to_owned(),
            key,
            data: Some(data),
            inverted: false,
        }
    }

    /// The verdict that `map` says for the key that begins at `key`.
    #[must_use]
    pub fn vmap(map: &str, key: Register) -> Self {
        Self::map(map, key, Register::VERDICT)
    }
}
