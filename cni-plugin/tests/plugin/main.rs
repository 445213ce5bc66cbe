//! The real binary, run as a container runtime runs it, in network namespaces of its own.
//!
//! Needs root (to make namespaces) and, for the comparison, the reference plugins in
//! `/usr/lib/cni` (Debian: containernetworking-plugins).

#[cfg(test)]
mod attach;
#[cfg(test)]
mod bandwidth;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod exceptions;
#[cfg(test)]
mod firewall;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod many;
#[cfg(test)]
mod masquerade;
#[cfg(test)]
mod masquerade_rules;
#[cfg(test)]
mod node;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod pains;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod ptp;
#[cfg(test)]
mod races;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reservations;
#[cfg(test)]
mod spoof;
#[cfg(test)]
mod together;
#[cfg(test)]
mod tracer;
#[cfg(test)]
mod tuning;
#[cfg(test)]
mod vlans;
