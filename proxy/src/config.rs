//! Configuration: what was said (file, then flags over it) and what it means are two types.

mod change;
mod defaults;
mod duration;
mod flags;
mod gates;
mod load;
mod meaning;
mod netaddr;
mod read;
pub mod said;
mod watch;

pub use flags::{FLAGS, Flag, FlagError, Given, Takes, flag_defaults, overlay};
pub use gates::gate_warnings;
pub use load::{LoadError, Loaded, file_text, load, warning_of_mode};
pub use meaning::{
    Api, Conntrack, FieldError, Invalid, LogFormat, Logging, Mode, NodePortAddresses, PlaneSection,
    Settings, Timing,
};
pub use read::{ReadError, read};
pub use watch::ConfigFile;
