//! Whether anybody encrypts packets, or wants to have them encrypted (IPsec), as the kernel knows it.
//!
//! It never changes a policy or a state. Source: `linux/xfrm.h`.

use std::fmt::Display;

use nix::errno::Errno;

use crate::netlink::{Error, Events, Message, Protocol, Socket, Told, attrs};

/// `XFRM_MSG_*`
const NEW_STATE: u16 = 0x10;
const NEW_POLICY: u16 = 0x13;
const UPDATED_POLICY: u16 = 0x19;
const UPDATED_STATE: u16 = 0x1a;
const GET_STATES: u16 = 0x23;
const GET_POLICIES: u16 = 0x25;
/// By this the kernel tells of a default that was set, too (`xfrm_notify_userpolicy`).
const GET_DEFAULT: u16 = 0x28;
/// `XFRMNLGRP_SA` and `XFRMNLGRP_POLICY`
const GROUPS: [u32; 2] = [3, 4];
/// `XFRMA_SAD_CNT`
const STATES: u16 = 1;
/// `XFRMA_SPD_INFO`: a `struct xfrmu_spdinfo`, whose first three numbers count policies for what comes, leaves
/// and is sent on. Those of single sockets come after them.
const POLICIES: u16 = 1;
const DIRECTIONS: usize = 3;
/// `XFRM_USERPOLICY_BLOCK`
const BLOCK: u8 = 1;

/// A connection to the policies of the network namespace it was opened in.
#[derive(Debug)]
pub struct XfrmSocket {
    socket: Socket,
}

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Xfrm {
    /// Policies of all directions, without those of single sockets.
    pub policies: u32,
    /// Security associations.
    pub states: u32,
    /// What no policy is for is dropped, in any direction.
    pub blocks: bool,
}

impl Xfrm {
    /// Packets are as without IPsec.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.policies == 0 && self.states == 0 && !self.blocks
    }
}

impl XfrmSocket {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`]: `EPROTONOSUPPORT` where the kernel has no IPsec that can be configured by netlink.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Protocol::Xfrm)?,
        })
    }

    /// What there is now.
    ///
    /// # Errors
    /// As [`Socket::get`].
    pub fn look(&mut self) -> Result<Xfrm, Error> {
        let none = [0; 4];
        let policies = self.ask(&"count policies", GET_POLICIES, &none, |payload| {
            let counts = attrs(payload.get(none.len()..)?).find(POLICIES)?.payload;
            let (counts, _) = counts.as_chunks();
            let counts = counts.get(..DIRECTIONS)?.iter();
            Some(counts.map(|count| u32::from_ne_bytes(*count)).sum())
        })?;
        let states = self.ask(
            &"count security associations",
            GET_STATES,
            &none,
            |payload| attrs(payload.get(none.len()..)?).find(STATES)?.u32_ne(),
        )?;
        // `struct xfrm_userpolicy_default`: a byte for each direction.
        let what = "ask what happens without a policy";
        let defaults = self.ask(&what, GET_DEFAULT, &none, |payload| {
            Some(payload.get(..DIRECTIONS)?.contains(&BLOCK))
        });
        let blocks = match defaults {
            // Linux 5.14 and older have no such defaults.
            Err(error) if error.errno() == Some(Errno::EINVAL) => false,
            other => other?,
        };
        Ok(Xfrm {
            policies,
            states,
            blocks,
        })
    }

    fn ask<T>(
        &mut self,
        what: &dyn Display,
        kind: u16,
        payload: &[u8],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, Error> {
        let read = |message: &Message<'_>| {
            read(message.payload).ok_or_else(|| Error::malformed(what, "an answer without it"))
        };
        self.socket.get_one(what, kind, payload, read)
    }
}

/// Hears of policies and states.
///
/// # Errors
/// As [`Events::open`].
pub fn events() -> Result<Events, Error> {
    Events::open(Protocol::Xfrm, &GROUPS)
}

/// Whether what was told may mean that packets are encrypted that were not before.
#[must_use]
pub const fn adds(told: Told) -> bool {
    matches!(
        told,
        Told::Lost
            | Told::Kind(NEW_STATE | NEW_POLICY | UPDATED_POLICY | UPDATED_STATE | GET_DEFAULT)
    )
}
