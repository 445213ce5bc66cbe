//! Expressions: the instructions of nf_tables' virtual machine.

mod encode;
mod load;

use std::time::Duration;

use super::object::Family;
use super::value::{Value, Verdict};

/// A register of the virtual machine. Data of more than 4 bytes takes as many consecutive
/// registers as it needs, so that a concatenation is loaded field by field into neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Register(u8);

impl Register {
    /// `NFT_REG32_00`.
    const FIRST: u8 = 8;

    /// The verdict register: a lookup into it is a `vmap`.
    pub const VERDICT: Self = Self(0);

    /// The 4-byte register of that index, 0 to 15. The kernel refuses higher ones (`ERANGE`).
    #[must_use]
    pub const fn word(index: u8) -> Self {
        Self(Self::FIRST.saturating_add(index))
    }

    /// The register behind a field of `bytes` bytes in this one.
    #[must_use]
    pub fn after(self, bytes: u32) -> Self {
        let words = u8::try_from(bytes.div_ceil(4)).unwrap_or(u8::MAX);
        Self(self.0.saturating_add(words))
    }

    fn number(self) -> u32 {
        u32::from(self.0)
    }
}

/// One expression of a rule. Evaluation of the rule ends at the first that doesn't match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads something about the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// Where to.
        to: Register,
    },
    /// Sets something about the packet.
    MetaSet {
        /// What.
        key: MetaKey,
        /// Where from.
        from: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// The header that `offset` counts from.
        base: PayloadBase,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
        /// Where to.
        to: Register,
    },
    /// Compares a register with a value.
    Cmp {
        /// How.
        op: CmpOp,
        /// The register.
        from: Register,
        /// The value.
        value: Value,
    },
    /// Compares a register with a range of values, both ends included.
    Range {
        /// Match what is outside instead.
        inverted: bool,
        /// The register.
        from: Register,
        /// The lowest value inside.
        low: Value,
        /// The highest value inside.
        high: Value,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        /// Where from.
        from: Register,
        /// Where to.
        to: Register,
        /// What to do.
        operand: BitwiseOperand,
    },
    /// Swaps between network and machine order.
    Byteorder {
        /// Where from.
        from: Register,
        /// Where to.
        to: Register,
        /// The direction.
        op: ByteorderOp,
        /// All the bytes.
        len: u32,
        /// The bytes of each number: 2, 4 or 8.
        size: u32,
    },
    /// Looks a key up: a set must hold it, a map gives its data, a verdict map its verdict.
    Lookup {
        /// The set's name.
        set: String,
        /// Where the key begins.
        key: Register,
        /// Where the map's data go; [`Register::VERDICT`] for a verdict map.
        data: Option<Register>,
        /// Match what the set doesn't hold; sets only.
        inverted: bool,
    },
    /// Loads a constant.
    Immediate {
        /// The constant.
        value: Value,
        /// Where to.
        to: Register,
    },
    /// Decides.
    Verdict(Verdict),
    /// Translates an address, a port or both.
    Nat {
        /// Which end.
        kind: NatKind,
        /// The family of the address: [`Family::Ip`] or [`Family::Ip6`].
        family: Family,
        /// Where the new address stands.
        address: Option<Register>,
        /// Where the new port stands.
        port: Option<Register>,
        /// How.
        flags: NatFlags,
    },
    /// Translates the source to the leaving device's own address.
    Masquerade {
        /// How.
        flags: NatFlags,
    },
    /// Translates the destination to this machine itself.
    Redirect {
        /// Where the new port stands.
        port: Option<Register>,
        /// How.
        flags: NatFlags,
    },
    /// Loads something about the packet's connection.
    Ct {
        /// What.
        key: CtKey,
        /// Of which direction; for the keys that have one.
        direction: Option<CtDirection>,
        /// Where to.
        to: Register,
    },
    /// Sets something about the packet's connection.
    CtSet {
        /// What.
        key: CtKey,
        /// Where from.
        from: Register,
    },
    /// Asks the routing tables.
    Fib {
        /// What about.
        source: FibSource,
        /// What for.
        result: FibResult,
        /// Where to.
        to: Register,
    },
    /// A number: `offset` to `offset + modulus - 1`, in the machine's order.
    Numgen {
        /// How it is chosen.
        kind: NumgenKind,
        /// How many numbers there are.
        modulus: u32,
        /// The lowest.
        offset: u32,
        /// Where to.
        to: Register,
    },
    /// Changes a set from within a rule. An `Update` of an element that is there keeps its data and
    /// begins its timeout anew; a full set doesn't match.
    ///
    /// The data register must not come from a map's [`Expr::Lookup`]: the kernel takes it, but
    /// nft 1.0.6 aborts when it lists such a rule.
    Dynset {
        /// What to do.
        op: DynsetOp,
        /// The set's name; it needs [`super::SetFlags::dynamic`].
        set: String,
        /// Where the key begins.
        key: Register,
        /// Where the data begin; for maps.
        data: Option<Register>,
        /// How long the element stays; the set's own timeout where `None`.
        timeout: Option<Duration>,
    },
    /// Drops the packet and tells its sender.
    Reject(Reject),
    /// Counts packets and bytes.
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Matches up to a rate of packets.
    Limit {
        /// Packets per `unit`.
        rate: u64,
        /// The unit of time.
        unit: LimitUnit,
        /// Packets above the rate that may come at once.
        burst: u32,
        /// Match what exceeds the rate instead.
        inverted: bool,
    },
}

/// What is known about a packet (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// The packet's mark, 4 bytes of the machine's order.
    Mark,
    /// Index of the device it came in by, 4 bytes of the machine's order.
    Iif,
    /// Index of the device it leaves by, 4 bytes of the machine's order.
    Oif,
    /// Name of the device it came in by, 16 bytes.
    Iifname,
    /// Name of the device it leaves by, 16 bytes.
    Oifname,
    /// The network protocol (`NFPROTO_*`), 1 byte.
    Nfproto,
    /// The transport protocol (`IPPROTO_*`), 1 byte.
    L4proto,
}

/// The headers of a packet (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    /// Of the link.
    Link,
    /// IPv4 or IPv6.
    Network,
    /// TCP, UDP, SCTP and others.
    Transport,
}

/// How registers are compared (`enum nft_cmp_ops`): as numbers in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// The operands of [`Expr::Bitwise`], of equal length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BitwiseOperand {
    /// The bits that stay.
    pub mask: Value,
    /// The bits that are flipped then.
    pub xor: Value,
}

/// The direction of [`Expr::Byteorder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByteorderOp {
    /// Network to machine.
    NetworkToHost,
    /// Machine to network.
    HostToNetwork,
}

/// Which end of a connection [`Expr::Nat`] translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// How addresses and ports are translated (`NF_NAT_RANGE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NatFlags {
    /// A random port, chosen by hashing.
    pub random: bool,
    /// A random port, chosen by chance.
    pub fully_random: bool,
    /// The same client gets the same address.
    pub persistent: bool,
}

/// What is known about a connection (`enum nft_ct_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtKey {
    /// New, established, related, invalid: a bit each, 4 bytes of the machine's order.
    State,
    /// `IPS_*` bits, 4 bytes of the machine's order; 0x20 is `IPS_DST_NAT`.
    Status,
    /// The connection's mark, 4 bytes of the machine's order.
    Mark,
    /// The source address, IPv4; needs a direction.
    SrcIp,
    /// The destination address, IPv4; needs a direction.
    DstIp,
    /// The source address, IPv6; needs a direction.
    SrcIp6,
    /// The destination address, IPv6; needs a direction.
    DstIp6,
    /// The transport protocol, 1 byte; needs a direction.
    Protocol,
    /// The source port, 2 bytes; needs a direction.
    ProtoSrc,
    /// The destination port, 2 bytes; needs a direction.
    ProtoDst,
}

/// The directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtDirection {
    /// As its first packet said, before any translation.
    Original,
    /// As answers are expected.
    Reply,
}

/// What [`Expr::Fib`] asks the routing tables about; the device it came in by or leaves by may
/// restrict the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FibSource {
    /// The packet's source address.
    pub saddr: bool,
    /// The packet's destination address.
    pub daddr: bool,
    /// With the packet's mark.
    pub mark: bool,
    /// Seen from the device it came in by.
    pub iif: bool,
    /// Seen from the device it leaves by.
    pub oif: bool,
}

/// What [`Expr::Fib`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FibResult {
    /// The index of the device, 4 bytes of the machine's order.
    Oif,
    /// The name of the device, 16 bytes.
    Oifname,
    /// The address's type (`RTN_*`), 4 bytes of the machine's order; 2 is local.
    AddressType,
}

impl FibResult {
    /// `RTN_LOCAL`: an address of this machine.
    pub const LOCAL: u32 = 2;
}

/// How [`Expr::Numgen`] chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumgenKind {
    /// One after the other.
    Incremental,
    /// By chance.
    Random,
}

/// What [`Expr::Dynset`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynsetOp {
    /// Adds the element unless it is there.
    Add,
    /// Adds the element, or begins its timeout anew.
    Update,
    /// Takes the element away.
    Delete,
}

/// What the sender of a rejected packet is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// Destination unreachable with this code of the table's own family (ICMP or ICMPv6).
    Icmp(u8),
    /// Destination unreachable with this family-independent code (`NFT_REJECT_ICMPX_*`):
    /// 0 no route, 1 port, 2 host, 3 prohibited.
    Icmpx(u8),
    /// TCP reset.
    TcpReset,
}

/// The units of [`Expr::Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}
