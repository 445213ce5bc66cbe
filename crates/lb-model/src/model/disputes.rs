//! Addresses that several Services claim, as people are told of them.

use crate::frontend::{FrontendAddress, FrontendKind, ServiceName};
use crate::model::claims::Claim;
use crate::model::{Complaint, Model};

impl Model {
    /// The Services whose claims may stand otherwise than when this was last asked, each with what it
    /// claims in vain now: nothing, where all is granted or the Service is gone.
    pub fn take_disputes(&mut self) -> Vec<(ServiceName, Vec<Complaint>)> {
        let disputed = std::mem::take(&mut self.disputed).into_iter();
        let with_claims = disputed.map(|name| {
            let service = self.trackers.known(&name);
            let service = service.and_then(|known| known.service.as_deref());
            let in_vain = service.into_iter();
            let in_vain = in_vain.flat_map(|service| self.claims.in_vain(&name, service));
            let complaints = in_vain.map(|(claim, owner)| complaint(&claim, owner));
            let complaints = complaints.collect();
            (name, complaints)
        });
        with_claims.collect()
    }
}

fn complaint(claim: &Claim, owner: &ServiceName) -> Complaint {
    let at = match claim.address {
        FrontendAddress::Vip { ip, protocol, port } => format!("{ip} {protocol}/{port}"),
        FrontendAddress::NodePort { protocol, port, .. } => format!("{protocol}/{port}"),
    };
    let field = match claim.kind() {
        FrontendKind::ClusterIp => "spec.clusterIPs",
        FrontendKind::NodePort => "spec.ports[].nodePort",
        FrontendKind::ExternalIp => "spec.externalIPs",
        FrontendKind::LoadBalancer => "status.loadBalancer.ingress[].ip",
    };
    Complaint {
        object: format!("Service {}", claim.service),
        field: field.to_owned(),
        value: format!("{at}, which Service {owner} has"),
        accepted: "an address, protocol and port that no other Service has the better claim to",
    }
}
