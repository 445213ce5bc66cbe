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

/// Of all frontends of a Service port together, for each processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Traffic {
    /// Connections, UDP flows among them.
    pub connections: u64,
    /// Calls and packets that were refused or dropped: there is no backend.
    pub refused: u64,
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
    };

    /// So much more.
    #[inline(always)]
    pub fn add(&mut self, more: &Self) {
        self.connections = self.connections.wrapping_add(more.connections);
        self.refused = self.refused.wrapping_add(more.refused);
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
