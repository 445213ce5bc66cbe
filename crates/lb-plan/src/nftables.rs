//! The nftables data plane: state in the elements of a few maps, never in rules.
//!
//! One table per family. A frontend is one element of `frontends` (or `nodeports`) that goes to the
//! chain of its [`Class`]: everything about it but its own data. Its endpoints are elements of
//! `endpoints`, numbered by slot, from which the class's chain draws. So there are as many chains as
//! there are distinct classes, and none per Service or endpoint.
//!
//! [`skeleton`] makes the table; a [`Pass`] over an [`Applied`] turns the frontends of a Service
//! into [`Step`]s, each of which must be applied whole or not at all. A full program is the same
//! pass over an empty [`Applied`].

mod adopt;
mod applied;
mod class;
mod element;
mod operation;
mod pass;
mod probe;
mod render;
mod rule;
mod settings;
mod slots;
mod virtual_kernel;
mod walk;

pub use adopt::Found;
pub use applied::Applied;
pub use class::{Addressing, Class, MAX_ENDPOINTS, UnknownChain};
pub use element::{Element, Set, Target};
pub use operation::Operation;
pub use pass::{Pass, Step};
pub use probe::probe;
pub use render::{TABLE, render};
pub use rule::{Chain, Choice, Hook, Match, Rule, Statement};
pub use settings::{AFFINITY_SIZE, Balancer, Settings, skeleton};
pub use slots::LOCAL_SLOTS;
pub use virtual_kernel::{Refusal, VirtualKernel};
pub use walk::{Affinity, Verdict};
