//! What shall be set: the configuration, and what goes before it.

use std::path::PathBuf;

use cni_types::{Code, Error, MacAddress, Object, PluginConfig};
use nodekit::route::{Link, LinkChange, Mac};
use nodekit::sysctl::Key;
use serde_json::Value;

use crate::call::Call;
use crate::keys;

/// Where is written down what interfaces had before, as in the reference.
const DATA_DIR: &str = "/run/cni/tuning";

/// What stands for the interface's name in a setting's.
const IFNAME: &str = "IFNAME";

/// What to set. What is `None` stays.
#[derive(Debug, Default)]
pub(super) struct Tuning {
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) mac: Option<MacAddress>,
    pub(super) mtu: Option<u32>,
    /// `false` leaves it as it is, as in the reference.
    pub(super) promiscuous: bool,
    pub(super) all_multicast: Option<bool>,
    pub(super) tx_queue_len: Option<u32>,
    pub(super) data_dir: PathBuf,
}

/// A kernel parameter of the pod's namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sysctl {
    /// Its name as it was written.
    pub(super) said: String,
    pub(super) key: Key,
    pub(super) value: String,
}

impl Tuning {
    /// The configuration's keys, over which go CNI_ARGS (the hardware address only), then
    /// `runtimeConfig.mac`, then everything in `args.cni`.
    ///
    /// # Errors
    /// Code 6 or 7 naming the key; 4 for CNI_ARGS.
    pub(super) fn read(call: &Call, ifname: &str) -> Result<Self, Error> {
        let object = call.config.object();
        let mut tuning = Self {
            data_dir: data_dir(&call.config)?,
            ..Self::default()
        };
        tuning.take(&object, ifname)?;
        tuning.mac = keys::mac_by_args(call)?.or(tuning.mac);
        tuning.mac = call.config.runtime()?.mac.or(tuning.mac);
        let args = object.object("args")?.map(|args| args.object("cni"));
        if let Some(Some(cni)) = args.transpose()? {
            tuning.take(&cni, ifname)?;
        }
        Ok(tuning)
    }

    /// What an object says goes before what was said already.
    fn take(&mut self, object: &Object<'_>, ifname: &str) -> Result<(), Error> {
        for sysctl in sysctls(object, ifname)? {
            self.sysctls.retain(|known| known.key != sysctl.key);
            self.sysctls.push(sysctl);
        }
        if let Some(text) = object.filled_text("mac")? {
            let mac = text
                .parse()
                .ok()
                .filter(|mac: &MacAddress| mac.is_assignable());
            let expected = "a single interface's address, as 0a:58:0a:f4:00:05";
            self.mac = Some(mac.ok_or_else(|| object.invalid("mac", expected))?);
        }
        if object.get("mtu").is_some() {
            self.mtu = keys::mtu(object)?;
        }
        self.promiscuous = object.boolean("promisc")?.unwrap_or(self.promiscuous);
        self.all_multicast = object.boolean("allmulti")?.or(self.all_multicast);
        self.tx_queue_len = object.number_u32("txQLen")?.or(self.tx_queue_len);
        Ok(())
    }

    /// Whether anything of the interface itself is set.
    pub(super) fn changes_link(&self) -> bool {
        self.promiscuous
            || self.mac.is_some()
            || self.mtu.is_some()
            || self.all_multicast.is_some()
            || self.tx_queue_len.is_some()
    }

    pub(super) fn link_change(&self) -> LinkChange<'static> {
        LinkChange {
            mac: self.mac.map(|mac| Mac(mac.0)),
            mtu: self.mtu,
            promiscuous: self.promiscuous.then_some(true),
            all_multicast: self.all_multicast,
            tx_queue_len: self.tx_queue_len,
            ..LinkChange::default()
        }
    }

    /// What a link has otherwise, in words.
    pub(super) fn differences(&self, link: &Link) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, held: String, wanted: Option<String>| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != held) {
                found.push(format!("{what} {held} instead of {wanted}"));
            }
        };
        let held = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        compare("mac", held, self.mac.map(|mac| mac.to_string()));
        compare(
            "mtu",
            link.mtu.to_string(),
            self.mtu.map(|mtu| mtu.to_string()),
        );
        let wanted = self.promiscuous.then(|| true.to_string());
        compare("promisc", link.promiscuous.to_string(), wanted);
        let wanted = self.all_multicast.map(|on| on.to_string());
        compare("allmulti", link.all_multicast.to_string(), wanted);
        let wanted = self.tx_queue_len.map(|length| length.to_string());
        compare("txQLen", link.tx_queue_len.to_string(), wanted);
        found
    }
}

/// The folder of what was before; DEL needs no more of the configuration.
///
/// # Errors
/// Code 6 for what is no string.
pub(super) fn data_dir(config: &PluginConfig) -> Result<PathBuf, Error> {
    let said = config.object().filled_text("dataDir")?;
    Ok(said.unwrap_or(DATA_DIR).into())
}

fn sysctls(object: &Object<'_>, ifname: &str) -> Result<Vec<Sysctl>, Error> {
    let Some(value) = object.get("sysctl") else {
        return Ok(Vec::new());
    };
    let expected = "an object of names and strings, as {\"net.core.somaxconn\": \"500\"}";
    let wrong = || object.invalid("sysctl", expected);
    let Value::Object(pairs) = value else {
        return Err(wrong());
    };
    let read = |(said, value): (&String, &Value)| {
        Ok(Sysctl {
            said: said.clone(),
            key: key(said, ifname)?,
            value: value.as_str().ok_or_else(wrong)?.to_owned(),
        })
    };
    pairs.iter().map(read).collect()
}

/// A parameter of the namespace: others are the whole node's.
fn key(said: &str, ifname: &str) -> Result<Key, Error> {
    let wrong = |why: String| {
        let message = format!("sysctl {said:?}: {why}");
        Error::new(Code::INVALID_CONFIG, message)
    };
    let key: Key = said.parse().map_err(|error: nodekit::sysctl::Error| {
        Error::new(Code::INVALID_CONFIG, error.to_string())
    })?;
    let mut segments: Vec<_> = key.segments().map(str::to_owned).collect();
    if segments.len() < 2 || segments[0] != "net" {
        return Err(wrong(
            "accepted are those below net, as net.core.somaxconn".to_owned(),
        ));
    }
    if let Some(segment) = segments.iter_mut().find(|segment| segment.contains(IFNAME)) {
        *segment = segment.replacen(IFNAME, ifname, 1);
    }
    Key::new(segments).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use cni_types::{Args, Version};
    use serde_json::json;

    use super::*;

    fn read(value: &Value, args: &str) -> Result<Tuning, Error> {
        let call = Call {
            config: PluginConfig::decode(value.to_string().as_bytes()).unwrap(),
            version: Version::V1_0_0,
            args: Args::parse(args).unwrap(),
            plugin_path: Vec::new(),
            netns_override: false,
        };
        Tuning::read(&call, "eth0.5")
    }

    #[test]
    fn what_is_not_said_stays() {
        let tuning = read(&json!({"promisc": false, "mtu": 0, "mac": ""}), "").unwrap();
        assert!(!tuning.changes_link() && tuning.sysctls.is_empty());
        assert_eq!(tuning.data_dir, PathBuf::from("/run/cni/tuning"));
        for change in [
            json!({"promisc": true}),
            json!({"mtu": 68}),
            json!({"mac": "0A:00:00:00:00:01"}),
            json!({"allmulti": false}),
            json!({"txQLen": 0}),
        ] {
            assert!(read(&change, "").unwrap().changes_link(), "{change}");
        }
    }

    #[test]
    fn the_address_comes_from_who_stands_nearest() {
        let mut value = json!({
            "mac": "0a:00:00:00:00:01", "runtimeConfig": {"mac": "0a:00:00:00:00:03"},
            "args": {"cni": {"mac": "0a:00:00:00:00:04"}},
        });
        let mac = |value: &Value, args| read(value, args).unwrap().mac.unwrap().0[5];
        let args = "MAC=0a:00:00:00:00:02";
        assert_eq!(mac(&value, args), 4);
        value["args"] = Value::Null;
        assert_eq!(mac(&value, args), 3);
        value["runtimeConfig"] = Value::Null;
        assert_eq!(mac(&value, args), 2);
        assert_eq!(mac(&value, ""), 1);
    }

    #[test]
    fn arguments_of_the_containers_maker_go_before_the_configuration() {
        let value = json!({
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "0", "net.core.somaxconn": "500"},
            "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 10,
            "args": {"cni": {
                "sysctl": {"net/ipv4/conf/IFNAME/arp_filter": "1"}, "promisc": false, "mtu": 1300,
                "allmulti": false, "txQLen": 20,
            }},
        });
        let tuning = read(&value, "").unwrap();
        assert_eq!((tuning.mtu, tuning.promiscuous), (Some(1300), false));
        assert_eq!(
            (tuning.all_multicast, tuning.tx_queue_len),
            (Some(false), Some(20))
        );
        let set: Vec<_> = tuning
            .sysctls
            .iter()
            .map(|s| format!("{}={}", s.key, s.value))
            .collect();
        assert_eq!(
            set,
            [
                "net/core/somaxconn=500",
                "net/ipv4/conf/eth0.5/arp_filter=1"
            ]
        );
    }

    #[test]
    fn nothing_but_the_namespaces_own_can_be_set() {
        for name in [
            "kernel.hostname",
            "net",
            "net/../kernel/hostname",
            "net.ipv4./../../x",
            "../net/x",
            "",
        ] {
            let error = read(&json!({"sysctl": {name: "1"}}), "").unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG);
            assert!(error.message.contains(&format!("{name:?}")), "{error}");
        }
        for value in [
            json!({"sysctl": {"net.core.somaxconn": 5}}),
            json!({"sysctl": []}),
            json!({"mtu": 67}),
            json!({"mtu": 65_536}),
            json!({"txQLen": -1}),
            json!({"mac": "01:00:5e:00:00:01"}),
        ] {
            assert!(read(&value, "").is_err(), "{value}");
        }
    }
}
