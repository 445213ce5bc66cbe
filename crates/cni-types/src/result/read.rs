use serde_json::Value;

use super::{Interface, IpConfig, Success};
use crate::{Dns, Error, Object, Route, Version};

impl Success {
    /// Reads a result. Its own `cniVersion` says the shape; without one, `or_version` does.
    ///
    /// # Errors
    /// Code 1 for an unknown version, 6 or 7 naming the key that is wrong.
    pub fn from_json(value: &Value, or_version: Version) -> Result<Self, Error> {
        Self::from_object(&Object::new("result", value)?, or_version)
    }

    pub(crate) fn from_object(object: &Object<'_>, or_version: Version) -> Result<Self, Error> {
        let version = match object.filled_text("cniVersion")? {
            None => or_version,
            Some(text) => text
                .parse()
                .map_err(|error: Error| error.at(object.path_of("cniVersion")))?,
        };
        if version < Version::V0_3_0 {
            by_family(object)
        } else {
            by_list(object)
        }
    }
}

/// Versions 0.1.0 and 0.2.0: `ip4` and `ip6`, each with its own routes.
fn by_family(object: &Object<'_>) -> Result<Success, Error> {
    let mut success = Success {
        dns: dns(object)?,
        ..Success::default()
    };
    for (key, is_ipv4) in [("ip4", true), ("ip6", false)] {
        let Some(family) = object.object(key)? else {
            continue;
        };
        let address = match family.cidr("ip")? {
            Some(address) if address.address().is_ipv4() == is_ipv4 => address,
            _ => return Err(family.invalid("ip", "an address of the family with its prefix")),
        };
        success.ips.push(IpConfig {
            address,
            gateway: family.address("gateway")?,
            interface: None,
        });
        success.routes.extend(Route::list(&family)?);
    }
    Ok(success)
}

/// Versions from 0.3.0: lists of interfaces, addresses and routes.
fn by_list(object: &Object<'_>) -> Result<Success, Error> {
    let interfaces: Vec<_> = object
        .objects("interfaces")?
        .iter()
        .map(interface)
        .collect::<Result<_, _>>()?;
    let ips = object.objects("ips")?;
    let ips = ips
        .iter()
        .map(|ip| ip_config(ip, interfaces.len()))
        .collect::<Result<_, _>>()?;
    Ok(Success {
        interfaces,
        ips,
        routes: Route::list(object)?,
        dns: dns(object)?,
    })
}

fn dns(object: &Object<'_>) -> Result<Dns, Error> {
    Ok(object
        .object("dns")?
        .map(|dns| Dns::from_object(&dns))
        .transpose()?
        .unwrap_or_default())
}

fn interface(object: &Object<'_>) -> Result<Interface, Error> {
    let text = |key| {
        object
            .text(key)
            .map(|text| text.unwrap_or_default().to_owned())
    };
    Ok(Interface {
        name: text("name")?,
        mac: text("mac")?,
        mtu: object.number_u32("mtu")?.filter(|mtu| *mtu > 0),
        sandbox: text("sandbox")?,
        socket_path: text("socketPath")?,
        pci_id: text("pciID")?,
    })
}

fn ip_config(object: &Object<'_>, interfaces: usize) -> Result<IpConfig, Error> {
    let Some(address) = object.cidr("address")? else {
        return Err(object.invalid("address", "an address with a prefix, as 10.0.0.5/24"));
    };
    let interface = match object.get("interface") {
        None => None,
        // The Go library writes -1 where it means "no interface".
        Some(value) if value.as_i64() == Some(-1) => None,
        Some(_) => object.number("interface", u64::from(u32::MAX))?,
    };
    let interface = interface.and_then(|index| usize::try_from(index).ok());
    if interface.is_some_and(|index| index >= interfaces) {
        return Err(object.invalid("interface", "an index into interfaces"));
    }
    Ok(IpConfig {
        address,
        gateway: object.address("gateway")?,
        interface,
    })
}
