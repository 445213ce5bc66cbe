use std::net::IpAddr;

use serde::Serialize;

use crate::{Cidr, Error, Object};

/// A route in the pod's namespace; all but `dst` and `gw` exist since 1.1.0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The destination.
    pub dst: Cidr,
    /// The next hop; where absent, the gateway of the interface's address of that family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The path's maximum transmission unit in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The maximum segment size to advertise, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// The metric: lower is preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope: 0 global, 253 link, 254 host (linux/rtnetlink.h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route with nothing but its destination and next hop.
    #[must_use]
    pub fn new(dst: Cidr, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    /// Reads one entry of `routes`.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key, also when next hop and destination differ in family.
    pub fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let Some(dst) = object.cidr("dst")? else {
            return Err(object.invalid("dst", "a destination, as 0.0.0.0/0"));
        };
        let gw = object.address("gw")?;
        if gw.is_some_and(|gw| gw.is_ipv4() != dst.address().is_ipv4()) {
            return Err(object.invalid("gw", &format!("a next hop of the family of {dst}")));
        }
        let scope = object.number("scope", u64::from(u8::MAX))?;
        Ok(Self {
            dst,
            gw,
            mtu: object.number_u32("mtu")?.filter(|mtu| *mtu > 0),
            advmss: object.number_u32("advmss")?.filter(|mss| *mss > 0),
            priority: object
                .number_u32("priority")?
                .filter(|priority| *priority > 0),
            table: object.number_u32("table")?,
            scope: scope.and_then(|scope| u8::try_from(scope).ok()),
        })
    }

    /// Reads the list `routes` of a configuration or a result.
    ///
    /// # Errors
    /// As [`Route::from_object`], or code 6 when it is no list.
    pub fn list(parent: &Object<'_>) -> Result<Vec<Self>, Error> {
        parent
            .objects("routes")?
            .iter()
            .map(Self::from_object)
            .collect()
    }

    /// The same route as versions before 1.1.0 can say it.
    #[must_use]
    pub(crate) fn reduced(&self) -> Self {
        Self::new(self.dst, self.gw)
    }
}
