use std::collections::BTreeMap;

use causeway_ebpf_abi::mapped;
use proptest::prelude::*;

use super::*;

fn backend(number: u16) -> Backend {
    let [high, low] = number.to_be_bytes();
    Backend {
        address: mapped([10, 244, high, low]),
        port: 8080,
        place: 0,
    }
}

fn backends(numbers: impl IntoIterator<Item = u16>) -> Vec<Backend> {
    numbers.into_iter().map(backend).collect()
}

/// Who has each place.
fn owners(maglev: Maglev, backends: &[Backend]) -> Vec<Backend> {
    let table = maglev.table(backends);
    assert_eq!(table.len(), maglev.size as usize);
    let owner = |index: &u16| backends[usize::from(*index)];
    table.iter().map(owner).collect()
}

fn shares(owners: &[Backend]) -> BTreeMap<Backend, usize> {
    let mut shares = BTreeMap::new();
    for owner in owners {
        *shares.entry(*owner).or_default() += 1;
    }
    shares
}

/// Places that changed although neither who had them went nor who has them came, in thousandths of
/// all.
fn moved(before: &[Backend], after: &[Backend]) -> usize {
    let (had, have) = (shares(before), shares(after));
    let both = before.iter().zip(after);
    let stays = |one: &Backend| had.contains_key(one) && have.contains_key(one);
    let moved = both.filter(|(a, b)| a != b && stays(a) && stays(b));
    moved.count() * 1_000 / before.len()
}

#[test]
fn every_size_is_a_prime() {
    for size in SIZES {
        assert!(
            (2..size)
                .take_while(|n| n * n <= size)
                .all(|n| size % n != 0)
        );
    }
}

#[test]
fn one_backend_more_or_less_moves_few_others() {
    let maglev = Maglev::default();
    for count in [2, 3, 10, 50, 100, 163] {
        let all = owners(maglev, &backends(0..count));
        for gone in [0, count / 2, count - 1] {
            let fewer = owners(maglev, &backends((0..count).filter(|n| *n != gone)));
            // A table has at least a hundred places for each.
            assert!(
                moved(&all, &fewer) <= 20,
                "{count}: {}",
                moved(&all, &fewer)
            );
            assert!(
                moved(&fewer, &all) <= 20,
                "{count}: {}",
                moved(&fewer, &all)
            );
        }
    }
}

#[test]
fn another_seed_or_port_is_another_table() {
    let one = Maglev::default();
    let other = Maglev { seed: 1, ..one };
    let ours = backends(0..10);
    assert_ne!(one.table(&ours), other.table(&ours));
    let elsewhere: Vec<_> = ours.iter().map(|one| Backend { port: 1, ..*one }).collect();
    assert_ne!(one.table(&ours), one.table(&elsewhere));
}

/// All nodes must agree, also those that run another release.
#[test]
fn tables_stay_the_same_from_release_to_release() {
    let small = Maglev {
        size: 251,
        ..Maglev::default()
    };
    let table = small.table(&backends(0..3));
    // As another program computes it by the paper.
    let first = [
        2, 2, 0, 2, 0, 0, 1, 1, 0, 2, 1, 1, 2, 1, 0, 0, 0, 1, 2, 2, 1, 0, 0, 2,
    ];
    assert_eq!(table[..24], first);
}

#[test]
fn tables_and_their_successors_have_room_in_the_map() {
    let of = |size, limit| {
        Maglev {
            size,
            seed: 0,
            limit,
        }
        .tables()
    };
    assert_eq!(of(16_381, 512), 512);
    assert_eq!(of(131_071, 512), 256);
    assert_eq!(of(251, usize::MAX), 32_768);
}

#[test]
fn what_has_no_backends_has_no_table() {
    let maglev = Maglev::default();
    assert!(!maglev.takes(0) && maglev.takes(1) && !maglev.takes(16_382));
    assert!(maglev.table(&[]).is_empty());
}

proptest! {
    /// Each backend has as many places as any other, or one less; and the order in which they were
    /// said does not matter.
    #[test]
    fn shares_are_even_and_nobody_asks_who_came_first(
        (some, shuffled) in prop::collection::btree_set(any::<u16>(), 1..120).prop_flat_map(|set| {
            let some: Vec<u16> = set.into_iter().collect();
            (Just(some.clone()), Just(some).prop_shuffle())
        }),
        seed: u64,
        size in prop::sample::select(&SIZES[..7]),
    ) {
        let maglev = Maglev { size, seed, ..Maglev::default() };
        let owners = owners(maglev, &backends(some.iter().copied()));
        let shares = shares(&owners);
        prop_assert_eq!(shares.len(), some.len());
        let (least, most) = (shares.values().min(), shares.values().max());
        prop_assert!(most.unwrap() - least.unwrap() <= 1);
        prop_assert_eq!(owners, self::owners(maglev, &backends(shuffled)));
    }
}
