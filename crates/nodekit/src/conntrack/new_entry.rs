//! A connection that the kernel is told of.

use std::net::IpAddr;
use std::time::Duration;

use super::entry::{Transport, Tuple, write_address};
use super::{STATUS, TIMEOUT, TUPLE_ORIG, TUPLE_REPLY};
use crate::netlink::AttrWriter;

const PROTOINFO: u16 = 4;
const NAT_SOURCE: u16 = 6;
const NAT_DESTINATION: u16 = 13;

const NAT_V4_FIRST: u16 = 1;
const NAT_V4_LAST: u16 = 2;
const NAT_PROTO: u16 = 3;
const NAT_V6_FIRST: u16 = 4;
const NAT_V6_LAST: u16 = 5;
const NAT_FIRST_PORT: u16 = 1;
const NAT_LAST_PORT: u16 = 2;

const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_BE_LIBERAL` (`nf_conntrack_tcp.h`): what the kernel
/// itself takes for granted of a connection whose beginning it did not see. Packets outside of a
/// window that is not known are not invalid.
const UNSEEN_BEGINNING: u8 = 0x02 | 0x08;

// `enum ip_conntrack_status`, `nf_conntrack_common.h`.
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;

/// A connection as it should be known: see [`super::ConntrackSocket::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEntry {
    /// As its first packet said, before any translation; with ports.
    pub original: Tuple,
    /// As answers come: where they differ from the original turned round, packets are translated.
    pub reply: Tuple,
    /// Packets came from both sides.
    pub answered: bool,
    /// How far it is, if it is one of TCP.
    pub tcp: Option<TcpState>,
    /// How long it stays without further packets, in whole seconds; with one, the kernel's own
    /// time counts.
    pub timeout: Duration,
}

/// How far a TCP connection is (`enum tcp_conntrack`, `nf_conntrack_tcp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// A SYN came.
    SynSent = 1,
    /// It goes both ways.
    Established = 3,
    /// A FIN came.
    FinWait = 4,
    /// Both sides are done.
    TimeWait = 7,
}

impl NewEntry {
    /// What is written of one that is not there yet.
    pub(super) fn write(&self, writer: &mut AttrWriter) {
        // The kernel makes the other reply out of the translation.
        let untranslated = self.original.reversed();
        writer.nested(TUPLE_ORIG, |w| self.original.write(w));
        writer.nested(TUPLE_REPLY, |w| untranslated.write(w));
        writer.u32_be(STATUS, CONFIRMED | self.status());
        self.write_progress(writer);
        let Transport::Ports {
            source,
            destination,
        } = self.reply.transport
        else {
            return;
        };
        // Both, since the kernel might take another source port than this if it took one itself.
        write_translation(writer, NAT_DESTINATION, self.reply.source, source);
        write_translation(writer, NAT_SOURCE, self.reply.destination, destination);
    }

    /// What is written of one that is there; its translation cannot be changed.
    pub(super) fn write_change(&self, writer: &mut AttrWriter) {
        writer.nested(TUPLE_ORIG, |w| self.original.write(w));
        if self.answered {
            writer.u32_be(STATUS, CONFIRMED | self.status());
        }
        self.write_progress(writer);
    }

    const fn status(&self) -> u32 {
        if self.answered {
            SEEN_REPLY | ASSURED
        } else {
            0
        }
    }

    fn write_progress(&self, writer: &mut AttrWriter) {
        let seconds = u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX);
        writer.u32_be(TIMEOUT, seconds);
        let Some(state) = self.tcp else {
            return;
        };
        writer.nested(PROTOINFO, |w| {
            w.nested(PROTOINFO_TCP, |w| {
                // `struct nf_ct_tcp_flags`: the flags, and which of them are meant.
                let flags = [UNSEEN_BEGINNING; 2];
                w.u8(TCP_STATE, state as u8)
                    .bytes(TCP_FLAGS_ORIGINAL, &flags)
                    .bytes(TCP_FLAGS_REPLY, &flags);
            });
        });
    }
}

/// To this address and port and no other (`struct nf_nat_range2`).
fn write_translation(writer: &mut AttrWriter, kind: u16, address: IpAddr, port: u16) {
    writer.nested(kind, |w| {
        write_address(w, address, NAT_V4_FIRST, NAT_V6_FIRST);
        write_address(w, address, NAT_V4_LAST, NAT_V6_LAST);
        w.nested(NAT_PROTO, |w| {
            w.u16_be(NAT_FIRST_PORT, port).u16_be(NAT_LAST_PORT, port);
        });
    });
}
