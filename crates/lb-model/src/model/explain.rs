//! Why a packet goes where it goes, for people.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use crate::frontend::{Endpoint, FrontendKind};
use crate::model::Model;
use crate::model::claims::Claim;
use crate::model::slice::Traits;
use crate::oracle::{Packet, Route};

impl Model {
    /// Where `packet` goes, and why: the Service, its policies, and every endpoint with what
    /// speaks for or against it (`+`: a candidate). Lines of plain text, for people only.
    pub fn explain(&self, packet: &Packet) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_explanation(packet, &mut text);
        text
    }

    fn write_explanation(&self, packet: &Packet, out: &mut String) -> fmt::Result {
        let to = SocketAddr::new(packet.destination, packet.port);
        writeln!(out, "{} from {} to {to}", packet.protocol, packet.source)?;
        let route = self.route_packet(packet);
        if route == Route::NotOurs {
            return writeln!(out, "not ours: no frontend has this address and port");
        }
        let Some(claim) = packet
            .aims_at()
            .find_map(|address| self.claims.owner(&address))
        else {
            return writeln!(out, "rejected: a ClusterIP, but no such port");
        };
        let kind = match claim.kind() {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::NodePort => "node port",
            FrontendKind::ExternalIp => "external IP",
            FrontendKind::LoadBalancer => "load-balancer IP",
        };
        writeln!(out, "{kind} of Service {}", claim.service)?;
        for loser in self.claims.losers(claim) {
            writeln!(out, "claimed in vain by Service {}", loser.service)?;
        }
        self.write_frontend(claim, packet, &route, out)
    }

    fn write_frontend(
        &self,
        claim: &Claim,
        packet: &Packet,
        route: &Route,
        out: &mut String,
    ) -> fmt::Result {
        let Some(frontend) = self.frontend(&claim.address) else {
            return Ok(());
        };
        let is_pod = self.local_detector(claim.address.family()).is_pod(packet);
        let source = if is_pod {
            "a pod"
        } else {
            "not known to be a pod"
        };
        writeln!(out, "the source is {source}")?;
        if let Some(seconds) = frontend.affinity {
            writeln!(out, "a client stays with its endpoint for {seconds} s")?;
        }
        let allowed = frontend.allowed_sources.as_ref();
        if allowed.is_some_and(|all| !all.iter().any(|range| range.contains(packet.source))) {
            return writeln!(
                out,
                "dropped: the source is in none of loadBalancerSourceRanges"
            );
        }
        let none: &[Endpoint] = &[];
        let candidates = match route {
            Route::Endpoints {
                candidates,
                masquerade,
            } => {
                let masquerade = if *masquerade {
                    "rewritten to the node's"
                } else {
                    "kept"
                };
                writeln!(out, "to one of {}, source {masquerade}", candidates.len())?;
                candidates
            }
            Route::Drop => {
                writeln!(out, "dropped: policy Local, and no endpoint on this node")?;
                none
            }
            Route::Reject | Route::NotOurs => {
                writeln!(out, "rejected: no usable endpoint anywhere")?;
                none
            }
        };
        for (ip, port, traits) in self.endpoints_behind(claim) {
            let candidate = candidates
                .iter()
                .any(|chosen| (chosen.ip, chosen.port) == (ip, port));
            write_endpoint(ip, port, traits, candidate, packet.source, out)?;
        }
        Ok(())
    }
}

fn write_endpoint(
    ip: IpAddr,
    port: u16,
    traits: Traits,
    candidate: bool,
    source: IpAddr,
    out: &mut String,
) -> fmt::Result {
    let sign = if candidate { '+' } else { '-' };
    write!(out, "{sign} {}", SocketAddr::new(ip, port))?;
    let ready = if traits.has(Traits::READY) {
        "ready"
    } else {
        "terminating"
    };
    let place = if traits.has(Traits::LOCAL) {
        "on this node"
    } else {
        "elsewhere"
    };
    write!(out, " {ready}, {place}")?;
    for (hint, here, what) in [
        (Traits::NODE_HINT, Traits::THIS_NODE, "node"),
        (Traits::ZONE_HINT, Traits::THIS_ZONE, "zone"),
    ] {
        if traits.has(here) {
            write!(out, ", hinted for this {what}")?;
        } else if traits.has(hint) {
            write!(out, ", hinted for another {what}")?;
        }
    }
    if candidate && traits.has(Traits::LOCAL) && ip == source {
        write!(out, ", the source itself: masqueraded")?;
    }
    writeln!(out)
}
