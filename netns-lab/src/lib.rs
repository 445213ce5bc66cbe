//! Placeholder.

pub mod apiserver;
mod background;
pub mod controller;
pub mod dns;
