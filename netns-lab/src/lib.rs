//! Placeholder.

pub mod apiserver;
