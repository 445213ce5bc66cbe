//! Configuration: what was said (file, then flags over it) and what it means are two types.

mod duration;
mod flags;
mod meaning;
mod netaddr;
mod read;
pub mod said;

pub use flags::overlay;
pub use meaning::{
    Api, FieldError, Invalid, LogFormat, Logging, Mode, NodePortAddresses, Settings, Timing,
};
pub use read::{ReadError, read, read_file};
