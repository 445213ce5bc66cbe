//! Every step of ADD made to fail.

use std::os::fd::{AsFd, AsRawFd};

use cni_types::{Args, PluginConfig, Version};
use nodekit::nft::{Family, NftSocket};
use nodekit::route::RouteFilter;
use serde_json::json;

use super::*;

const STEPS: [Step; 5] = [
    Step::Reserve,
    Step::Veth,
    Step::Pod,
    Step::Gateway,
    Step::Tables,
];

fn call(dir: &Path) -> Call {
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": dir, "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]],
        },
    });
    Call {
        config: PluginConfig::decode(config.to_string().as_bytes()).unwrap(),
        version: Version::V1_0_0,
        args: Args::default(),
        plugin_path: Vec::new(),
        netns_override: false,
    }
}

/// Links, routes of IPv4, elements and reservations of the node.
fn counts(dir: &Path) -> [usize; 4] {
    let mut route = Handle::open().unwrap();
    let mut nft = NftSocket::open().unwrap();
    let elements = [Family::Ip, Family::Ip6].map(|family| {
        let listed = nft.elements(family, "causeway-cni", "masquerade-pods");
        listed.unwrap_or_default().len()
    });
    let routes = route.routes(RouteFilter::default()).unwrap();
    let reserved = std::fs::read_dir(dir.join("net")).map_or(0, |files| {
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).count()
    });
    [
        route.links().unwrap().len(),
        routes
            .iter()
            .filter(|route| route.destination.is_ipv4())
            .count(),
        elements.iter().sum(),
        reserved,
    ]
}

#[test]
fn steps_are_taken_in_order_and_whichever_fails_nothing_is_left() {
    let (node, pod) = (NetNs::anonymous().unwrap(), NetNs::anonymous().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let call = call(dir.path());
    let attachment = Attachment::new("pod", "eth0").unwrap();
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        pod.as_fd().as_raw_fd()
    );
    let in_node = || {
        let before = counts(dir.path());
        for failing in STEPS {
            let fail = |step| {
                if step == failing {
                    return Err(Error::new(Code::INTERNAL, "injected"));
                }
                Ok(())
            };
            let error = add(&call, &attachment, Path::new(&path), &fail).unwrap_err();
            assert_eq!(error.message, format!("{failing}: injected"));
            assert_eq!(error.details, "", "something could not be undone");
            assert_eq!(counts(dir.path()), before, "after {failing}");
        }
        let taken = std::cell::RefCell::new(Vec::new());
        let note = |step| {
            taken.borrow_mut().push(step);
            Ok(())
        };
        add(&call, &attachment, Path::new(&path), &note).unwrap();
        assert_eq!(taken.into_inner(), STEPS);
        let [links, routes, elements, reserved] = counts(dir.path());
        assert_eq!((links, elements, reserved), (before[0] + 1, 2, 2));
        assert!(routes > before[1]);
    };
    node.run(in_node).unwrap();
}
