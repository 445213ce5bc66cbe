//! What is in the maps, and the way from there to what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use causeway_ebpf_abi::{
    Backend, Frontend, FrontendKey, MemberKey, PodNetwork, Row, RowKey, SlotKey, SourceRange,
};
use lb_model::ServiceName;

use super::maglev::Maglev;
use super::moves::Moves;
use super::wanted::Wanted;
use super::{Operation, UDP};

/// What is in the maps.
#[derive(Debug, Default)]
pub struct Applied {
    placed: HashMap<FrontendKey, Placed>,
    /// Frontends of which a step failed, so that nobody knows what their sets hold.
    torn: HashMap<FrontendKey, Leavings>,
    owners: HashMap<FrontendKey, ServiceName>,
    owned: HashMap<ServiceName, BTreeSet<FrontendKey>>,
    /// The highest number that a set ever had.
    last_set: u32,
    /// The same of tables.
    last_table: u32,
    /// The same of lists of sources.
    last_list: u32,
    /// Frontends that have a table.
    tables: usize,
    /// Frontends that should have one, and for which there is none.
    without: usize,
    /// How clients are spread over backends; `None`: any gets any.
    maglev: Option<Maglev>,
    /// What belongs to no frontend, as a kill leaves it.
    stray: Leavings,
}

/// A frontend as it is in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    set: u32,
    /// By slot.
    pub(super) backends: Vec<Backend>,
    affinity_seconds: u32,
    flags: u32,
    service: u32,
    /// Whether its members are there.
    pub(super) remembers: bool,
    pub(super) table: Option<Table>,
    /// It should have a table, and there is none for it.
    pub(super) without: bool,
    /// `None`: packets may come from anywhere.
    pub(super) sources: Option<Sources>,
}

/// A Maglev table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) number: u32,
    pub(super) places: u32,
    /// It was found after a restart: nobody knows by which seed it was made.
    pub(super) found: bool,
}

impl Table {
    pub(super) fn rows(self) -> impl Iterator<Item = RowKey> {
        let rows = 0..self.places.div_ceil(Row::PLACES);
        let table = self.number;
        rows.map(move |row| RowKey { table, row })
    }
}

/// A list of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) list: u32,
    pub(super) networks: BTreeSet<PodNetwork>,
}

impl Sources {
    fn by_list(ranges: &BTreeSet<SourceRange>) -> BTreeMap<u32, BTreeSet<PodNetwork>> {
        let mut lists: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for range in ranges {
            let list = lists.entry(range.source.list).or_default();
            list.insert(range.network());
        }
        lists
    }

    pub(super) fn ranges(&self) -> BTreeSet<SourceRange> {
        let networks = self.networks.iter();
        let ranges = networks.map(|network| SourceRange::of(self.list, network));
        ranges.collect()
    }
}

/// What may still be in the maps of sets that are not used again.
#[derive(Clone, Debug, Default)]
struct Leavings {
    slots: BTreeSet<SlotKey>,
    members: BTreeSet<MemberKey>,
    rows: BTreeSet<RowKey>,
    sources: BTreeSet<SourceRange>,
}

/// The entries of all maps, as they were found after a restart.
#[derive(Debug, Default)]
pub struct Found {
    /// Those of [`maps::FRONTENDS`].
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// Those of [`maps::BACKENDS`].
    pub backends: BTreeMap<SlotKey, Backend>,
    /// Keys of [`maps::MEMBERS`].
    pub members: BTreeSet<MemberKey>,
    /// Keys of [`maps::ROWS`].
    pub rows: BTreeSet<RowKey>,
    /// Keys of [`maps::SOURCES`].
    pub sources: BTreeSet<SourceRange>,
}

/// Operations for one Service, to be applied in their order, and then handed back to
/// [`Applied::commit`] or [`Applied::fail`].
#[derive(Debug, Default)]
pub struct Step {
    /// The Service; `None`: leftovers.
    pub service: Option<ServiceName>,
    /// What to do.
    pub operations: Vec<Operation>,
    placed: Vec<(FrontendKey, Option<Placed>)>,
    keys: BTreeSet<FrontendKey>,
    /// Frontends that get their first table.
    tables: usize,
}

impl Leavings {
    fn take(&mut self, placed: &Placed) {
        for (slot, backend) in placed.backends.iter().enumerate() {
            self.slots.insert(placed.slot(slot));
            self.members.insert(placed.member(*backend));
        }
        self.rows
            .extend(placed.table.iter().flat_map(|table| table.rows()));
        self.sources
            .extend(placed.sources.iter().flat_map(Sources::ranges));
    }

    fn deletions(&self) -> impl Iterator<Item = Operation> {
        let slots = self.slots.iter().copied().map(Operation::DeleteBackend);
        let members = self.members.iter().copied().map(Operation::DeleteMember);
        let rows = self.rows.iter().copied().map(Operation::DeleteRow);
        let sources = self.sources.iter().copied().map(Operation::DeleteSource);
        slots.chain(members).chain(rows).chain(sources)
    }
}

impl Placed {
    fn empty(set: u32) -> Self {
        Self {
            set,
            backends: Vec::new(),
            affinity_seconds: 0,
            flags: 0,
            service: 0,
            remembers: false,
            table: None,
            without: false,
            sources: None,
        }
    }

    pub(super) fn frontend(&self, count: usize) -> Frontend {
        Frontend {
            set: self.set,
            // More backends than that are not to be had.
            count: u32::try_from(count).unwrap_or(u32::MAX),
            affinity_seconds: self.affinity_seconds,
            flags: self.flags,
            table: self.table.map_or(0, |table| table.number),
            places: self.table.map_or(0, |table| table.places),
            service: self.service,
            sources: self.sources.as_ref().map_or(0, |sources| sources.list),
        }
    }

    pub(super) fn slot(&self, index: usize) -> SlotKey {
        SlotKey {
            set: self.set,
            slot: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn member(&self, backend: Backend) -> MemberKey {
        MemberKey {
            set: self.set,
            backend: backend.bare(),
        }
    }

    pub(super) fn members(&self) -> BTreeSet<MemberKey> {
        let backends = self.backends.iter();
        backends.map(|backend| self.member(*backend)).collect()
    }
}

impl Applied {
    /// What was found in the maps after a restart. Every Service must then be planned, and
    /// [`Applied::sweep`] called.
    pub fn adopt(found: Found) -> Self {
        let Found {
            frontends,
            backends: mut slots,
            members,
            mut rows,
            sources,
        } = found;
        let mut lists = Sources::by_list(&sources);
        let sets = slots.keys().map(|key| key.set);
        let sets = sets.chain(members.iter().map(|member| member.set));
        let mut applied = Self {
            last_set: sets.max().unwrap_or_default(),
            last_table: rows.iter().map(|row| row.table).max().unwrap_or_default(),
            last_list: lists.keys().max().copied().unwrap_or_default(),
            ..Self::default()
        };
        for (key, frontend) in frontends {
            let Frontend { set, count, .. } = frontend;
            applied.last_set = applied.last_set.max(set);
            let filled = (0..count).map_while(|slot| slots.remove(&SlotKey { set, slot }));
            applied.last_table = applied.last_table.max(frontend.table);
            let table = (frontend.table != 0).then_some(Table {
                number: frontend.table,
                places: frontend.places,
                found: true,
            });
            for row in table.into_iter().flat_map(Table::rows) {
                rows.remove(&row);
            }
            applied.tables += usize::from(table.is_some());
            applied.last_list = applied.last_list.max(frontend.sources);
            let list = frontend.sources;
            let sources = (list != 0).then(|| Sources {
                list,
                networks: lists.remove(&list).unwrap_or_default(),
            });
            let placed = Placed {
                set,
                table,
                without: false,
                backends: filled.collect(),
                affinity_seconds: frontend.affinity_seconds,
                flags: frontend.flags,
                service: frontend.service,
                remembers: frontend.affinity_seconds != 0 || key.protocol == UDP,
                sources,
            };
            applied.placed.insert(key, placed);
        }
        let unused = lists.into_iter();
        let unused = unused.flat_map(|(list, networks)| Sources { list, networks }.ranges());
        applied.stray = Leavings {
            slots: slots.into_keys().collect(),
            members,
            rows,
            sources: unused.collect(),
        };
        applied
    }

    /// From now on, clients from outside are spread by these tables.
    pub const fn spread_by(&mut self, maglev: Option<Maglev>) {
        self.maglev = maglev;
    }

    /// How many frontends have a Maglev table, and how many have none since there are no more
    /// ([`Maglev::tables`]), or since they have more backends than places.
    pub const fn spread(&self) -> (usize, usize) {
        (self.tables, self.without)
    }

    /// The keys of all frontends that are there, or may be.
    pub fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.placed.keys().chain(self.torn.keys())
    }

    /// What brings a Service to what is wanted of it, nothing when it is removed.
    ///
    /// An address that another Service has is taken over: the model gives it to one at a time.
    pub fn plan(&mut self, service: &ServiceName, wanted: Vec<Wanted>) -> Step {
        let mut step = Step {
            service: Some(service.clone()),
            keys: wanted.iter().map(|wanted| wanted.key).collect(),
            ..Step::default()
        };
        for wanted in wanted {
            self.place(&wanted, &mut step);
        }
        for key in self.owned.get(service).into_iter().flatten() {
            let taken_over = self.owners.get(key).is_some_and(|owner| owner != service);
            if !step.keys.contains(key) && !taken_over {
                self.remove(*key, &mut step);
            }
        }
        step
    }

    /// Takes away what no Service has: to be called once every Service was planned.
    pub fn sweep(&mut self) -> Step {
        let mut step = Step::default();
        let mut unowned: Vec<_> = self
            .keys()
            .filter(|k| !self.owners.contains_key(*k))
            .collect();
        unowned.sort_unstable();
        unowned.dedup();
        for key in unowned {
            self.remove(*key, &mut step);
        }
        self.drop_used_stray();
        step.operations.extend(self.stray.deletions());
        step
    }

    /// The step's operations are all in the maps.
    pub fn commit(&mut self, step: Step) {
        for (key, placed) in step.placed {
            self.torn.remove(&key);
            self.tables += usize::from(placed.as_ref().is_some_and(|new| new.table.is_some()));
            self.without += usize::from(placed.as_ref().is_some_and(|new| new.without));
            let old = match placed {
                Some(placed) => self.placed.insert(key, placed),
                None => self.placed.remove(&key),
            };
            self.tables -= usize::from(old.as_ref().is_some_and(|old| old.table.is_some()));
            self.without -= usize::from(old.is_some_and(|old| old.without));
        }
        match step.service {
            Some(service) => self.own(service, step.keys),
            None => self.stray = Leavings::default(),
        }
    }

    /// The step's operations were applied up to any one of them. Whoever plans the Service again
    /// gets its frontends written anew, beside what is there.
    pub fn fail(&mut self, step: Step) {
        for (key, placed) in step.placed {
            let leavings = self.torn.entry(key).or_default();
            for placed in self.placed.get(&key).into_iter().chain(&placed) {
                leavings.take(placed);
            }
        }
        if let Some(service) = step.service {
            // Both what it had and what it should have: either may be there.
            let before = self.owned.get(&service).into_iter().flatten().copied();
            let keys = before.chain(step.keys).collect();
            self.own(service, keys);
        }
    }

    /// What was stray when it was found may have a use again.
    fn drop_used_stray(&mut self) {
        let Leavings {
            slots,
            members,
            rows,
            // A list is never used again.
            sources: _,
        } = &mut self.stray;
        for placed in self.placed.values() {
            let (slot, end) = (placed.slot(0), placed.slot(placed.backends.len()));
            let used: Vec<_> = slots.range(slot..end).copied().collect();
            for slot in used {
                slots.remove(&slot);
            }
            for row in placed.table.into_iter().flat_map(Table::rows) {
                rows.remove(&row);
            }
            if placed.remembers {
                for backend in &placed.backends {
                    members.remove(&placed.member(*backend));
                }
            }
        }
    }

    fn own(&mut self, service: ServiceName, keys: BTreeSet<FrontendKey>) {
        for key in self.owned.remove(&service).into_iter().flatten() {
            if self.owners.get(&key) == Some(&service) {
                self.owners.remove(&key);
            }
        }
        for key in &keys {
            self.owners.insert(*key, service.clone());
        }
        if !keys.is_empty() {
            self.owned.insert(service, keys);
        }
    }

    fn remove(&self, key: FrontendKey, step: &mut Step) {
        let mut leavings = self.torn.get(&key).cloned().unwrap_or_default();
        let placed = self.placed.get(&key);
        if let Some(placed) = placed {
            leavings.take(placed);
        }
        if !placed.is_some_and(|placed| placed.remembers) && !self.torn.contains_key(&key) {
            leavings.members.clear();
        }
        step.operations.push(Operation::DeleteFrontend(key));
        step.operations.extend(leavings.deletions());
        step.placed.push((key, None));
    }

    fn place(&mut self, wanted: &Wanted, step: &mut Step) {
        let torn = self.torn.get(&wanted.key);
        let before = self.placed.get(&wanted.key).filter(|_| torn.is_none());
        let old = before.cloned().unwrap_or_else(|| {
            self.last_set += 1;
            Placed::empty(self.last_set)
        });
        let mut new = Placed {
            affinity_seconds: wanted.affinity_seconds,
            flags: wanted.flags,
            service: wanted.service,
            remembers: wanted.remembers(),
            table: None,
            without: false,
            ..old.clone()
        };
        let mut moves = Moves {
            operations: &mut step.operations,
            old: &old,
            new: &mut new,
        };
        moves.exchange(wanted);
        moves.admit(wanted, &mut self.last_list);
        if wanted.spread
            && let Some(maglev) = self.maglev
        {
            let tables = self.tables + step.tables;
            let may_have_one = old.table.is_some() || tables < maglev.tables();
            moves.spread(maglev, may_have_one, &mut self.last_table);
        }
        moves.settle(wanted, before.is_none());
        step.tables += usize::from(old.table.is_none() && new.table.is_some());
        if before.is_none_or(|before| *before != new) {
            let leavings = torn.into_iter().flat_map(Leavings::deletions);
            step.operations.extend(leavings);
            step.placed.push((wanted.key, Some(new)));
        }
    }
}
