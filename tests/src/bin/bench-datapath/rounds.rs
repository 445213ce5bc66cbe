//! Everybody in turns.

use std::collections::HashMap;

use crate::contender::{Contender, Plane};
use crate::interrupt::Interrupt;
use crate::load::Slice;
use crate::rows::Row;

/// Rounds that warm caches and don't count.
const WARM: usize = 1;

/// What a ratio is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Operations a second.
    Rate,
    /// Operations a second of processor time: what else the machine does hardly matters.
    Work,
}

impl Measure {
    fn of(self, slice: Slice) -> f64 {
        match self {
            Self::Rate => slice.per_second,
            Self::Work => slice.per_processor_second,
        }
    }
}

/// All slices: of each plane and row one in each round.
pub(crate) struct Rounds {
    planes: Vec<Plane>,
    rows: Vec<Row>,
    slices: HashMap<(usize, usize), Vec<Slice>>,
}

impl Rounds {
    /// Measures; the bare cluster is the first contender. A row's slices of all planes follow one
    /// another, so that what the machine does meanwhile meets all of them.
    pub(crate) fn run(
        contenders: &[Contender],
        rows: Vec<Row>,
        rounds: usize,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for round in 0..rounds + WARM {
            for (row_index, row) in rows.iter().enumerate() {
                for turn in 0..contenders.len() {
                    interrupt.check()?;
                    let index = (turn + round) % contenders.len();
                    if !contenders[index].plane.has(row.road) {
                        continue;
                    }
                    let slice = contenders[index].slice(*row)?;
                    if round >= WARM {
                        slices.entry((index, row_index)).or_default().push(slice);
                    }
                }
            }
        }
        let planes = contenders.iter().map(|one| one.plane.clone()).collect();
        Ok(Self {
            planes,
            rows,
            slices,
        })
    }

    pub(crate) fn planes(&self) -> &[Plane] {
        &self.planes
    }

    /// The rows of a plane.
    pub(crate) fn rows(&self, plane: &Plane) -> impl Iterator<Item = Row> {
        let rows = self.rows.iter().copied();
        rows.filter(|row| plane.has(row.road))
    }

    fn slices(&self, plane: &Plane, row: Row) -> &[Slice] {
        let plane = self.planes.iter().position(|one| one == plane);
        let row = self.rows.iter().position(|one| *one == row);
        let found = plane.zip(row).and_then(|key| self.slices.get(&key));
        found.map_or(&[], Vec::as_slice)
    }

    /// Operations a second.
    pub(crate) fn rates(&self, plane: &Plane, row: Row) -> Spread {
        let slices = self.slices(plane, row).iter();
        Spread::of(slices.map(|slice| slice.per_second).collect())
    }

    /// What the plane did, of what the other one did in the same row of the same round.
    pub(crate) fn ratios(&self, plane: &Plane, of: &Plane, row: Row, measure: Measure) -> Spread {
        let pairs = self.slices(plane, row).iter().zip(self.slices(of, row));
        Spread::of(
            pairs
                .map(|(one, other)| measure.of(*one) / measure.of(*other))
                .collect(),
        )
    }

    /// What the plane did in `row`, of what it did in `other`: each of what the bare cluster did
    /// there in the same round.
    pub(crate) fn ratios_of_rows(
        &self,
        plane: &Plane,
        row: Row,
        other: Row,
        measure: Measure,
    ) -> Spread {
        let relative = |row| {
            let pairs = self
                .slices(plane, row)
                .iter()
                .zip(self.slices(&Plane::Bare, row));
            pairs.map(move |(one, bare)| measure.of(*one) / measure.of(*bare))
        };
        let pairs = relative(row).zip(relative(other));
        Spread::of(pairs.map(|(one, other)| one / other).collect())
    }
}

/// Figures of one kind, sorted.
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    /// The figure below which so many percent are; NaN when there are none.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(50)
    }
}
