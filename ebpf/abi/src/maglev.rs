//! Maglev tables, in rows: a whole one would be a large value of a map.

/// A row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RowKey {
    /// [`crate::Frontend::table`].
    pub table: u32,
    /// Places `row * Row::PLACES` and following.
    pub row: u32,
}

/// The slots that its places name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Row(pub [u16; Row::PLACES as usize]);

impl Row {
    /// Places in a row. Those behind the table's last one are zero.
    pub const PLACES: u32 = 1_024;

    /// Where a place is: in which row, and where there.
    #[inline(always)]
    #[must_use]
    pub const fn of(place: u32) -> (u32, u32) {
        (place / Self::PLACES, place % Self::PLACES)
    }

    /// Rows of all tables together.
    pub const ALL: u32 = 65_536;

    /// The slot that one of its places names.
    #[inline(always)]
    #[must_use]
    pub fn slot(&self, place: u32) -> Option<u32> {
        self.0.get(place as usize).map(|slot| u32::from(*slot))
    }
}
