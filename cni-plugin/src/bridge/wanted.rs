//! What an attachment wants in nf_tables, of every feature together.

use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Error};
use nodekit::route::Mac;

use super::config::Network;
use crate::call::Call;
use crate::firewall::{self, Ingress};
use crate::identity::{HostEnd, mac_of};
use crate::pod::check::mac_told;
use crate::tables::{Entries, Key, Owner, Tables};
use crate::{keys, masquerade, portmap, spoof};

/// All of it, for ADD and CHECK. `guarded` is the link by which the node's own loopback addresses
/// lead to the pod's ports.
pub(super) fn entries(
    call: &Call,
    network: &Network,
    attachment: &Attachment,
    addresses: &[Cidr],
    guarded: Option<&str>,
    mac: Option<Mac>,
) -> Entries {
    let name = call.config.name();
    let end = HostEnd::of(attachment).name;
    let mut entries = Entries::new(Owner::new(name, attachment).with_link(Some(end.clone())));
    if let Some(masquerade) = &network.masquerade {
        masquerade.enter(&mut entries, name, addresses);
    }
    if let Some(ports) = &network.ports {
        portmap::enter(&mut entries, name, ports, addresses, guarded);
    }
    let ingress = Ingress {
        policy: network.ingress,
        bridge: &network.bridge,
        port: &end,
        addresses: &addresses
            .iter()
            .map(|cidr| cidr.address())
            .collect::<Vec<_>>(),
    };
    firewall::enter(&mut entries, &ingress);
    if let Some(mac) = mac.filter(|_| network.spoof_check) {
        spoof::enter(&mut entries, &end, mac);
    }
    entries
}

/// Where the elements of the spoof check are, by every Ethernet address that the pod may have had.
fn spoof_keys(call: &Call, attachment: &Attachment, addresses: &[IpAddr]) -> Vec<Key> {
    if !matches!(call.config.object().boolean("macspoofchk"), Ok(Some(true))) {
        return Vec::new();
    }
    let result = call.config.prev_result(call.version).ok().flatten();
    let told = result.and_then(|result| {
        let mut interfaces = result.interfaces.iter();
        mac_told(interfaces.find(|interface| interface.name == attachment.ifname)?)
    });
    let said = keys::mac(call).ok().flatten().map(|mac| Mac(mac.0));
    let derived = addresses.iter().map(|address| mac_of(*address));
    let macs = told.into_iter().chain(said).chain(derived);
    spoof::keys(&HostEnd::of(attachment).name, macs)
}

/// Takes away whatever the attachment has, for DEL: by the keys that follow from its addresses and
/// ports; where those are not known, by looking at everything. The configuration may have changed
/// since ADD, so that it doesn't say what there is.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(super) fn remove(
    tables: &mut Tables,
    call: &Call,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let owner = Owner::new(call.config.name(), attachment);
    let ports = portmap::told(call);
    // Under the name `bridge` ports are another plugin's.
    let others = !call.is_combined();
    let unknown = addresses.is_empty()
        || !others && ports.is_empty() && portmap::has_any(tables, &owner, addresses)?;
    let removed = if unknown {
        tables.remove_all(&owner, None)
    } else {
        let mut keys: Vec<_> = masquerade::keys(addresses).collect();
        if !others && !ports.is_empty() {
            keys.extend(portmap::keys(&ports, addresses));
        }
        if !others {
            let port = HostEnd::of(attachment).name;
            keys.extend(firewall::keys(addresses, [port.as_str()]));
        }
        keys.extend(spoof_keys(call, attachment, addresses));
        tables.remove(&owner, &keys)
    };
    portmap::forget_after(&removed?, addresses)
}
