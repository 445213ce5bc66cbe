//! Listings of `iptables-save` that nobody thought of. The same is tried by `fuzz/`.

#[cfg(test)]
#[path = "../../cni-types/tests/properties/changed.rs"]
mod changed;
#[cfg(test)]
#[path = "inputs/check.rs"]
mod check;

use changed::changed;
use proptest::prelude::*;

/// Ours and others', as the programs write them.
const LISTINGS: &[&str] = &[
    include_str!("inputs/ours.iptables"),
    include_str!("inputs/shared.iptables"),
    include_str!("inputs/ipvs.iptables"),
];

/// Lines of good listings in any order.
fn shuffled() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = LISTINGS.iter().flat_map(|text| text.lines()).collect();
    let some = proptest::collection::vec(proptest::sample::select(lines), 0..60);
    some.prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_listings(bytes in changed(LISTINGS)) {
        check::listing(&bytes);
    }

    #[test]
    fn listings_out_of_order(text in shuffled()) {
        check::listing(text.as_bytes());
    }
}
