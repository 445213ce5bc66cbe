//! VLANs, on kernels that have them and on those that have not.

use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{Handle, NewBridge, NewVlan};

#[test]
fn what_the_kernel_says_it_can_is_what_it_can_and_asking_makes_nothing() {
    let netns = NetNs::anonymous().unwrap();
    let mut handle = Handle::open_in(&netns).unwrap();
    let (filtering, devices) = (
        handle.has_vlan_filtering().unwrap(),
        handle.has_vlan_devices().unwrap(),
    );
    assert_eq!(handle.links().unwrap().len(), 1, "only lo");
    let bridge = |name, vlan_filtering| NewBridge {
        name,
        mac: None,
        mtu: None,
        vlan_filtering,
        up: true,
    };
    handle.create_bridge(&bridge("br0", None)).unwrap();
    let made = handle.create_bridge(&bridge("br1", Some(true)));
    let refused = made.as_ref().err().and_then(nodekit::route::Error::errno);
    assert_eq!(made.is_ok(), filtering);
    assert!(made.is_ok() || refused == Some(Errno::EOPNOTSUPP));
    let below = handle.link_by_name("br0").unwrap();
    assert_eq!(below.vlan_filtering, filtering.then_some(false));
    let made = handle.create_vlan(&NewVlan {
        name: "br0.7",
        below: below.index,
        vlan: 7,
        up: true,
    });
    let refused = made.as_ref().err().and_then(nodekit::route::Error::errno);
    assert_eq!(made.is_ok(), devices);
    assert!(made.is_ok() || refused == Some(Errno::EOPNOTSUPP));
}
