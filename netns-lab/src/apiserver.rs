//! An embedded Kubernetes API server for labs and tests.
//!
//! It never authenticates anybody, never keeps anything on disk, and never schedules or runs a
//! pod: it serves a [`Store`] that lives in this process.

mod admission;
mod allocation;
mod history;
mod identity;
mod object;
mod refusal;
mod resource;
mod selector;
mod store;
mod watch;

pub use allocation::ServiceRanges;
pub use object::Object;
pub use refusal::Refusal;
pub use resource::Resource;
pub use store::{Deleted, Deletion, Listing, Part, PodRemoval, Store, StoreOptions};
pub use watch::{Change, Event, Watch};
