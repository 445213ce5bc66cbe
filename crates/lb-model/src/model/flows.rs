//! Which established flows may go on.

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
}
