//! The role `static`: addresses that are written down, in the configuration or by the runtime.

use std::net::IpAddr;

use cni_types::{Args, Cidr, Code, Dns, Error, IpConfig, Object, PluginConfig, Route, Success};

use crate::call::Call;
use crate::failure;

/// Keys of CNI_ARGS that are known; the others are refused unless `IgnoreUnknown` is set.
const KNOWN_ARGS: [&str; 3] = ["IP", "GATEWAY", "MAC"];

/// What `ipam` means.
#[derive(Debug)]
pub(crate) struct Config {
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl Config {
    /// Reads everything. Addresses that the runtime asks for (`runtimeConfig.ips`, else
    /// `args.cni.ips`) stand in for those of the configuration; CNI_ARGS adds to the latter.
    ///
    /// # Errors
    /// Code 4, 6 or 7 naming what is wrong, also when there is no address.
    pub(crate) fn read(config: &PluginConfig, args: &Args) -> Result<Self, Error> {
        args.refuse_unknown(&KNOWN_ARGS)?;
        let object = config.object();
        let Some(ipam) = object.object("ipam")? else {
            return Err(object.invalid("ipam", "an object with type static"));
        };
        let mut ips = configured(&ipam)?;
        ips.extend(by_arguments(args)?);
        let by_args = object.object("args")?.map(|args| args.object("cni"));
        for asking in [
            by_args.transpose()?.flatten(),
            object.object("runtimeConfig")?,
        ] {
            let asked = asking.map(|asking| asked_for(&asking)).transpose()?;
            if let Some(asked) = asked.filter(|asked| !asked.is_empty()) {
                ips = asked;
            }
        }
        if ips.is_empty() {
            return Err(ipam.invalid("addresses", "a list of {address, gateway}, as 10.0.0.5/24"));
        }
        Ok(Self {
            ips,
            routes: Route::list(&ipam)?,
            dns: ipam
                .object("dns")?
                .map(|dns| Dns::from_object(&dns))
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// What ADD gives.
    pub(crate) fn result(&self) -> Success {
        Success {
            interfaces: Vec::new(),
            ips: self.ips.clone(),
            routes: self.routes.clone(),
            dns: self.dns.clone(),
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.iter().map(|ip| ip.address.address())
    }
}

/// Sees whether ADD's result has what the configuration says.
///
/// # Errors
/// Code 7 without that result, 102 naming what is missing or different.
pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let wanted = Config::read(&call.config, &call.args)?;
    let Some(told) = call.config.prev_result(call.version)? else {
        let message = "prevResult: missing; CHECK needs ADD's result";
        return Err(Error::new(Code::INVALID_CONFIG, message));
    };
    for ip in &wanted.ips {
        let same = |told: &&IpConfig| told.address.address() == ip.address.address();
        let Some(told) = told.ips.iter().find(same) else {
            let message = format!("prevResult lacks the configured address {}", ip.address);
            return Err(Error::new(failure::CHANGED, message));
        };
        if ip
            .gateway
            .is_some_and(|gateway| told.gateway != Some(gateway))
        {
            let message = format!("prevResult has {} with another gateway", ip.address);
            return Err(Error::new(failure::CHANGED, message));
        }
    }
    Ok(())
}

fn configured(ipam: &Object<'_>) -> Result<Vec<IpConfig>, Error> {
    let read = |object: &Object<'_>| {
        let Some(address) = object.cidr("address")? else {
            return Err(object.invalid("address", "an address with a prefix, as 10.0.0.5/24"));
        };
        let gateway = object.address("gateway")?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.address().is_ipv4()) {
            return Err(
                object.invalid("gateway", &format!("an address of the family of {address}"))
            );
        }
        Ok(without_interface(address, gateway))
    };
    ipam.objects("addresses")?.iter().map(read).collect()
}

/// `ips` of `runtimeConfig` or of `args.cni`: unlike `host-local`'s, they need their prefix.
fn asked_for(object: &Object<'_>) -> Result<Vec<IpConfig>, Error> {
    let parse = |text: String| {
        let address = text
            .parse()
            .map_err(|_| object.invalid("ips", "addresses with prefixes, as 10.0.0.5/24"))?;
        Ok(without_interface(address, None))
    };
    object.texts("ips")?.into_iter().map(parse).collect()
}

/// CNI_ARGS: IP adds addresses, GATEWAY is for those of them whose subnet it is in; both are lists
/// split by commas.
fn by_arguments(args: &Args) -> Result<Vec<IpConfig>, Error> {
    let mut ips = Vec::new();
    for text in listed(args, "IP") {
        let address = text
            .parse()
            .map_err(|_| refused("IP", text, "addresses with prefixes, as 10.0.0.5/24"))?;
        ips.push(without_interface(address, None));
    }
    for text in listed(args, "GATEWAY") {
        let gateway: IpAddr = text
            .parse()
            .map_err(|_| refused("GATEWAY", text, "IP addresses"))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(ips)
}

fn listed<'a>(args: &'a Args, key: &str) -> impl Iterator<Item = &'a str> {
    let texts = args.get(key).unwrap_or_default().split(',').map(str::trim);
    texts.filter(|text| !text.is_empty())
}

fn refused(key: &str, text: &str, accepted: &str) -> Error {
    let message = format!("CNI_ARGS has {key}={text}; accepted are {accepted}");
    Error::new(Code::INVALID_ENVIRONMENT, message)
}

fn without_interface(address: Cidr, gateway: Option<IpAddr>) -> IpConfig {
    IpConfig {
        address,
        gateway,
        interface: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value, args: &str) -> Result<Config, Error> {
        let config = PluginConfig::decode(value.to_string().as_bytes())?;
        Config::read(&config, &Args::parse(args)?)
    }

    fn addresses(value: &Value, args: &str) -> Vec<String> {
        let ips = read(value, args).unwrap().ips;
        ips.iter().map(|ip| ip.address.to_string()).collect()
    }

    #[test]
    fn the_runtime_goes_before_the_arguments_and_those_before_the_configuration() {
        let mut config = json!({"name": "n", "ipam": {
            "addresses": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.96.0.10"]},
        }});
        let all = read(&config, "").unwrap().result();
        assert_eq!(all.ips[0].gateway, Some("10.0.0.1".parse().unwrap()));
        assert_eq!((all.routes.len(), all.dns.nameservers.len()), (1, 1));

        let args = "IP=10.0.1.5/24, fd00::5/64;GATEWAY=fd00::1,10.0.1.1";
        let ips = read(&config, args).unwrap().ips;
        let gateways: Vec<_> = ips
            .iter()
            .map(|ip| ip.gateway.unwrap().to_string())
            .collect();
        assert_eq!(gateways, ["10.0.0.1", "10.0.1.1", "fd00::1"]);

        config["args"] = json!({"cni": {"ips": ["10.0.2.5/24"]}});
        assert_eq!(addresses(&config, args), ["10.0.2.5/24"]);
        config["runtimeConfig"] = json!({"ips": ["10.0.3.5/24", "fd00::7/64"]});
        assert_eq!(addresses(&config, args), ["10.0.3.5/24", "fd00::7/64"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |addresses: Value| json!({"name": "n", "ipam": {"addresses": addresses}});
        let good = with(json!([{"address": "10.0.0.5/24"}]));
        for (config, args, words) in [
            (json!({"name": "n"}), "", "ipam"),
            (with(json!([])), "", "ipam.addresses"),
            (with(json!([{}])), "", "ipam.addresses[0].address"),
            (with(json!([{"address": "10.0.0.5"}])), "", "10.0.0.5"),
            (
                with(json!([{"address": "10.0.0.5/24", "gateway": "fd00::1"}])),
                "",
                "ipam.addresses[0].gateway",
            ),
            (good.clone(), "IP=10.0.0.6", "IP=10.0.0.6"),
            (good.clone(), "GATEWAY=x", "GATEWAY=x"),
            (good.clone(), "FOO=1", "FOO"),
            (
                json!({"name": "n", "ipam": {}, "runtimeConfig": {"ips": ["10.0.0.6"]}}),
                "",
                "runtimeConfig.ips",
            ),
        ] {
            let error = read(&config, args).unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }
}
