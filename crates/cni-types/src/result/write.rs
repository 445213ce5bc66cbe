use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::{Interface, IpConfig, Success};
use crate::{Cidr, Code, Dns, Error, Route, Version};

impl Success {
    /// Writes the result in a version's shape. What the version cannot say is left out: keys that
    /// came with 1.1.0, and before 0.3.0 the interfaces and all but one address a family.
    ///
    /// # Errors
    /// Code 6 when the version is older than 0.3.0 and there is no address at all, as such a
    /// result would say nothing.
    pub fn to_json(&self, version: Version) -> Result<Value, Error> {
        let written = match version {
            Version::V0_1_0 | Version::V0_2_0 => serde_json::to_value(self.by_family(version)?),
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 | Version::V1_0_0 => {
                serde_json::to_value(self.by_list(version, true))
            }
            Version::V1_1_0 => serde_json::to_value(self.by_list(version, false)),
        };
        written.map_err(|error| Error::new(Code::DECODE, format!("writing the result: {error}")))
    }

    fn by_list(&self, version: Version, reduced: bool) -> Lists<'_> {
        let with_family = version < Version::V1_0_0;
        let interfaces = self.interfaces.iter().cloned();
        let routes = self.routes.iter();
        Lists {
            cni_version: version.as_str(),
            interfaces: interfaces
                .map(|i| if reduced { reduce(i) } else { i })
                .collect(),
            ips: self.ips.iter().map(|ip| Ip::new(ip, with_family)).collect(),
            routes: routes
                .map(|r| if reduced { r.reduced() } else { r.clone() })
                .collect(),
            dns: &self.dns,
        }
    }

    fn by_family(&self, version: Version) -> Result<Families<'_>, Error> {
        let (ip4, ip6) = (self.family(true), self.family(false));
        if ip4.is_none() && ip6.is_none() {
            let message = format!("a result without addresses cannot be said in {version}");
            return Err(Error::new(Code::DECODE, message));
        }
        Ok(Families {
            cni_version: version.as_str(),
            ip4,
            ip6,
            dns: &self.dns,
        })
    }

    fn family(&self, ipv4: bool) -> Option<Family> {
        let ip = self
            .ips
            .iter()
            .find(|ip| ip.address.address().is_ipv4() == ipv4)?;
        let routes = self
            .routes
            .iter()
            .filter(|route| route.dst.address().is_ipv4() == ipv4);
        Some(Family {
            ip: ip.address,
            gateway: ip.gateway,
            routes: routes.map(Route::reduced).collect(),
        })
    }
}

fn reduce(interface: Interface) -> Interface {
    let Interface {
        name, mac, sandbox, ..
    } = interface;
    Interface {
        name,
        mac,
        sandbox,
        ..Interface::default()
    }
}

#[derive(Serialize)]
struct Lists<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<Ip<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct Ip<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(flatten)]
    config: &'a IpConfig,
}

impl<'a> Ip<'a> {
    fn new(config: &'a IpConfig, with_family: bool) -> Self {
        let family = if config.address.address().is_ipv4() {
            "4"
        } else {
            "6"
        };
        Self {
            version: with_family.then_some(family),
            config,
        }
    }
}

#[derive(Serialize)]
struct Families<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Family>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Family>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct Family {
    ip: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}
