//! Never reads the environment, a file or the kernel, and never executes a plugin: it turns
//! bytes and strings of the Container Network Interface into checked values and back.
//!
//! Covered are the specification's versions 0.1.0 to 1.1.0: the configuration a runtime stores
//! ([`NetworkList`]) and the one it sends to a plugin ([`PluginConfig`]), the environment
//! ([`Environment`]), the result of ADD in every version's shape ([`Success`]), version
//! negotiation ([`Version`], [`Supported`]) and the error object ([`Error`]).
//!
//! Keys are read as the Go library reads them: an exact match first, then without regard to
//! case, because containerd sends capability arguments as `HostPort` or `RangeStart`.

mod cidr;
mod config;
mod dns;
mod environment;
mod error;
mod list;
mod mac;
mod object;
mod result;
mod route;
mod runtime;
mod version;

pub use cidr::Cidr;
pub use config::{CniArgs, MAX_CONFIG_BYTES, PluginConfig, check_network_name};
pub use dns::Dns;
pub use environment::{Args, Attachment, Command, Environment};
pub use error::{Code, Error};
pub use list::{ListedPlugin, NetworkList};
pub use mac::MacAddress;
pub use object::Object;
pub use result::{Interface, IpConfig, Success};
pub use route::Route;
pub use runtime::{Bandwidth, IpRange, PortMapping, Protocol, RuntimeConfig};
pub use version::{Supported, Version};
