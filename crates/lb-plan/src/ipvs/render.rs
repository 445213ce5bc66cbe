//! Operations as `ipvsadm --restore` and `ip -batch` read them: for people and for golden files.

use std::fmt::Write;
use std::net::IpAddr;

use lb_model::Protocol;

use super::operation::{Key, Operation, Service};

/// The device that has the addresses of Services: kube-proxy's name for it, which what looks for a
/// node's own addresses (network plugins, routing daemons) knows to leave out.
pub const DEVICE: &str = "kube-ipvs0";

/// `operations` as text, one command a line.
pub fn render(operations: &[Operation]) -> String {
    let mut text = String::new();
    for operation in operations {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", command(operation));
    }
    text
}

fn command(operation: &Operation) -> String {
    match operation {
        Operation::AddService(service) => format!("-A {}", options(service)),
        Operation::SetService(service) => format!("-E {}", options(service)),
        Operation::DeleteService(key) => format!("-D {}", aim(key)),
        Operation::AddDestination { key, target } => {
            let to = address(target.ip, target.port);
            format!("-a {} -r {to} -m -w 1", aim(key))
        }
        Operation::SetDestination {
            key,
            target,
            drains,
        } => {
            let to = address(target.ip, target.port);
            format!("-e {} -r {to} -m -w {}", aim(key), u8::from(!drains))
        }
        Operation::DeleteDestination { key, target } => {
            format!("-d {} -r {}", aim(key), address(target.ip, target.port))
        }
        Operation::Bind(ip) => format!("address add {ip} dev {DEVICE}"),
        Operation::Unbind(ip) => format!("address delete {ip} dev {DEVICE}"),
    }
}

fn options(service: &Service) -> String {
    let mut text = format!("{} -s {}", aim(&service.key), service.scheduler);
    if let Some(seconds) = service.persistence {
        let _ = write!(text, " -p {seconds}");
    }
    text
}

fn aim(key: &Key) -> String {
    let option = match key.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    };
    format!("{option} {}", address(key.ip, key.port))
}

fn address(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
