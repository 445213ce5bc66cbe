//! The way of one frontend from what is in the maps to what is wanted.

use std::collections::{BTreeSet, HashSet};

use causeway_ebpf_abi::{Row, SourceRange};

use super::Operation;
use super::applied::{Placed, Sources, Table};
use super::maglev::Maglev;
use super::wanted::Wanted;

/// The way of one frontend from old to new.
pub(super) struct Moves<'a> {
    pub(super) operations: &'a mut Vec<Operation>,
    pub(super) old: &'a Placed,
    pub(super) new: &'a mut Placed,
}

impl Moves<'_> {
    /// Brings the slots to what is wanted, as far as none gets lost that the frontend still counts.
    pub(super) fn exchange(&mut self, wanted: &Wanted) {
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
    pub(super) fn spread(&mut self, maglev: Maglev, may_have_one: bool, last_table: &mut u32) {
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

    /// Lets in from where packets may come from now on. Whoever may before and after may all the time.
    pub(super) fn admit(&mut self, wanted: &Wanted, last_list: &mut u32) {
        self.new.sources = wanted.sources.as_ref().map(|networks| {
            let list = self.old.sources.as_ref().map(|sources| sources.list);
            let list = list.unwrap_or_else(|| {
                *last_list += 1;
                *last_list
            });
            let networks = networks.clone();
            Sources { list, networks }
        });
        let (old, new) = (ranges(self.old), ranges(self.new));
        let added = new.difference(&old).copied();
        self.operations.extend(added.map(Operation::AddSource));
    }

    /// Has the frontend count the new slots, and takes away what it doesn't count any more.
    pub(super) fn settle(&mut self, wanted: &Wanted, fresh: bool) {
        let (before, count) = (self.old.backends.len(), self.new.backends.len());
        let frontend = self.new.frontend(count);
        if fresh || self.old.frontend(before) != frontend {
            self.operations
                .push(Operation::SetFrontend(wanted.key, frontend));
        }
        let unused = self.old.table.filter(|_| self.old.table != self.new.table);
        let rows = unused.into_iter().flat_map(Table::rows);
        self.operations.extend(rows.map(Operation::DeleteRow));
        let (old, new) = (ranges(self.old), ranges(self.new));
        let gone = old.difference(&new).copied();
        self.operations.extend(gone.map(Operation::DeleteSource));
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

fn ranges(placed: &Placed) -> BTreeSet<SourceRange> {
    placed
        .sources
        .as_ref()
        .map(Sources::ranges)
        .unwrap_or_default()
}
