//! VLANs of a network: what was said of them, and the bridge, its ports and its gateway made to
//! follow it.

use cni_types::{Code, Error, Object};
use nodekit::Errno;
use nodekit::route::{Handle, Link, NewVlan, PortVlans};

use crate::failure;

/// The highest number of a VLAN (IEEE 802.1Q: 4095 is reserved).
const MOST: u64 = 4094;

/// The VLAN that the kernel puts every port of a bridge into.
const DEFAULT: u16 = 1;

/// In which VLANs the pods of a network are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vlans {
    /// The one of the pod's untagged frames.
    access: Option<u16>,
    /// Those that the pod sees tagged.
    trunk: Vec<PortVlans>,
    /// The port stays in the kernel's default VLAN as well.
    keep_default: bool,
}

impl Vlans {
    /// Reads `vlan`, `vlanTrunk` and `preserveDefaultVlan`; `None` for a network without VLANs.
    pub(super) fn read(object: &Object<'_>) -> Result<Option<Self>, Error> {
        let access = number(object, "vlan")?;
        let items = object.objects("vlanTrunk")?;
        let trunk = items.iter().map(range).collect::<Result<Vec<_>, _>>()?;
        let keep_default = object.boolean("preserveDefaultVlan")?.unwrap_or(true);
        let any = access.is_some() || !trunk.is_empty();
        Ok(any.then_some(Self {
            access,
            trunk,
            keep_default,
        }))
    }

    /// Sees that the kernel has what is needed, before anything is made.
    ///
    /// # Errors
    /// Code 2 naming the option and what the kernel lacks.
    pub(super) fn demand(&self, route: &mut Handle, gateway: bool) -> Result<(), Error> {
        let option = match self.access {
            Some(vlan) => format!("vlan: {vlan}"),
            None => "vlanTrunk".to_owned(),
        };
        let lacking = |what| {
            let message = format!(
                "{option}: this kernel has no {what}; accepted here are networks without VLANs"
            );
            Err(Error::new(Code::UNSUPPORTED_FIELD, message))
        };
        if !route.has_vlan_filtering().map_err(failure::kernel)? {
            return lacking("VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING)");
        }
        let needs_device = gateway && self.access.is_some();
        if needs_device && !route.has_vlan_devices().map_err(failure::kernel)? {
            return lacking("VLAN devices (CONFIG_VLAN_8021Q)");
        }
        Ok(())
    }

    /// Puts a pod's port into its VLANs.
    pub(super) fn join(&self, route: &mut Handle, port: u32) -> Result<(), Error> {
        if !self.keep_default && self.access != Some(DEFAULT) {
            let default = PortVlans::access(DEFAULT);
            route
                .delete_port_vlans(port, default)
                .map_err(failure::kernel)?;
        }
        let access = self.access.map(PortVlans::access);
        for vlans in access.into_iter().chain(self.trunk.iter().copied()) {
            route.add_port_vlans(port, vlans).map_err(failure::kernel)?;
        }
        Ok(())
    }

    /// The node's own interface in the pods' VLAN, up; made where there is none. Without an
    /// access VLAN it is the bridge.
    pub(super) fn gateway(&self, route: &mut Handle, bridge: &Link) -> Result<Option<Link>, Error> {
        let (Some(vlan), Some(name)) = (self.access, self.gateway_name(&bridge.name)?) else {
            return Ok(None);
        };
        route
            .add_bridge_vlan(bridge.index, vlan)
            .map_err(failure::kernel)?;
        let new = NewVlan {
            name: &name,
            below: bridge.index,
            vlan,
            up: true,
        };
        match route.create_vlan(&new) {
            Err(error) if error.errno() != Some(Errno::EEXIST) => Err(failure::kernel(error)),
            // EEXIST: it is there already, or another ADD was faster. The reference's is a veth.
            _ => route.link_by_name(&name).map_err(failure::kernel).map(Some),
        }
    }

    /// The name of the node's own interface in the pods' access VLAN.
    pub(super) fn gateway_name(&self, bridge: &str) -> Result<Option<String>, Error> {
        let Some(vlan) = self.access else {
            return Ok(None);
        };
        let name = format!("{bridge}.{vlan}");
        // IFNAMSIZ counts the final NUL.
        if name.len() < 16 {
            return Ok(Some(name));
        }
        let message = format!(
            "bridge: {bridge:?} leaves no room for the gateway's interface {name:?}; accepted with \
             this vlan are names of at most {} bytes",
            15 - (name.len() - bridge.len())
        );
        Err(Error::new(Code::INVALID_CONFIG, message))
    }
}

/// A VLAN's number; 0 stands for none.
fn number(object: &Object<'_>, key: &str) -> Result<Option<u16>, Error> {
    let number = object.number(key, MOST)?.filter(|vlan| *vlan != 0);
    Ok(number.and_then(|vlan| u16::try_from(vlan).ok()))
}

/// One item of `vlanTrunk`.
fn range(item: &Object<'_>) -> Result<PortVlans, Error> {
    let expected = "either id, or minID and maxID with minID not above maxID; each from 1 to 4094";
    let [id, first, last] = ["id", "minID", "maxID"].map(|key| number(item, key));
    match (id?, first?, last?) {
        (Some(id), None, None) => Ok(PortVlans::tagged(id, id)),
        (None, Some(first), Some(last)) if first <= last => Ok(PortVlans::tagged(first, last)),
        (Some(_), _, _) => Err(item.invalid("id", expected)),
        _ => Err(item.invalid("minID", expected)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<Option<Vlans>, Error> {
        Vlans::read(&Object::new("", value).unwrap())
    }

    #[test]
    fn the_port_of_a_vlan_stays_in_the_default_one_unless_told() {
        let vlans = read(&json!({"vlan": 100})).unwrap().unwrap();
        assert_eq!((vlans.access, vlans.keep_default), (Some(100), true));
        let told = json!({"vlan": 100, "preserveDefaultVlan": false});
        assert!(!read(&told).unwrap().unwrap().keep_default);
        for none in [
            json!({}),
            json!({"vlan": 0, "vlanTrunk": [], "preserveDefaultVlan": false}),
        ] {
            assert_eq!(read(&none).unwrap(), None);
        }
    }

    #[test]
    fn a_trunk_is_ranges_and_single_vlans() {
        let said = json!({"vlanTrunk": [{"minID": 10, "maxID": 20}, {"id": 42}]});
        let vlans = read(&said).unwrap().unwrap();
        assert_eq!(
            vlans.trunk,
            [PortVlans::tagged(10, 20), PortVlans::tagged(42, 42)]
        );
        for (item, words) in [
            (json!({"minID": 20, "maxID": 10}), "vlanTrunk[0].minID"),
            (json!({"minID": 20}), "vlanTrunk[0].minID"),
            (json!({"maxID": 20}), "vlanTrunk[0].minID"),
            (json!({"id": 4095}), "vlanTrunk[0].id"),
            (json!({"id": 0}), "vlanTrunk[0].minID"),
            (json!({"id": 7, "minID": 1, "maxID": 2}), "vlanTrunk[0].id"),
            (json!({}), "vlanTrunk[0]"),
        ] {
            let error = read(&json!({"vlanTrunk": [item]})).unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[test]
    fn a_gateways_name_that_is_too_long_is_said() {
        let vlans = read(&json!({"vlan": 4000})).unwrap().unwrap();
        assert_eq!(
            vlans.gateway_name("bridge-010").unwrap().unwrap(),
            "bridge-010.4000"
        );
        let error = vlans.gateway_name("bridge-0100").unwrap_err();
        assert!(error.message.contains("at most 10 bytes"), "{error}");
    }
}
