use std::collections::{BTreeMap, BTreeSet};

use causeway_ebpf_abi::{
    Backend, Frontend, FrontendKey, MemberKey, PodNetwork, Row, RowKey, SlotKey, SourceRange,
    mapped,
};
use lb_model::ServiceName;
use proptest::prelude::*;

use super::*;

/// The maps, as the kernel would have them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Maps {
    frontends: BTreeMap<FrontendKey, Frontend>,
    backends: BTreeMap<SlotKey, Backend>,
    members: BTreeMap<MemberKey, ()>,
    rows: BTreeMap<RowKey, Row>,
    sources: BTreeSet<SourceRange>,
}

impl Maps {
    fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::SetBackend(key, backend) => drop(self.backends.insert(key, backend)),
            Operation::DeleteBackend(key) => drop(self.backends.remove(&key)),
            Operation::AddMember(key) => drop(self.members.insert(key, ())),
            Operation::DeleteMember(key) => drop(self.members.remove(&key)),
            Operation::SetRow(key, row) => drop(self.rows.insert(key, *row)),
            Operation::DeleteRow(key) => drop(self.rows.remove(&key)),
            Operation::AddSource(range) => drop(self.sources.insert(range)),
            Operation::DeleteSource(range) => drop(self.sources.remove(&range)),
            Operation::SetFrontend(key, frontend) => drop(self.frontends.insert(key, frontend)),
            Operation::DeleteFrontend(key) => drop(self.frontends.remove(&key)),
        }
    }

    /// What a client sees at an address; every slot that counts must be filled.
    fn seen(&self, key: &FrontendKey) -> Option<Vec<Backend>> {
        let frontend = self.frontends.get(key)?;
        let slots = 0..frontend.count;
        let mut backends: Vec<_> = slots
            .map(|slot| {
                let set = frontend.set;
                self.backends[&SlotKey { set, slot }]
            })
            .collect();
        if remembers(key, frontend) {
            for backend in &backends {
                let set = frontend.set;
                let backend = backend.bare();
                assert!(self.members.contains_key(&MemberKey { set, backend }));
            }
        }
        if frontend.table != 0 {
            // Every place of the table names a slot, and every slot has places.
            let named: BTreeSet<_> = (0..frontend.places)
                .map(|place| {
                    let (row, place) = Row::of(place);
                    let table = frontend.table;
                    self.rows[&RowKey { table, row }].slot(place).unwrap()
                })
                .collect();
            assert_eq!(named, (0..frontend.count).collect());
        }
        backends.sort_unstable();
        backends.dedup();
        Some(backends)
    }

    /// From where packets may come; `None`: from anywhere.
    fn admits(&self, key: &FrontendKey) -> Option<BTreeSet<PodNetwork>> {
        let list = self.frontends.get(key)?.sources;
        let ranges = self
            .sources
            .iter()
            .filter(|range| range.source.list == list);
        (list != 0).then(|| ranges.map(SourceRange::network).collect())
    }

    /// Nothing is there but what the frontends count.
    fn is_tidy(&self) -> bool {
        let counted: usize = self.frontends.values().map(|f| f.count as usize).sum();
        let remembered = self.frontends.iter().filter(|(key, f)| remembers(key, f));
        let remembered: usize = remembered.map(|(_, f)| f.count as usize).sum();
        let rows = self
            .frontends
            .values()
            .map(|f| f.places.div_ceil(Row::PLACES));
        let rows: u32 = rows.sum();
        let listed = |range: &SourceRange| {
            let mut frontends = self.frontends.values();
            frontends.any(|frontend| frontend.sources == range.source.list)
        };
        self.sources.iter().all(listed)
            && self.backends.len() == counted
            && self.members.len() == remembered
            && self.rows.len() == rows as usize
    }
}

fn remembers(key: &FrontendKey, frontend: &Frontend) -> bool {
    frontend.affinity_seconds != 0 || key.protocol == UDP
}

/// Numbers up to 1 are TCP's, the others UDP's.
fn key(number: u8) -> FrontendKey {
    FrontendKey {
        address: mapped([10, 96, 0, number]),
        port: 80,
        protocol: if number < 2 { 6 } else { UDP },
        view: FrontendKey::INSIDE,
    }
}

fn backend(number: u8) -> Backend {
    Backend {
        address: mapped([10, 244, 0, number]),
        port: 8080,
        place: 0,
    }
}

fn at(number: u8, backends: &[u8], affinity_seconds: u32) -> Wanted {
    let mut backends: Vec<_> = backends.iter().map(|number| backend(*number)).collect();
    backends.sort_unstable();
    backends.dedup();
    Wanted {
        key: key(number),
        backends,
        affinity_seconds,
        flags: Frontend::SOCKETS,
        spread: affinity_seconds == 0 && number > 0,
        service: 1,
        sources: None,
    }
}

/// A network of sources.
fn from(number: u8) -> PodNetwork {
    network(format!("198.51.{number}.0/24").parse().unwrap())
}

/// The same with direct return.
fn directly(mut wanted: Wanted) -> Wanted {
    for backend in &mut wanted.backends {
        backend.place = Backend::HERE;
    }
    wanted
}

fn name(number: u8) -> ServiceName {
    ServiceName::new("default", &format!("s{number}"))
}

fn run(applied: &mut Applied, maps: &mut Maps, step: Step) -> usize {
    let count = step.operations.len();
    step.operations.iter().for_each(|op| maps.apply(op));
    applied.commit(step);
    count
}

/// Tables of two rows, for one frontend or two at a time.
const SMALL: Option<Maglev> = Some(Maglev {
    size: 1_021,
    seed: 7,
    limit: 2,
});

fn spread() -> Applied {
    let mut applied = Applied::default();
    applied.spread_by(SMALL);
    applied
}

#[test]
fn a_table_stays_as_long_as_its_backends_and_there_are_not_too_many() {
    let (mut applied, mut maps) = (spread(), Maps::default());
    let mut tables = |wishes: Vec<Wanted>| -> Vec<u32> {
        for wish in wishes {
            let service = name(wish.key.address[15]);
            let step = applied.plan(&service, vec![wish]);
            run(&mut applied, &mut maps, step);
        }
        maps.frontends
            .values()
            .map(|frontend| frontend.table)
            .collect()
    };
    assert_eq!(
        tables(vec![at(0, &[1], 0), at(1, &[], 0), at(2, &[1, 2], 0)]),
        [0, 0, 1]
    );
    assert_eq!(
        tables(vec![at(1, &[1, 2], 0), at(3, &[1], 0)]),
        [0, 2, 1, 0]
    );
    assert_eq!(
        tables(vec![at(1, &[1, 2], 0), at(2, &[1], 0)]),
        [0, 2, 3, 0]
    );
    assert_eq!(
        tables(vec![at(1, &[1, 2], 30), at(3, &[1], 0)]),
        [0, 0, 3, 4]
    );
    assert!(maps.is_tidy());
}

#[test]
fn one_endpoint_is_a_few_entries_whatever_their_number() {
    let (mut applied, mut maps) = (Applied::default(), Maps::default());
    let many: Vec<u8> = (0..200).collect();
    let step = applied.plan(&name(1), vec![at(1, &many, 0)]);
    assert_eq!(run(&mut applied, &mut maps, step), 201);
    for (backends, most) in [
        (many[1..].to_vec(), 3),
        (many.clone(), 2),
        ([&[201], &many[1..]].concat(), 1),
        ([&[201], &many[1..]].concat(), 0),
    ] {
        let step = applied.plan(&name(1), vec![at(1, &backends, 0)]);
        let count = run(&mut applied, &mut maps, step);
        assert!(count <= most, "{count} operations, not {most}");
        assert_eq!(maps.seen(&key(1)).unwrap().len(), backends.len());
    }
}

#[test]
fn members_stay_when_their_places_change() {
    let (mut applied, mut maps) = (spread(), Maps::default());
    for wanted in [
        at(2, &[1, 2], 0),
        directly(at(2, &[1, 2], 0)),
        at(2, &[1, 2], 30),
    ] {
        let step = applied.plan(&name(1), vec![wanted.clone()]);
        let members = maps.members.clone();
        for operation in &step.operations {
            maps.apply(operation);
            assert!(
                members
                    .keys()
                    .all(|member| maps.members.contains_key(member))
            );
        }
        applied.commit(step);
        assert_eq!(maps.seen(&key(2)).unwrap(), wanted.backends);
        assert!(maps.is_tidy());
    }
}

#[test]
fn an_address_goes_from_one_service_to_another() {
    let (mut applied, mut maps) = (Applied::default(), Maps::default());
    let step = applied.plan(&name(1), vec![at(1, &[1], 0)]);
    run(&mut applied, &mut maps, step);
    let step = applied.plan(&name(2), vec![at(1, &[2], 0)]);
    run(&mut applied, &mut maps, step);
    let step = applied.plan(&name(1), Vec::new());
    run(&mut applied, &mut maps, step);
    assert_eq!(maps.seen(&key(1)).unwrap(), [backend(2)]);
    let step = applied.plan(&name(2), Vec::new());
    run(&mut applied, &mut maps, step);
    assert_eq!(maps, Maps::default());
}

/// What one Service wants: addresses 0 to 3 with some backends each.
fn wish() -> impl Strategy<Value = Vec<Wanted>> {
    let one = (
        proptest::collection::vec(0_u8..12, 0..9),
        prop_oneof![Just(0_u32), Just(30)],
        any::<bool>(),
        proptest::option::of(proptest::collection::btree_set(0_u8..5, 0..4)),
    );
    proptest::collection::btree_map(0_u8..4, one, 0..4).prop_map(|all| {
        let all = all.into_iter();
        let wanted = |(number, (backends, affinity, direct, sources))| {
            let backends: Vec<u8> = backends;
            let sources: Option<BTreeSet<u8>> = sources;
            let wanted = Wanted {
                sources: sources.map(|all| all.into_iter().map(from).collect()),
                ..at(number, &backends, affinity)
            };
            if direct { directly(wanted) } else { wanted }
        };
        all.map(wanted).collect()
    })
}

/// Whoever may come before and after may now, and nobody may who may neither.
fn is_between(
    before: &Maps,
    now: &Maps,
    number: u8,
    wish: Option<Option<BTreeSet<PodNetwork>>>,
) -> bool {
    let key = key(number);
    let then = before.frontends.contains_key(&key);
    let (Some(wish), true) = (wish, then) else {
        return true;
    };
    let may = |allowed: &Option<BTreeSet<PodNetwork>>, number| {
        let network = from(number);
        allowed.as_ref().is_none_or(|all| all.contains(&network))
    };
    let (then, now) = (before.admits(&key), now.admits(&key));
    (0..5).all(|number| {
        let (then, now, soon) = (may(&then, number), may(&now, number), may(&wish, number));
        (now || !(then && soon)) && (!now || then || soon)
    })
}

proptest! {
    /// After every single operation each address has a whole set: backends of before or of after.
    /// In the end there is what was wanted, and nothing else.
    #[test]
    fn no_moment_is_torn(wishes in proptest::collection::vec(wish(), 1..8)) {
        let (mut applied, mut maps) = (spread(), Maps::default());
        for wanted in wishes {
            let step = applied.plan(&name(1), wanted.clone());
            let before = maps.clone();
            for operation in &step.operations {
                maps.apply(operation);
                for number in 0..4 {
                    let Some(seen) = maps.seen(&key(number)) else { continue };
                    let then = before.seen(&key(number)).unwrap_or_default();
                    let wish = wanted.iter().find(|w| w.key == key(number));
                    let soon = wish.map_or(&[][..], |w| &w.backends);
                    prop_assert!(seen.iter().all(|b| then.contains(b) || soon.contains(b)));
                    let some = !then.is_empty() && !soon.is_empty();
                    prop_assert!(!some || !seen.is_empty(), "refused meanwhile");
                    let wish = wish.map(|wish| wish.sources.clone());
                    prop_assert!(is_between(&before, &maps, number, wish), "{operation:?}");
                }
            }
            applied.commit(step);
            prop_assert_eq!(maps.frontends.len(), wanted.len());
            for wish in &wanted {
                prop_assert_eq!(&maps.seen(&wish.key).unwrap(), &wish.backends);
                prop_assert_eq!(&maps.admits(&wish.key), &wish.sources);
            }
            prop_assert!(maps.is_tidy());
        }
    }

    /// A kill or a failure after any operation, then another plan, ends where it should.
    #[test]
    fn a_cut_is_mended(
        wishes in proptest::collection::vec((wish(), 0_usize..40, any::<bool>()), 1..6),
        last in wish(),
    ) {
        let (mut applied, mut maps) = (spread(), Maps::default());
        for (wanted, cut, killed) in wishes {
            let step = applied.plan(&name(1), wanted);
            step.operations.iter().take(cut).for_each(|op| maps.apply(op));
            let whole = cut >= step.operations.len();
            if killed {
                let Maps { frontends, backends, members, rows, sources } = maps.clone();
                applied = Applied::adopt(Found {
                    frontends: frontends.into_iter().collect(),
                    backends,
                    members: members.into_keys().collect(),
                    rows: rows.into_keys().collect(),
                    sources,
                });
                applied.spread_by(SMALL);
            } else if whole {
                applied.commit(step);
            } else {
                applied.fail(step);
            }
            for number in 0..4 {
                // Panics where a slot is missing.
                maps.seen(&key(number));
            }
        }
        let step = applied.plan(&name(1), last.clone());
        run(&mut applied, &mut maps, step);
        let step = applied.sweep();
        run(&mut applied, &mut maps, step);
        prop_assert_eq!(maps.frontends.len(), last.len());
        for wish in &last {
            prop_assert_eq!(&maps.seen(&wish.key).unwrap(), &wish.backends);
            prop_assert_eq!(&maps.admits(&wish.key), &wish.sources);
        }
        prop_assert!(maps.is_tidy(), "{:?}", maps);
    }
}
