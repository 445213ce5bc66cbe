//! The configuration of a bridge network: what was said, checked, as what it means.

use cni_types::{Attachment, Dns, Error, MacAddress, Object, PluginConfig};

use super::vlans::Vlans;
use crate::bandwidth::Limits;
use crate::call::Call;
use crate::firewall::Policy;
use crate::ipam::Ipam;
use crate::keys;
use crate::masquerade;
use crate::portmap;

/// The bridge unless `bridge` says otherwise.
const DEFAULT_BRIDGE: &str = "cni0";

/// Everything ADD needs to know, before it makes anything.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) bridge: String,
    /// The bridge has the gateways' addresses and forwards.
    pub(crate) gateway: bool,
    /// The pod's default route leads to the gateway.
    pub(crate) default_gateway: bool,
    /// An address of the bridge that is in the way is replaced.
    pub(crate) force_address: bool,
    pub(crate) masquerade: Option<masquerade::Config>,
    /// Host ports, for the combined type.
    pub(crate) ports: Option<portmap::Config>,
    /// Who may connect to the pod, for the combined type.
    pub(crate) ingress: Policy,
    /// How fast the pod may send and receive, for the combined type.
    pub(crate) limits: Option<Limits>,
    pub(crate) mtu: Option<u32>,
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
    pub(crate) promiscuous: bool,
    /// Frames of a pod that have another source address than its own are dropped.
    pub(crate) spoof_check: bool,
    /// Absent for a bridge that knows of no VLANs.
    pub(crate) vlans: Option<Vlans>,
    /// The pod's interface is left down.
    pub(crate) pod_down: bool,
    /// Duplicate address detection of IPv6 is left on.
    pub(crate) dad: bool,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) dns: Dns,
    /// Absent for a network without addresses.
    pub(crate) ipam: Option<Ipam>,
}

impl Network {
    /// Reads and checks the whole configuration.
    pub(crate) fn read(call: &Call) -> Result<Self, Error> {
        let config = &call.config;
        let object = config.object();
        let combined = call.is_combined();
        let on = |key| Ok::<_, Error>(object.boolean(key)?.unwrap_or_default());
        let default_gateway = on("isDefaultGateway")?;
        let promiscuous = on("promiscMode")?;
        let hairpin = hairpin(&object, promiscuous)?;
        let runtime = config.runtime()?;
        let dns = config.dns()?;
        let pod_down = on("disableContainerInterface")?;
        let ipam = Ipam::read(call)?;
        if pod_down && ipam.is_some() {
            let expected = "false in a network with ipam, whose addresses need the interface up";
            return Err(object.invalid("disableContainerInterface", expected));
        }
        Ok(Self {
            bridge: bridge_name(config)?,
            gateway: on("isGateway")? || default_gateway,
            default_gateway,
            force_address: on("forceAddress")?,
            masquerade: masquerade::Config::read(&object)?,
            ports: combined
                .then(|| portmap::Config::read(call))
                .transpose()?
                .flatten(),
            ingress: combined
                .then(|| Policy::read(&object))
                .transpose()?
                .flatten()
                .unwrap_or(Policy::Open),
            limits: combined
                .then(|| Limits::read(config))
                .transpose()?
                .flatten(),
            mtu: keys::mtu(&object)?,
            hairpin,
            isolated: on("portIsolation")?,
            promiscuous,
            spoof_check: on("macspoofchk")?,
            vlans: Vlans::read(&object)?,
            pod_down,
            dad: on("enabledad")?,
            mac: keys::mac(call)?,
            dns: runtime.dns.unwrap_or(dns),
            ipam,
        })
    }
}

impl Network {
    /// The name of the interface above the bridge that the node is the gateway by, if not by the
    /// bridge itself.
    pub(super) fn gateway_above(&self) -> Result<Option<String>, Error> {
        match &self.vlans {
            Some(vlans) if self.gateway => vlans.gateway_name(&self.bridge),
            _ => Ok(None),
        }
    }
}

/// The bridge's name.
fn bridge_name(config: &PluginConfig) -> Result<String, Error> {
    let object = config.object();
    let name = object.filled_text("bridge")?.unwrap_or(DEFAULT_BRIDGE);
    // An interface's name is checked in one place; the id stands in for one.
    if Attachment::new("bridge", name).is_err() {
        return Err(object.invalid("bridge", "an interface's name of at most 15 bytes"));
    }
    Ok(name.to_owned())
}

/// A pod must reach itself by a Service's address, which needs the bridge to send a frame back
/// where it came from: the type `causeway-cni` has it unless told otherwise. The type `bridge`
/// has it when told, as the reference plugin.
fn hairpin(object: &Object<'_>, promiscuous: bool) -> Result<bool, Error> {
    match object.boolean("hairpinMode")? {
        // The bridge would take both the frame and what it sends back.
        Some(true) if promiscuous => {
            Err(object.invalid("hairpinMode", "only one of hairpinMode and promiscMode"))
        }
        Some(said) => Ok(said),
        None => Ok(object.text("type")? == Some("causeway-cni") && !promiscuous),
    }
}

#[cfg(test)]
mod tests {
    use cni_types::{Args, Code, Version};
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value, args: &str) -> Result<Network, Error> {
        Network::read(&Call {
            config: PluginConfig::decode(value.to_string().as_bytes()).unwrap(),
            version: Version::V1_0_0,
            args: Args::parse(args).unwrap(),
            plugin_path: Vec::new(),
            netns_override: false,
        })
    }

    #[test]
    fn defaults_are_the_references() {
        let network = read(&json!({"name": "n"}), "").unwrap();
        assert_eq!(network.bridge, "cni0");
        let flags = [
            network.gateway,
            network.default_gateway,
            network.force_address,
            network.masquerade.is_some(),
            network.hairpin,
            network.isolated,
            network.promiscuous,
            network.dad,
        ];
        assert_eq!(flags, [false; 8]);
        assert!(network.ipam.is_none() && network.mtu.is_none() && network.mac.is_none());
        let network = read(
            &json!({"name": "n", "isDefaultGateway": true, "mtu": 0}),
            "",
        )
        .unwrap();
        assert!(network.gateway && network.default_gateway && network.mtu.is_none());
    }

    #[test]
    fn what_is_not_supported_is_refused_with_key_and_value() {
        for (key, value) in [
            ("ipMasqBackend", json!("firewalld")),
            ("ipam", json!({"type": "dhcp"})),
        ] {
            let error = read(&json!({"name": "n", key: value}), "").unwrap_err();
            assert_eq!(error.code, Code::UNSUPPORTED_FIELD, "{error}");
            assert!(error.message.contains(key), "{error}");
        }
        let harmless = json!({
            "name": "n", "vlan": 0, "vlanTrunk": [], "macspoofchk": false, "ipMasqBackend": "nftables",
            "disableContainerInterface": false, "preserveDefaultVlan": true,
        });
        assert!(read(&harmless, "").is_ok());
    }

    #[test]
    fn wrong_values_are_refused() {
        for (key, value) in [
            ("mtu", json!(67)),
            ("mtu", json!(65536)),
            ("mtu", json!("1500")),
            ("vlan", json!(4095)),
            ("bridge", json!("much-too-long-name")),
            ("bridge", json!("a/b")),
            ("ipMasq", json!("yes")),
            ("nonMasqueradeCIDRs", json!(["10.0.0.0"])),
        ] {
            let error = read(&json!({"name": "n", key: value}), "").unwrap_err();
            assert!(error.message.starts_with(key), "{error}");
        }
        let both = json!({"name": "n", "hairpinMode": true, "promiscMode": true});
        assert_eq!(read(&both, "").unwrap_err().code, Code::INVALID_CONFIG);
    }

    #[test]
    fn the_runtimes_mac_goes_before_the_arguments() {
        let all = json!({
            "name": "n", "runtimeConfig": {"mac": "0a:00:00:00:00:01"},
            "args": {"cni": {"mac": "0a:00:00:00:00:02"}},
        });
        let mac = |value: &Value| read(value, "MAC=0a:00:00:00:00:03").unwrap().mac.unwrap().0[5];
        assert_eq!(mac(&all), 1);
        assert_eq!(mac(&json!({"name": "n", "args": all["args"]})), 2);
        assert_eq!(mac(&json!({"name": "n"})), 3);
        let error = read(&json!({"name": "n"}), "MAC=x").unwrap_err();
        assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
    }
}
