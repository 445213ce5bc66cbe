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
        let serves = |traits: Traits| traits.has(Traits::READY) || traits.has(Traits::DRAINING);
        self.behind_address(address, serves)
    }

    /// The addresses of all endpoints behind `address`, also of those that don't serve (yet, or any
    /// more), sorted; `None` when there is no such frontend. To any other address there was an
    /// endpoint at best.
    pub fn listed(&self, address: &FrontendAddress) -> Option<Vec<IpAddr>> {
        self.behind_address(address, |_| true)
    }

    fn behind_address(
        &self,
        address: &FrontendAddress,
        keep: impl Fn(Traits) -> bool,
    ) -> Option<Vec<IpAddr>> {
        let claim = self.claims.owner(address)?;
        let said = self.endpoints_behind(claim).into_iter();
        let mut found: Vec<IpAddr> = said
            .filter(|(_, _, traits)| keep(*traits))
            .map(|(ip, ..)| ip)
            .collect();
        found.dedup();
        Some(found)
    }
}
