//! The Service model. It never opens a socket, reads a clock or writes a log line: facts go in
//! through one door ([`Model::apply`]), decisions come out.

pub mod frontend;
#[cfg(feature = "generate")]
pub mod generate;
pub mod model;
pub mod oracle;
pub mod said;

pub use frontend::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, LocalDetector, Masquerade, Protocol,
    ServiceName, ServicePort, Treatment,
};
pub use model::{Changes, Complaint, DetectLocal, HealthCheck, Model, ModelConfig};
pub use oracle::{Packet, Route};
