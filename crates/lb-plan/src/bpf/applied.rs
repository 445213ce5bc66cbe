//! What is in the maps, and the way from there to what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use causeway_ebpf_abi::{Backend, Frontend, FrontendKey, MemberKey, Row, RowKey, SlotKey};
use lb_model::ServiceName;

use super::maglev::Maglev;
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
    /// Frontends that have a table.
    tables: usize,
    /// Frontends that should have one, and for which there is none.
    without: usize,
    /// How clients are spread over backends; `None`: any gets any.
    maglev: Option<Maglev>,
    /// What belongs to no frontend, as a kill leaves it.
    stray: Leavings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    set: u32,
    /// By slot.
    backends: Vec<Backend>,
    affinity_seconds: u32,
    flags: u32,
    service: u32,
    /// Whether its members are there.
    remembers: bool,
    table: Option<Table>,
    /// It should have a table, and there is none for it.
    without: bool,
}

/// A Maglev table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    number: u32,
    places: u32,
    /// It was found after a restart: nobody knows by which seed it was made.
    found: bool,
}

impl Table {
    fn rows(self) -> impl Iterator<Item = RowKey> {
        let rows = 0..self.places.div_ceil(Row::PLACES);
        let table = self.number;
        rows.map(move |row| RowKey { table, row })
    }
}

/// What may still be in the maps of sets that are not used again.
#[derive(Clone, Debug, Default)]
struct Leavings {
    slots: BTreeSet<SlotKey>,
    members: BTreeSet<MemberKey>,
    rows: BTreeSet<RowKey>,
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
    }

    fn deletions(&self) -> impl Iterator<Item = Operation> {
        let slots = self.slots.iter().copied().map(Operation::DeleteBackend);
        let members = self.members.iter().copied().map(Operation::DeleteMember);
        let rows = self.rows.iter().copied().map(Operation::DeleteRow);
        slots.chain(members).chain(rows)
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
        }
    }

    fn frontend(&self, count: usize) -> Frontend {
        Frontend {
            set: self.set,
            // More backends than that are not to be had.
            count: u32::try_from(count).unwrap_or(u32::MAX),
            affinity_seconds: self.affinity_seconds,
            flags: self.flags,
            table: self.table.map_or(0, |table| table.number),
            places: self.table.map_or(0, |table| table.places),
            service: self.service,
        }
    }

    fn slot(&self, index: usize) -> SlotKey {
        SlotKey {
            set: self.set,
            slot: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }

    fn member(&self, backend: Backend) -> MemberKey {
        MemberKey {
            set: self.set,
            backend: backend.bare(),
        }
    }

    fn members(&self) -> BTreeSet<MemberKey> {
        let backends = self.backends.iter();
        backends.map(|backend| self.member(*backend)).collect()
    }
}

impl Applied {
    /// What was found in the maps after a restart. Every Service must then be planned, and
    /// [`Applied::sweep`] called.
    pub fn adopt(
        frontends: impl IntoIterator<Item = (FrontendKey, Frontend)>,
        backends: impl IntoIterator<Item = (SlotKey, Backend)>,
        members: impl IntoIterator<Item = MemberKey>,
        rows: impl IntoIterator<Item = RowKey>,
    ) -> Self {
        let mut slots: BTreeMap<SlotKey, Backend> = backends.into_iter().collect();
        let members: BTreeSet<MemberKey> = members.into_iter().collect();
        let mut rows: BTreeSet<RowKey> = rows.into_iter().collect();
        let sets = slots.keys().map(|key| key.set);
        let sets = sets.chain(members.iter().map(|member| member.set));
        let mut applied = Self {
            last_set: sets.max().unwrap_or_default(),
            last_table: rows.iter().map(|row| row.table).max().unwrap_or_default(),
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
            let placed = Placed {
                set,
                table,
                without: false,
                backends: filled.collect(),
                affinity_seconds: frontend.affinity_seconds,
                flags: frontend.flags,
                service: frontend.service,
                remembers: frontend.affinity_seconds != 0 || key.protocol == UDP,
            };
            applied.placed.insert(key, placed);
        }
        let slots = slots.into_keys().collect();
        applied.stray = Leavings {
            slots,
            members,
            rows,
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

/// The way of one frontend from old to new.
struct Moves<'a> {
    operations: &'a mut Vec<Operation>,
    old: &'a Placed,
    new: &'a mut Placed,
}

impl Moves<'_> {
    /// Brings the slots to what is wanted, as far as none gets lost that the frontend still counts.
    fn exchange(&mut self, wanted: &Wanted) {
        let count = wanted.backends.len();
        let kept: HashSet<_> = wanted.backends.iter().copied().collect();
        let present = self.old.members();
        if self.new.remembers && !self.old.remembers {
            let listed: BTreeSet<_> = kept.iter().map(|one| self.new.member(*one)).collect();
            let stay = present.intersection(&listed).copied();
            self.operations.extend(stay.map(Operation::AddMember));
        }
        // The slots that stay as they are: a backend stands twice where a kill came in between.
        let mut standing = HashSet::new();
        let stays: Vec<bool> = self
            .old
            .backends
            .iter()
            .take(count)
            .map(|backend| kept.contains(backend) && standing.insert(*backend))
            .collect();
        let mut missing = wanted.backends.iter().filter(|b| !standing.contains(*b));
        for slot in 0..count {
            if stays.get(slot) == Some(&true) {
                continue;
            }
            // As many places are free as there are backends without one.
            let Some(backend) = missing.next().copied() else {
                break;
            };
            let remembers = self.new.remembers || self.old.remembers;
            let member = self.new.member(backend);
            if remembers && !present.contains(&member) {
                self.operations.push(Operation::AddMember(member));
            }
            let key = self.new.slot(slot);
            self.operations.push(Operation::SetBackend(key, backend));
            match self.new.backends.get_mut(slot) {
                Some(place) => *place = backend,
                None => self.new.backends.push(backend),
            }
        }
        self.new.backends.truncate(count);
    }

    /// Writes a table for the new slots, if there may be one and the old one does not fit.
    fn spread(&mut self, maglev: Maglev, may_have_one: bool, last_table: &mut u32) {
        let backends = &self.new.backends;
        if !may_have_one || !maglev.takes(backends.len()) {
            self.new.without = !backends.is_empty();
            return;
        }
        let fits = |table: &Table| !table.found && table.places == maglev.size;
        if let Some(table) = self.old.table.filter(fits)
            && self.old.backends == *backends
        {
            self.new.table = Some(table);
            return;
        }
        *last_table += 1;
        let table = Table {
            number: *last_table,
            places: maglev.size,
            found: false,
        };
        let slots = maglev.table(backends);
        let rows = slots.chunks(Row::PLACES as usize).zip(table.rows());
        let written = rows.map(|(slots, key)| {
            let mut row = Box::new(Row([0; Row::PLACES as usize]));
            row.0
                .iter_mut()
                .zip(slots)
                .for_each(|(to, slot)| *to = *slot);
            Operation::SetRow(key, row)
        });
        self.operations.extend(written);
        self.new.table = Some(table);
    }

    /// Has the frontend count the new slots, and takes away what it doesn't count any more.
    fn settle(&mut self, wanted: &Wanted, fresh: bool) {
        let (before, count) = (self.old.backends.len(), self.new.backends.len());
        let frontend = self.new.frontend(count);
        if fresh || self.old.frontend(before) != frontend {
            self.operations
                .push(Operation::SetFrontend(wanted.key, frontend));
        }
        let unused = self.old.table.filter(|_| self.old.table != self.new.table);
        let rows = unused.into_iter().flat_map(Table::rows);
        self.operations.extend(rows.map(Operation::DeleteRow));
        for slot in count..before {
            let key = self.old.slot(slot);
            self.operations.push(Operation::DeleteBackend(key));
        }
        if !self.old.remembers {
            return;
        }
        let (mut gone, mut stay) = (self.old.members(), self.new.members());
        if self.new.remembers {
            gone.retain(|member| !stay.contains(member));
        } else {
            gone.append(&mut stay);
        }
        self.operations
            .extend(gone.into_iter().map(Operation::DeleteMember));
    }
}
