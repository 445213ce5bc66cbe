//! Chains with everything that is ever used, to see whether a kernel can do it.

use std::num::NonZeroU32;

use lb_model::Masquerade;

use super::class::{Addressing, Class};
use super::operation::Operation;
use super::rule::Chain;
use super::settings::Settings;

/// What to do in a table with [`super::skeleton`] so that every match and every statement is there.
pub fn probe(settings: &Settings) -> Vec<Operation> {
    let mut chains = vec![
        Chain::LearnFor(NonZeroU32::MIN),
        Chain::Class(Class::Reject { restricted: true }),
    ];
    for addressing in [Addressing::Vip, Addressing::NodePort] {
        let (affinity, restricted) = (true, false);
        for masquerade in [Masquerade::OffCluster, Masquerade::Never] {
            chains.push(Chain::Class(Class::Forward {
                addressing,
                endpoints: 1,
                masquerade,
                affinity,
                restricted,
            }));
        }
        chains.push(Chain::Class(Class::LocalOnly {
            addressing,
            cluster: 1,
            local: 1,
            affinity,
            restricted,
        }));
    }
    let make = |chain: Chain| {
        let rules = chain.rules(settings).into_iter();
        let rules = rules.map(move |rule| Operation::AddRule { chain, rule });
        [Operation::AddChain(chain)].into_iter().chain(rules)
    };
    chains.into_iter().flat_map(make).collect()
}
