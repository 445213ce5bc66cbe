//! Many pods at once.

use std::collections::BTreeSet;

use causeway_cri_tests::bed::{Bed, HANDLER};
use causeway_cri_tests::network::{self, Network};

#[test]
fn thirty_pods_at_once_have_an_address_each() {
    let bed = Bed::new(Network::Installed("10.1.0.0/24")).unwrap();
    let names: Vec<_> = (0..30).map(|number| format!("pod-{number}")).collect();
    let addresses: BTreeSet<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = names
            .iter()
            .map(|name| {
                let bed = &bed;
                scope.spawn(move || {
                    let pod = bed.cri.run_pod(&bed.wanted(name), HANDLER).unwrap();
                    bed.cri.addresses(&pod).unwrap().swap_remove(0)
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(addresses.len(), names.len());
    assert_eq!(network::reserved(&bed.node).len(), names.len());
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}
