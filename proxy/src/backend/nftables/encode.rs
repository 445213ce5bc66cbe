//! Operations of the plan as messages of a transaction.

use lb_model::Family;
use lb_plan::nftables::{Chain, Hook, Operation, TABLE};
use nodekit::nft::{self, BaseChain, Batch, ChainType};

use super::{elements, rules};

/// The family in nft's words.
pub(super) const fn nft_family(family: Family) -> nft::Family {
    match family {
        Family::V4 => nft::Family::Ip,
        Family::V6 => nft::Family::Ip6,
    }
}

/// An empty transaction on our table.
pub(super) fn batch(family: Family) -> Batch {
    Batch::new(nft_family(family), TABLE)
}

/// Appends `operations` to `batch`; an error about one of them will carry `tag`. Neighbouring
/// elements of one set share a message.
pub(super) fn append(batch: &mut Batch, family: Family, tag: usize, operations: &[Operation]) {
    let together = |a: &Operation, b: &Operation| match (a, b) {
        (Operation::AddElement(a), Operation::AddElement(b))
        | (Operation::DeleteElement(a), Operation::DeleteElement(b)) => a.set() == b.set(),
        _ => false,
    };
    for group in operations.chunk_by(together) {
        let elements = group.iter().filter_map(|operation| match operation {
            Operation::AddElement(element) | Operation::DeleteElement(element) => {
                Some(elements::encode(element))
            }
            _ => None,
        });
        match &group[0] {
            Operation::AddTable { signature } => batch.create_table(
                tag,
                &nft::Table {
                    comment: Some(signature.clone()),
                    ..nft::Table::default()
                },
            ),
            // There may be none: two processes may clean up at once.
            Operation::DeleteTable => batch.destroy_table(tag),
            Operation::AddSet(set) => batch.create_set(tag, &elements::definition(family, *set)),
            Operation::AddChain(chain) => batch.create_chain(tag, &definition(*chain)),
            Operation::AddRule { chain, rule } => {
                let exprs = rules::expressions(family, rule);
                batch.add_rule(tag, &nft::Rule::new(&chain.to_string(), exprs));
            }
            Operation::DeleteChain(chain) => {
                let name = chain.to_string();
                batch.flush_chain(tag, &name);
                batch.delete_chain(tag, &name);
            }
            Operation::AddElement(element) => {
                batch.add_elements(tag, element.set().name(), elements);
            }
            Operation::DeleteElement(element) => {
                batch.delete_elements(tag, element.set().name(), elements);
            }
        }
    }
}

fn definition(chain: Chain) -> nft::Chain {
    let name = chain.to_string();
    let Some(hook) = chain.hook() else {
        return nft::Chain::regular(&name);
    };
    let (hook, priority) = match hook {
        Hook::Prerouting => (nft::Hook::Prerouting, -100),
        Hook::Output => (nft::Hook::Output, -100),
        Hook::Postrouting => (nft::Hook::Postrouting, 100),
        Hook::Input => (nft::Hook::Input, 100),
        Hook::BeforeSources => (nft::Hook::Postrouting, 0),
    };
    nft::Chain::base(&name, BaseChain::new(ChainType::Nat, hook, priority))
}
