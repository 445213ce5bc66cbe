//! Which established flows may go on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::frontend::FrontendAddress;
use crate::model::Model;
use crate::model::slice::Traits;

impl Model {
    /// The addresses of all endpoints behind `address` that still serve, chosen for new connections
    /// or not, sorted; `None` when there is no such frontend. A flow of a protocol without
    /// connections (UDP) that goes to any other address leads nowhere.
    pub fn serving(&self, address: &FrontendAddress) -> Option<Vec<IpAddr>> {
        let claim = self.claims.owner(address)?;
        let said = self.endpoints_behind(claim).into_iter();
        let serves = |traits: Traits| traits.has(Traits::READY) || traits.has(Traits::DRAINING);
        let mut serving: Vec<IpAddr> = said
            .filter(|(_, _, traits)| serves(*traits))
            .map(|(ip, ..)| ip)
            .collect();
        serving.dedup();
        Some(serving)
    }

    /// The addresses of all endpoints behind `address`, also of those that don't serve (yet, or any
    /// more); `None` when there is no such frontend. What is not among them is no endpoint any more.
    pub fn listed(&self, address: &FrontendAddress) -> Option<BTreeSet<IpAddr>> {
        let claim = self.claims.owner(address)?;
        let said = self.endpoints_behind(claim).into_iter();
        let idle = self.idle_behind(claim).into_iter();
        Some(said.map(|(ip, ..)| ip).chain(idle).collect())
    }
}
