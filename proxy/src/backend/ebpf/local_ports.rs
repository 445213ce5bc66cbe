//! Ports of the node's own connections, beside those that masqueraded ones get: a connection of each
//! kind from the same port to the same peer could not be told apart by its answers.

use std::ops::RangeInclusive;

use nodekit::sysctl::{self, Key};

/// Warns where the kernel may give a port of `snat` to the node's own connections
/// (`ip_local_port_range`, `ip_local_reserved_ports`: Documentation/networking/ip-sysctl.rst).
pub(super) fn compare(snat: &RangeInclusive<u16>) {
    let (Some(given), Some(reserved)) =
        (read("ip_local_port_range"), read("ip_local_reserved_ports"))
    else {
        return;
    };
    if may_meet(snat, &given, &reserved) {
        tracing::warn!(
            ports = ?snat,
            ip_local_port_range = given,
            "--ebpf-snat-ports are given to this node's own connections as well: choose others, or \
             add them to net.ipv4.ip_local_reserved_ports"
        );
    }
}

/// The value of a parameter of IPv4, which IPv6 heeds, too.
fn read(name: &str) -> Option<String> {
    let key = Key::new(["net", "ipv4", name]).ok()?;
    let value = sysctl::read(&key).ok()?;
    Some(value.split_whitespace().collect::<Vec<_>>().join("-"))
}

/// Whether a port of `snat` is in `given` and not in `reserved`: `1-3`, and `1-3,5`.
fn may_meet(snat: &RangeInclusive<u16>, given: &str, reserved: &str) -> bool {
    let Some(given) = range(given) else {
        return false;
    };
    let reserved: Vec<_> = reserved.split(',').filter_map(range).collect();
    let mut both = snat.clone().filter(|port| given.contains(port));
    both.any(|port| !reserved.iter().any(|range| range.contains(&port)))
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_given_and_not_reserved_meet() {
        let snat = 61_000..=65_535;
        for (given, reserved, meet) in [
            ("32768-60999", "", false),
            ("32768-61000", "", true),
            ("1024-65535", "", true),
            ("1024-65535", "8080,61000-65535", false),
            ("1024-65535", "8080,61000-65534", true),
            ("1024-65535", "61000-63000,63001-65535", false),
            ("?", "", false),
        ] {
            assert_eq!(may_meet(&snat, given, reserved), meet, "{given} {reserved}");
        }
    }
}
