//! Pods come, talk to each other, and go.

use causeway_cri_tests::bed::Bed;
use causeway_cri_tests::network;

#[test]
fn pods_reach_each_other() {
    let bed = Bed::new(&network::combined("10.1.0.0/24")).unwrap();
    let pods = bed.pods(&["a", "b"].map(str::to_owned)).unwrap();
    let [a, b] = pods.as_slice() else { panic!() };
    bed.cri
        .exec(&a.container, &["ping", "-c1", "-W5", &b.address])
        .unwrap();
    assert_eq!(bed.fetch(a, &b.address).unwrap(), "b");
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}
