//! One node in a network namespace of its own: an API server, endpoints that answer, and the real
//! `causeway-proxy` as a process. Never touches the machine's own namespace.

mod node;
pub mod objects;
pub mod privileges;
mod probe;
mod process;

pub use node::{Bed, ECHO_PORT, NODE_IP, NODE_NAME, PORTS};
pub use probe::{answer, get, get_as, sure_answer, wait_for, wait_until};
pub use process::{Proxy, Usage};
