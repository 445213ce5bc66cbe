//! Addresses from ranges, reserved as files, in the layout of the reference plugin `host-local`:
//! either can take over from the other.

mod claim;
mod config;
mod index;
mod range;
mod reserve;
mod store;

pub(crate) use config::Config;
pub(crate) use reserve::{add, check, held_by, keep_only, release};
