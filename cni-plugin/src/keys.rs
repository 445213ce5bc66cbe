//! Keys of the configuration that mean the same to several roles.

use cni_types::{Cidr, Code, Error, MacAddress, Object};

use crate::call::Call;

/// The smallest MTU of an Ethernet device, in bytes (ETH_MIN_MTU, linux/if_ether.h).
const LEAST_MTU: u64 = 68;
/// The largest MTU of a veth device, in bytes (ETH_MAX_MTU).
const MOST_MTU: u64 = 65_535;

/// `mtu`, in bytes; 0 and absent stand for the kernel's.
pub(crate) fn mtu(object: &Object<'_>) -> Result<Option<u32>, Error> {
    let Some(mtu) = object.number("mtu", MOST_MTU)?.filter(|mtu| *mtu != 0) else {
        return Ok(None);
    };
    if mtu < LEAST_MTU {
        let expected = format!("0 for the kernel's, or {LEAST_MTU} to {MOST_MTU} bytes");
        return Err(object.invalid("mtu", &expected));
    }
    Ok(u32::try_from(mtu).ok())
}

/// A list of addresses with prefixes.
pub(crate) fn cidrs(object: &Object<'_>, key: &str) -> Result<Vec<Cidr>, Error> {
    let parse = |text: String| {
        text.parse()
            .map_err(|_| object.invalid(key, "addresses with prefixes, as 10.0.0.0/8"))
    };
    object.texts(key)?.into_iter().map(parse).collect()
}

/// The pod's Ethernet address: by `runtimeConfig`, else by `args.cni`, else by CNI_ARGS.
pub(crate) fn mac(call: &Call) -> Result<Option<MacAddress>, Error> {
    match call.config.runtime()?.mac.or(call.config.args()?.mac) {
        Some(mac) => Ok(Some(mac)),
        None => mac_by_args(call),
    }
}

/// The pod's Ethernet address by CNI_ARGS, key `MAC`.
pub(crate) fn mac_by_args(call: &Call) -> Result<Option<MacAddress>, Error> {
    let Some(text) = call.args.get("MAC").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<MacAddress>() {
        Ok(mac) if mac.is_assignable() => Ok(Some(mac)),
        _ => {
            let message = format!("CNI_ARGS has MAC={text}; accepted is as 0a:58:0a:f4:00:05");
            Err(Error::new(Code::INVALID_ENVIRONMENT, message))
        }
    }
}
