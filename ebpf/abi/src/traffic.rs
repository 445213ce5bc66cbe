//! What is counted for each Service port, and for each of its backends.

use crate::Backend;

/// A Service port, or one of its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct TrafficKey {
    /// [`crate::Frontend::service`].
    pub service: u32,
    /// [`Backend::NONE`]: all of the Service port, also what went to backends that left.
    pub backend: Backend,
}

impl TrafficKey {
    /// Of no Service port.
    pub const NONE: Self = Self {
        service: 0,
        backend: Backend::NONE,
    };
}

/// Of all frontends of a Service port together, for each processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Traffic {
    /// Connections, UDP flows among them.
    pub connections: u64,
    /// Calls and packets that were refused or dropped: there is no backend.
    pub refused: u64,
    /// Packets to backends that were translated. (Those of sockets pass by no program.)
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Packets that were translated on their way back.
    pub answer_packets: u64,
    /// Their bytes, from the IP header on.
    pub answer_bytes: u64,
}

impl Traffic {
    /// One connection more.
    pub const CONNECTION: Self = Self {
        connections: 1,
        ..Self::NONE
    };
    /// One refusal more.
    pub const REFUSAL: Self = Self {
        refused: 1,
        ..Self::NONE
    };
    /// Nothing.
    pub const NONE: Self = Self {
        connections: 0,
        refused: 0,
        packets: 0,
        bytes: 0,
        answer_packets: 0,
        answer_bytes: 0,
    };

    /// So many packets more, of so many bytes together.
    #[inline(always)]
    #[must_use]
    pub const fn packets(packets: u64, bytes: u64, answers: bool) -> Self {
        if answers {
            Self {
                answer_packets: packets,
                answer_bytes: bytes,
                ..Self::NONE
            }
        } else {
            Self {
                packets,
                bytes,
                ..Self::NONE
            }
        }
    }

    /// So much more.
    #[inline(always)]
    pub fn add(&mut self, more: &Self) {
        self.connections = self.connections.wrapping_add(more.connections);
        self.refused = self.refused.wrapping_add(more.refused);
        self.packets = self.packets.wrapping_add(more.packets);
        self.bytes = self.bytes.wrapping_add(more.bytes);
        self.answer_packets = self.answer_packets.wrapping_add(more.answer_packets);
        self.answer_bytes = self.answer_bytes.wrapping_add(more.answer_bytes);
    }
}

/// A Service port's name, `namespace/name:port`, with zeros behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortName {
    /// UTF-8. Each of its three parts has 63 characters at most (RFC 1123 labels).
    pub text: [u8; 192],
}

impl PortName {
    /// As much of it as there is room for.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut text = [0; 192];
        for (place, byte) in text.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        Self { text }
    }

    /// What was named.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.text.split(|byte| *byte == 0).next();
        text.and_then(|text| core::str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}
