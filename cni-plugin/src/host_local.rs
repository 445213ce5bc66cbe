//! Addresses from ranges, reserved as files, in the layout of the reference plugin `host-local`:
//! either can take over from the other.

mod boot;
mod claim;
mod config;
mod index;
mod range;
pub(crate) mod reservation;
mod reserve;
mod store;

pub(crate) use config::{Config, DEFAULT_DATA_DIR, notes};
pub(crate) use reserve::{add, check, held_by, holders, keep_only, release, status};
pub(crate) use store::reservations;
