//! Expressions as netlink attributes (`NFTA_EXPR_*` and one family of attributes each).

use super::{
    ByteorderOp, CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibResult, FibSource, LimitUnit,
    MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, Register, Reject,
};
use crate::netlink::AttrWriter;
use crate::nft::set::milliseconds;
use crate::nft::value::Data;

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

impl Expr {
    pub(in crate::nft) fn write(&self, writer: &mut AttrWriter) {
        writer
            .string(NAME, self.kernel_name())
            .nested(DATA, |w| self.write_data(w));
    }

    /// The kernel's name of the expression.
    fn kernel_name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Range { .. } => "range",
            Self::Bitwise { .. } => "bitwise",
            Self::Byteorder { .. } => "byteorder",
            Self::Lookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Nat { .. } => "nat",
            Self::Masquerade { .. } => "masq",
            Self::Redirect { .. } => "redir",
            Self::Ct { .. } | Self::CtSet { .. } => "ct",
            Self::Fib { .. } => "fib",
            Self::Numgen { .. } => "numgen",
            Self::Dynset { .. } => "dynset",
            Self::Reject(_) => "reject",
            Self::Counter { .. } => "counter",
            Self::Limit { .. } => "limit",
        }
    }

    fn write_data(&self, w: &mut AttrWriter) {
        match self {
            Self::Meta { .. }
            | Self::MetaSet { .. }
            | Self::Payload { .. }
            | Self::Immediate { .. }
            | Self::Ct { .. }
            | Self::CtSet { .. }
            | Self::Fib { .. }
            | Self::Numgen { .. } => self.write_load(w),
            Self::Cmp { .. }
            | Self::Range { .. }
            | Self::Bitwise { .. }
            | Self::Byteorder { .. }
            | Self::Limit { .. } => self.write_operation(w),
            Self::Lookup { .. } | Self::Dynset { .. } => self.write_set_use(w),
            Self::Verdict(_)
            | Self::Nat { .. }
            | Self::Masquerade { .. }
            | Self::Redirect { .. }
            | Self::Reject(_)
            | Self::Counter { .. } => self.write_action(w),
        }
    }

    /// What fills registers, and what is set from them.
    fn write_load(&self, w: &mut AttrWriter) {
        match self {
            // NFTA_META_*: DREG 1, KEY 2, SREG 3.
            Self::Meta { key, to } => {
                register(w, 1, *to).u32_be(2, meta_number(*key));
            }
            Self::MetaSet { key, from } => {
                w.u32_be(2, meta_number(*key));
                register(w, 3, *from);
            }
            // NFTA_PAYLOAD_*: DREG 1, BASE 2, OFFSET 3, LEN 4.
            Self::Payload {
                base,
                offset,
                len,
                to,
            } => {
                register(w, 1, *to)
                    .u32_be(2, base_number(*base))
                    .u32_be(3, *offset)
                    .u32_be(4, *len);
            }
            // NFTA_IMMEDIATE_*: DREG 1, DATA 2.
            Self::Immediate { value, to } => value.write(register(w, 1, *to), 2),
            // NFTA_CT_*: DREG 1, KEY 2, DIRECTION 3, SREG 4.
            Self::Ct { key, direction, to } => {
                register(w, 1, *to).u32_be(2, ct_number(*key));
                if let Some(direction) = direction {
                    w.u8(3, u8::from(*direction == CtDirection::Reply));
                }
            }
            Self::CtSet { key, from } => {
                w.u32_be(2, ct_number(*key));
                register(w, 4, *from);
            }
            // NFTA_FIB_*: DREG 1, RESULT 2, FLAGS 3.
            Self::Fib { source, result, to } => {
                register(w, 1, *to)
                    .u32_be(2, result_number(*result))
                    .u32_be(3, fib_flags(*source));
            }
            // NFTA_NG_*: DREG 1, MODULUS 2, TYPE 3, OFFSET 4.
            Self::Numgen {
                kind,
                modulus,
                offset,
                to,
            } => {
                let kind = u32::from(*kind == NumgenKind::Random);
                register(w, 1, *to)
                    .u32_be(2, *modulus)
                    .u32_be(3, kind)
                    .u32_be(4, *offset);
            }
            _ => {}
        }
    }

    /// What computes with registers and matches.
    fn write_operation(&self, w: &mut AttrWriter) {
        match self {
            // NFTA_CMP_*: SREG 1, OP 2, DATA 3.
            Self::Cmp { op, from, value } => {
                value.write(register(w, 1, *from).u32_be(2, cmp_number(*op)), 3);
            }
            // NFTA_RANGE_*: SREG 1, OP 2, FROM_DATA 3, TO_DATA 4.
            Self::Range {
                inverted,
                from,
                low,
                high,
            } => {
                low.write(register(w, 1, *from).u32_be(2, u32::from(*inverted)), 3);
                high.write(w, 4);
            }
            // NFTA_BITWISE_*: SREG 1, DREG 2, LEN 3, MASK 4, XOR 5, OP 6.
            Self::Bitwise { from, to, operand } => {
                let len = u32::try_from(operand.mask.bytes().len()).unwrap_or(u32::MAX);
                register(register(w, 1, *from), 2, *to)
                    .u32_be(3, len)
                    .u32_be(6, 0);
                operand.mask.write(w, 4);
                operand.xor.write(w, 5);
            }
            // NFTA_BYTEORDER_*: SREG 1, DREG 2, OP 3, LEN 4, SIZE 5.
            Self::Byteorder {
                from,
                to,
                op,
                len,
                size,
            } => {
                let op = u32::from(*op == ByteorderOp::HostToNetwork);
                register(register(w, 1, *from), 2, *to)
                    .u32_be(3, op)
                    .u32_be(4, *len);
                w.u32_be(5, *size);
            }
            // NFTA_LIMIT_*: RATE 1, UNIT 2 (seconds), BURST 3, TYPE 4 (packets 0), FLAGS 5.
            Self::Limit {
                rate,
                unit,
                burst,
                inverted,
            } => {
                w.u64_be(1, *rate)
                    .u64_be(2, seconds(*unit))
                    .u32_be(3, *burst)
                    .u32_be(4, 0);
                w.u32_be(5, u32::from(*inverted));
            }
            _ => {}
        }
    }

    /// What uses sets.
    fn write_set_use(&self, w: &mut AttrWriter) {
        match self {
            // NFTA_LOOKUP_*: SET 1, SREG 2, DREG 3, FLAGS 5 (NFT_LOOKUP_F_INV 1).
            Self::Lookup {
                set,
                key,
                data,
                inverted,
            } => {
                register(w.string(1, set), 2, *key);
                if let Some(data) = data {
                    register(w, 3, *data);
                }
                if *inverted {
                    w.u32_be(5, 1);
                }
            }
            // NFTA_DYNSET_*: SET_NAME 1, OP 3, SREG_KEY 4, SREG_DATA 5, TIMEOUT 6.
            Self::Dynset {
                op,
                set,
                key,
                data,
                timeout,
            } => {
                register(w.string(1, set).u32_be(3, dynset_number(*op)), 4, *key);
                optional_register(w, 5, *data);
                if let Some(timeout) = timeout {
                    w.u64_be(6, milliseconds(*timeout));
                }
            }
            _ => {}
        }
    }

    /// What decides, translates and counts.
    fn write_action(&self, w: &mut AttrWriter) {
        match self {
            // NFTA_IMMEDIATE_*: DREG 1, DATA 2.
            Self::Verdict(verdict) => {
                Data::Verdict(verdict.clone()).write(register(w, 1, Register::VERDICT), 2);
            }
            // NFTA_NAT_*: TYPE 1, FAMILY 2, REG_ADDR_MIN 3, REG_PROTO_MIN 5, FLAGS 7.
            Self::Nat {
                kind,
                family,
                address,
                port,
                flags,
            } => {
                let kind = u32::from(*kind == NatKind::Destination);
                w.u32_be(1, kind).u32_be(2, u32::from(family.number()));
                optional_register(w, 3, *address);
                optional_register(w, 5, *port);
                nat_flags(w, 7, *flags);
            }
            // NFTA_MASQ_FLAGS 1.
            Self::Masquerade { flags } => nat_flags(w, 1, *flags),
            // NFTA_REDIR_*: REG_PROTO_MIN 1, FLAGS 3.
            Self::Redirect { port, flags } => {
                optional_register(w, 1, *port);
                nat_flags(w, 3, *flags);
            }
            // NFTA_REJECT_*: TYPE 1, ICMP_CODE 2.
            Self::Reject(reject) => match reject {
                Reject::Icmp(code) => {
                    w.u32_be(1, 0).u8(2, *code);
                }
                Reject::TcpReset => {
                    w.u32_be(1, 1);
                }
                Reject::Icmpx(code) => {
                    w.u32_be(1, 2).u8(2, *code);
                }
            },
            // NFTA_COUNTER_*: BYTES 1, PACKETS 2.
            Self::Counter { packets, bytes } => {
                w.u64_be(1, *bytes).u64_be(2, *packets);
            }
            _ => {}
        }
    }
}

fn register(w: &mut AttrWriter, kind: u16, register: Register) -> &mut AttrWriter {
    w.u32_be(kind, register.number())
}

fn optional_register(w: &mut AttrWriter, kind: u16, optional: Option<Register>) {
    if let Some(number) = optional {
        register(w, kind, number);
    }
}

/// `NF_NAT_RANGE_*`; the kernel adds those that follow from the registers given.
fn nat_flags(w: &mut AttrWriter, kind: u16, flags: NatFlags) {
    let bits = u32::from(flags.random) << 2
        | u32::from(flags.persistent) << 3
        | u32::from(flags.fully_random) << 4;
    if bits != 0 {
        w.u32_be(kind, bits);
    }
}

fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Mark => 3,
        MetaKey::Iif => 4,
        MetaKey::Oif => 5,
        MetaKey::Iifname => 6,
        MetaKey::Oifname => 7,
        MetaKey::Nfproto => 15,
        MetaKey::L4proto => 16,
    }
}

fn ct_number(key: CtKey) -> u32 {
    match key {
        CtKey::State => 0,
        CtKey::Status => 2,
        CtKey::Mark => 3,
        CtKey::Protocol => 10,
        CtKey::ProtoSrc => 11,
        CtKey::ProtoDst => 12,
        CtKey::SrcIp => 19,
        CtKey::DstIp => 20,
        CtKey::SrcIp6 => 21,
        CtKey::DstIp6 => 22,
    }
}

fn base_number(base: PayloadBase) -> u32 {
    match base {
        PayloadBase::Link => 0,
        PayloadBase::Network => 1,
        PayloadBase::Transport => 2,
    }
}

fn cmp_number(op: CmpOp) -> u32 {
    match op {
        CmpOp::Eq => 0,
        CmpOp::Ne => 1,
        CmpOp::Lt => 2,
        CmpOp::Le => 3,
        CmpOp::Gt => 4,
        CmpOp::Ge => 5,
    }
}

fn result_number(result: FibResult) -> u32 {
    match result {
        FibResult::Oif => 1,
        FibResult::Oifname => 2,
        FibResult::AddressType => 3,
    }
}

/// `NFTA_FIB_F_*`.
fn fib_flags(source: FibSource) -> u32 {
    u32::from(source.saddr)
        | u32::from(source.daddr) << 1
        | u32::from(source.mark) << 2
        | u32::from(source.iif) << 3
        | u32::from(source.oif) << 4
}

fn dynset_number(op: DynsetOp) -> u32 {
    match op {
        DynsetOp::Add => 0,
        DynsetOp::Update => 1,
        DynsetOp::Delete => 2,
    }
}

fn seconds(unit: LimitUnit) -> u64 {
    match unit {
        LimitUnit::Second => 1,
        LimitUnit::Minute => 60,
        LimitUnit::Hour => 3600,
    }
}
