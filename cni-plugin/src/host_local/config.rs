//! The key `ipam` of a network that uses `host-local`, and what the runtime asks for.

use std::net::IpAddr;
use std::path::PathBuf;

use cni_types::{Args, Cidr, Code, Dns, Error, IpRange, Object, PluginConfig, Route};

use super::range::{Range, RangeSet};

/// Where reservations are kept unless `dataDir` says otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The folder of ours inside the reservations' own, which the reference plugin walks over without
/// finding an address in it. It may be deleted at any time.
pub(super) const NOTES: &str = ".causeway";

/// Keys of CNI_ARGS that are known; the others are refused unless `IgnoreUnknown` is set.
pub(crate) const KNOWN_ARGS: [&str; 2] = ["IP", "MAC"];

/// What `ipam` means.
#[derive(Debug)]
pub(crate) struct Config {
    /// One address is taken from each.
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
    /// Addresses the runtime wants, each out of one set.
    pub(crate) requested: Vec<IpAddr>,
    data_dir: PathBuf,
}

impl Config {
    /// Reads everything that ADD needs.
    pub(crate) fn read(config: &PluginConfig, args: &Args) -> Result<Self, Error> {
        args.refuse_unknown(&KNOWN_ARGS)?;
        let object = config.object();
        let Some(ipam) = object.object("ipam")? else {
            return Err(object.invalid("ipam", "an object with type host-local"));
        };
        let runtime = config.runtime()?;
        let mut sets = Vec::new();
        for said in runtime.ip_ranges.iter().chain(&said_ranges(&ipam)?) {
            sets.push(range_set(said)?);
        }
        if sets.is_empty() {
            return Err(ipam.invalid("ranges", "a list of range sets, or the key subnet"));
        }
        for (index, set) in sets.iter().enumerate() {
            if let Some(other) = sets[index + 1..].iter().find(|other| set.overlaps(other)) {
                let message = format!("ipam.ranges: {set} and {other} overlap");
                return Err(Error::new(Code::INVALID_CONFIG, message));
            }
        }
        let mut requested: Vec<IpAddr> = runtime
            .ips
            .iter()
            .chain(&config.args()?.ips)
            .map(|ip| ip.address())
            .collect();
        requested.extend(requested_by_args(args)?);
        requested.sort();
        requested.dedup();
        Ok(Self {
            sets,
            routes: Route::list(&ipam)?,
            dns: resolv_conf(&ipam)?,
            requested,
            data_dir: data_dir(config)?,
        })
    }

    /// The folder of this network's reservations.
    pub(crate) fn folder(&self, network: &str) -> PathBuf {
        self.data_dir.join(network)
    }
}

/// The folder of a network's reservations, for operations that need no ranges.
pub(crate) fn folder(config: &PluginConfig) -> Result<PathBuf, Error> {
    Ok(data_dir(config)?.join(config.name()))
}

/// Our own folder inside it.
pub(crate) fn notes(config: &PluginConfig) -> Result<PathBuf, Error> {
    Ok(folder(config)?.join(NOTES))
}

fn data_dir(config: &PluginConfig) -> Result<PathBuf, Error> {
    let ipam = config.object().object("ipam")?;
    let said = ipam
        .map(|ipam| ipam.filled_text("dataDir"))
        .transpose()?
        .flatten();
    Ok(PathBuf::from(said.unwrap_or(DEFAULT_DATA_DIR)))
}

/// `ranges`, after the single range that may stand in `ipam` itself.
fn said_ranges(ipam: &Object<'_>) -> Result<Vec<Vec<IpRange>>, Error> {
    let mut sets = Vec::new();
    if ipam.filled_text("subnet")?.is_some() {
        sets.push(vec![IpRange::from_object(ipam)?]);
    }
    for set in ipam.object_lists("ranges")? {
        sets.push(
            set.iter()
                .map(IpRange::from_object)
                .collect::<Result<_, _>>()?,
        );
    }
    Ok(sets)
}

fn range_set(said: &[IpRange]) -> Result<RangeSet, Error> {
    let ranges = said.iter().map(Range::new).collect::<Result<_, _>>();
    ranges
        .and_then(RangeSet::new)
        .map_err(|error| error.at("ipam.ranges"))
}

fn requested_by_args(args: &Args) -> Result<Option<IpAddr>, Error> {
    let Some(text) = args.get("IP").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let address = text
        .parse()
        .ok()
        .or_else(|| text.parse::<Cidr>().ok().map(Cidr::address));
    address.map(Some).ok_or_else(|| {
        let message = format!("CNI_ARGS has IP={text}; accepted is an IP address");
        Error::new(Code::INVALID_ENVIRONMENT, message)
    })
}

/// The file `resolvConf`, by the words of resolv.conf(5).
fn resolv_conf(ipam: &Object<'_>) -> Result<Dns, Error> {
    let Some(path) = ipam.filled_text("resolvConf")? else {
        return Ok(Dns::default());
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(
            Code::IO,
            format!("ipam.resolvConf: cannot read {path}: {error}"),
        )
    })?;
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    Ok(dns)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value, args: &str) -> Result<Config, Error> {
        let config = PluginConfig::decode(value.to_string().as_bytes())?;
        Config::read(&config, &Args::parse(args)?)
    }

    #[test]
    fn every_way_to_name_ranges_and_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(
            &resolv,
            "# c\nnameserver 10.0.0.10\nsearch a.b c\noptions ndots:5\ndomain d\n",
        )
        .unwrap();
        let config = read(
            &json!({
                "name": "n",
                "ipam": {
                    "type": "host-local", "subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9",
                    "ranges": [[{"subnet": "fd00::/64"}]], "dataDir": "/x",
                    "routes": [{"dst": "0.0.0.0/0"}], "resolvConf": resolv,
                },
                "runtimeConfig": {
                    "ipRanges": [{"Subnet": "192.168.0.0/24"}], "ips": ["192.168.0.9"],
                },
                "args": {"cni": {"ips": ["fd00::9/64"]}},
            }),
            "IP=10.1.0.77",
        )
        .unwrap();
        let sets: Vec<_> = config.sets.iter().map(RangeSet::to_string).collect();
        assert_eq!(
            sets,
            [
                "192.168.0.1-192.168.0.254 in 192.168.0.0/24",
                "10.1.0.9-10.1.255.254 in 10.1.0.0/16",
                "fd00::1-fd00::ffff:ffff:ffff:ffff in fd00::/64",
            ]
        );
        let requested: Vec<_> = config.requested.iter().map(IpAddr::to_string).collect();
        assert_eq!(requested, ["10.1.0.77", "192.168.0.9", "fd00::9"]);
        assert_eq!(config.folder("n"), PathBuf::from("/x/n"));
        assert_eq!(config.dns.nameservers, ["10.0.0.10"]);
        assert_eq!(
            (config.dns.domain.as_str(), config.dns.search.len()),
            ("d", 2)
        );
    }

    #[test]
    fn wrong_configurations_are_named() {
        for (ipam, args, why) in [
            (json!({}), "", "ipam.ranges"),
            (json!({"ranges": [[]]}), "", "without ranges"),
            (
                json!({"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.0.0/16"}]]}),
                "",
                "overlap",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "resolvConf": "/nowhere"}),
                "",
                "resolvConf",
            ),
            (json!({"subnet": "10.0.0.0/24"}), "IP=x", "IP=x"),
            (json!({"subnet": "10.0.0.0/24"}), "FOO=x", "FOO"),
            (json!({"subnet": 4}), "", "ipam.subnet"),
        ] {
            let error = read(&json!({"name": "n", "ipam": ipam}), args).unwrap_err();
            assert!(error.message.contains(why), "{error}");
        }
        assert!(
            read(&json!({"name": "n"}), "")
                .unwrap_err()
                .message
                .starts_with("ipam")
        );
    }
}
