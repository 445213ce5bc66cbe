use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::runtime::{mac, requested_ips};
use crate::{
    Attachment, Cidr, Code, Dns, Error, MacAddress, Object, RuntimeConfig, Success, Supported,
    Version,
};

/// The largest configuration taken, in bytes. A real one has a few hundred, and GC's list of
/// attachments about 100 for each pod.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// The configuration that a runtime sends to a plugin on standard input.
///
/// Reading it checks what every operation needs; the rest is read when it is asked for, so that
/// DEL can go on where ADD would refuse.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    document: Map<String, Value>,
    name: String,
}

/// `args.cni`: arguments of whoever made the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// Requested addresses; one without a prefix has the whole length.
    pub ips: Vec<Cidr>,
    /// The requested hardware address.
    pub mac: Option<MacAddress>,
}

impl PluginConfig {
    /// Reads JSON. The version and the name are checked by [`Self::version`] and
    /// [`Self::check_name`].
    ///
    /// # Errors
    /// Code 6 for what is too large, no JSON or no object.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_CONFIG_BYTES {
            let message = format!("the configuration is longer than {MAX_CONFIG_BYTES} bytes");
            return Err(Error::new(Code::DECODE, message));
        }
        let document: Value = serde_json::from_slice(bytes).map_err(|error| {
            Error::new(
                Code::DECODE,
                format!("the configuration is not JSON: {error}"),
            )
        })?;
        let Value::Object(document) = document else {
            let message = "the configuration is JSON, but no object";
            return Err(Error::new(Code::DECODE, message));
        };
        let name = Object::document(&document)
            .text("name")?
            .unwrap_or_default()
            .to_owned();
        Ok(Self { document, name })
    }

    /// The whole configuration, for the keys of one plugin.
    #[must_use]
    pub fn object(&self) -> Object<'_> {
        Object::document(&self.document)
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks the name by the specification's pattern.
    ///
    /// # Errors
    /// Code 7.
    pub fn check_name(&self) -> Result<(), Error> {
        check_network_name(&self.name)
    }

    /// The plugin that is meant; empty when not given.
    ///
    /// # Errors
    /// Code 6 for what is no string.
    pub fn plugin_type(&self) -> Result<&str, Error> {
        Ok(self.object().text("type")?.unwrap_or_default())
    }

    /// The version to answer in.
    ///
    /// # Errors
    /// Code 1 for a version that is not supported.
    pub fn version(&self, supported: Supported) -> Result<Version, Error> {
        supported.negotiate(self.object().filled_text("cniVersion")?)
    }

    /// The key `dns`; empty when not given.
    ///
    /// # Errors
    /// Code 6 naming the key.
    pub fn dns(&self) -> Result<Dns, Error> {
        let dns = self
            .object()
            .object("dns")?
            .map(|dns| Dns::from_object(&dns));
        Ok(dns.transpose()?.unwrap_or_default())
    }

    /// The key `runtimeConfig`; empty when not given.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key.
    pub fn runtime(&self) -> Result<RuntimeConfig, Error> {
        let runtime = self.object().object("runtimeConfig")?;
        Ok(runtime
            .map(|o| RuntimeConfig::from_object(&o))
            .transpose()?
            .unwrap_or_default())
    }

    /// The key `args.cni`; empty when not given.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key.
    pub fn args(&self) -> Result<CniArgs, Error> {
        let args = self
            .object()
            .object("args")?
            .map(|args| args.object("cni"))
            .transpose()?;
        let Some(cni) = args.flatten() else {
            return Ok(CniArgs::default());
        };
        Ok(CniArgs {
            ips: requested_ips(&cni)?,
            mac: mac(&cni)?,
        })
    }

    /// The result of the plugin before, or on CHECK and DEL that of the last ADD. `or_version` is
    /// its shape where it doesn't say.
    ///
    /// # Errors
    /// Code 1, 6 or 7 naming the key.
    pub fn prev_result(&self, or_version: Version) -> Result<Option<Success>, Error> {
        let object = self.object().object("prevResult")?;
        object
            .map(|object| Success::from_object(&object, or_version))
            .transpose()
    }

    /// The attachments that GC must keep: what stands under either key, the released
    /// specification's `cni.dev/attachments` and the newer `cni.dev/valid-attachments`.
    ///
    /// # Errors
    /// Code 7 when neither is there, as an empty list would release everything; 6 or 7 naming
    /// what is wrong.
    pub fn valid_attachments(&self) -> Result<BTreeSet<Attachment>, Error> {
        const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let object = self.object();
        if KEYS.iter().all(|key| object.get(key).is_none()) {
            return Err(object.invalid(KEYS[0], "the list of attachments to keep"));
        }
        let mut kept = BTreeSet::new();
        for key in KEYS {
            for attachment in object.objects(key)? {
                kept.insert(Attachment::from_object(&attachment)?);
            }
        }
        Ok(kept)
    }
}

/// The whole configuration as JSON, as a plugin that is delegated to gets it.
impl fmt::Display for PluginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&self.document).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// Checks a network's name: it names a folder and chains, so it must not lead elsewhere.
///
/// # Errors
/// Code 7 with the name and what is accepted.
pub fn check_network_name(name: &str) -> Result<(), Error> {
    const LONGEST: usize = 200;
    let bytes = name.as_bytes();
    if bytes.len() <= LONGEST
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
    {
        return Ok(());
    }
    Err(Error::new(
        Code::INVALID_CONFIG,
        format!(
            "network name {name:?}; accepted are 1 to {LONGEST} of letters, digits, _ . and -, a \
             letter or digit first"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn config(value: &Value) -> PluginConfig {
        PluginConfig::decode(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_cannot_be_decoded_is_code_6() {
        for bytes in [
            &b""[..],
            b"{",
            b"[]",
            b"\"x\"",
            b"null",
            b"{\"name\": 4}",
            b"\xff",
        ] {
            assert_eq!(PluginConfig::decode(bytes).unwrap_err().code, Code::DECODE);
        }
        let huge = vec![b' '; MAX_CONFIG_BYTES + 1];
        assert!(
            PluginConfig::decode(&huge)
                .unwrap_err()
                .message
                .contains("longer than 1048576")
        );
        let deep = "[".repeat(100_000);
        assert_eq!(
            PluginConfig::decode(deep.as_bytes()).unwrap_err().code,
            Code::DECODE
        );
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert!(
            config(&json!({"name": "k8s-pod_network.1"}))
                .check_name()
                .is_ok()
        );
        for name in ["", "..", "a/b", "-a", "a b", "ü", &"a".repeat(201)] {
            let error = config(&json!({"name": name})).check_name().unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG, "{name}");
        }
    }

    #[test]
    fn unknown_keys_are_ignored() {
        let config = config(&json!({
            "cniVersion": "1.0.0", "name": "n", "type": "bridge", "surprise": {"a": [1]},
            "args": {"cni": {"labels": [{"key": "k"}], "ips": ["10.0.0.9"]}, "other": 1},
            "dns": {"nameservers": ["10.0.0.1"], "extra": true},
        }));
        assert_eq!(config.version(Supported::ALL).unwrap(), Version::V1_0_0);
        assert_eq!(config.plugin_type().unwrap(), "bridge");
        assert_eq!(config.args().unwrap().ips[0].to_string(), "10.0.0.9/32");
        assert_eq!(config.dns().unwrap().nameservers, ["10.0.0.1"]);
        assert_eq!(config.runtime().unwrap(), RuntimeConfig::default());
        assert_eq!(config.prev_result(Version::V1_0_0).unwrap(), None);
    }

    #[test]
    fn both_keys_of_gc_count() {
        let released = json!([{"containerID": "a", "ifname": "eth0"}]);
        let newer = json!([{"containerID": "b", "ifname": "eth0"}]);
        for (value, ids) in [
            (json!({"cni.dev/attachments": released}), vec!["a"]),
            (json!({"cni.dev/valid-attachments": newer}), vec!["b"]),
            (
                json!({"cni.dev/attachments": released, "cni.dev/valid-attachments": newer}),
                vec!["a", "b"],
            ),
            (json!({"cni.dev/attachments": []}), vec![]),
        ] {
            let kept = config(&value).valid_attachments().unwrap();
            assert_eq!(
                kept.iter()
                    .map(|a| a.container_id.as_str())
                    .collect::<Vec<_>>(),
                ids
            );
        }
        assert_eq!(
            config(&json!({})).valid_attachments().unwrap_err().code,
            Code::INVALID_CONFIG
        );
        let wrong = json!({"cni.dev/attachments": [{"containerID": "a/b", "ifname": "eth0"}]});
        assert!(config(&wrong).valid_attachments().is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            proptest::sample::select(vec![
                "cniVersion",
                "name",
                "type",
                "ips",
                "IPS",
                "mac",
                "address",
                "gateway",
                "interface",
                "interfaces",
                "routes",
                "dst",
                "gw",
                "dns",
                "nameservers",
                "runtimeConfig",
                "portMappings",
                "HostPort",
                "ipRanges",
                "Subnet",
                "prevResult",
                "ip4",
                "ip",
                "args",
                "cni",
                "cni.dev/attachments",
                "containerID",
                "ifname",
                "ipam",
                "ranges",
                "mtu",
            ])
            .prop_map(str::to_owned),
            ".{0,6}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::String),
            proptest::sample::select(vec![
                "10.0.0.1/8",
                "fd00::1",
                "0.2.0",
                "1.1.0",
                "0a:00:00:00:00:01"
            ])
            .prop_map(|text| Value::String(text.to_owned())),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_makes_the_reader_panic(value in any_json()) {
            let Ok(config) = PluginConfig::decode(value.to_string().as_bytes()) else {
                return Ok(());
            };
            let _ = (config.check_name(), config.version(Supported::ALL), config.plugin_type());
            let _ = (config.dns(), config.runtime(), config.args(), config.valid_attachments());
            for version in Version::ALL {
                if let Ok(Some(success)) = config.prev_result(version) {
                    let _ = Version::ALL.map(|other| success.to_json(other));
                }
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PluginConfig::decode(&bytes);
        }
    }
}
