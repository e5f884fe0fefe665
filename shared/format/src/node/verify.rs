//! The full check of a leaf or inner page that was read from the disk.

use super::read::{decode_inner_cell, decode_leaf_cell, head_of, slot_head, slot_offset};
use super::{
    Bound, NodeError, NodeRef, Payload, SLOTS_MAX, SLOTS_START, STAMPED, Slot, cell_flags,
    entry_order,
};
use crate::page::{self, PageKind};
use rd_base::Lsn;
use rd_base::limits::{INLINE_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES, TREE_LEVELS_MAX};
use std::cmp::Ordering;

/// Which bytes of the page belong to a cell already.
struct Taken([u64; PAGE_BYTES / 64]);

impl Taken {
    /// Takes a range inside the page; false if part of it is taken.
    fn take(&mut self, offset: usize, bytes: usize) -> bool {
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            if self.0[at / 64] & mask != 0 {
                return false;
            }
            self.0[at / 64] |= mask;
            at += bits;
        }
        true
    }
}

impl<'a> NodeRef<'a> {
    /// Checks everything that the other functions rely on: N1 to N5. Takes a few microseconds.
    pub fn verify(&self) -> Result<(), NodeError> {
        self.verify_header()?;
        let upper = usize::from(page::header(self.page).upper.get());
        let mut taken = Taken([0; PAGE_BYTES / 64]);
        let mut cells = 0;
        for (slot, bytes) in self.slots().iter().enumerate() {
            let offset = slot_offset(bytes);
            let cell_bytes = (offset >= upper)
                .then(|| self.cell_bytes_checked(offset))
                .flatten()
                .ok_or(NodeError::Cell { slot, offset })?;
            if !taken.take(offset, cell_bytes) {
                return Err(NodeError::Overlap { offset });
            }
            cells += cell_bytes;
        }
        cells += self.verify_high_key(upper, &mut taken)?;
        let garbage = usize::from(page::header(self.page).garbage.get());
        let area = PAGE_BYTES - upper;
        if cells + garbage != area {
            return Err(NodeError::Space {
                cells,
                garbage,
                area,
            });
        }
        self.verify_order()
    }

    fn verify_header(&self) -> Result<(), NodeError> {
        let header = page::header(self.page);
        let level = header.level;
        match PageKind::from_number(header.kind) {
            Some(PageKind::Leaf) if level == 0 => {}
            Some(PageKind::Inner) if (1..=TREE_LEVELS_MAX).contains(&level) => {}
            _ => {
                let kind = if self.is_leaf() { "leaf" } else { "inner" };
                return Err(NodeError::Level { kind, level });
            }
        }
        let count = usize::from(header.slot_count.get());
        let (lower, upper) = (
            usize::from(header.lower.get()),
            usize::from(header.upper.get()),
        );
        let agree = count <= SLOTS_MAX
            && lower == SLOTS_START + count * Slot::BYTES
            && lower <= upper
            && upper <= PAGE_BYTES;
        if !agree {
            return Err(NodeError::SlotArea {
                count,
                lower,
                upper,
            });
        }
        Ok(())
    }

    /// Length of the cell at `offset` if its fields make sense.
    fn cell_bytes_checked(&self, offset: usize) -> Option<usize> {
        if self.is_leaf() {
            let (entry, bytes) = decode_leaf_cell(self.page, offset)?;
            let flags = *self.page.get(offset + 2)?;
            let fits = match entry.payload {
                Payload::Tombstone => true,
                Payload::Inline(value) => entry.key.len() + value.len() <= INLINE_BYTES_MAX,
                Payload::Overflow(stub) => stub.is_plausible(),
            };
            let sound = flags & !cell_flags::ALL == 0
                && entry.key.len() <= KEY_BYTES_MAX
                && fits
                && entry.stamp != Lsn::MAX;
            sound.then_some(bytes)
        } else {
            self.inner_cell_checked(offset).map(|(_, bytes)| bytes)
        }
    }

    /// The bound and the length of the inner or high-key cell at `offset` if its fields make sense: the
    /// length is the one that the bound is written with, as whoever moves the cell relies on.
    fn inner_cell_checked(&self, offset: usize) -> Option<(Bound<'a>, usize)> {
        let (bound, _, bytes) = decode_inner_cell(self.page, offset)?;
        let flags = *self.page.get(offset + 2)?;
        let sound = flags & !STAMPED == 0
            && bound.key.len() <= KEY_BYTES_MAX
            && bytes == bound.cell_bytes();
        sound.then_some((bound, bytes))
    }

    fn verify_high_key(&self, upper: usize, taken: &mut Taken) -> Result<usize, NodeError> {
        let offset = usize::from(page::header(self.page).high_key.get());
        if offset == 0 {
            return Ok(0);
        }
        let cell = self.inner_cell_checked(offset);
        match cell.filter(|_| offset >= upper) {
            Some((_, bytes)) if taken.take(offset, bytes) => Ok(bytes),
            Some(_) => Err(NodeError::Overlap { offset }),
            None => Err(NodeError::HighKey { offset }),
        }
    }

    fn verify_order(&self) -> Result<(), NodeError> {
        let first = self.first_keyed();
        if !self.is_leaf() {
            let found = self.count() > 0 && self.key_and_stamp(0) == (&[], Lsn::MAX);
            if !found {
                return Err(NodeError::FirstChild);
            }
        }
        let skip = self.head_skip();
        let mut before: Option<(&[u8], Lsn)> = None;
        for slot in first..self.count() {
            let (key, stamp) = self.key_and_stamp(slot);
            if let Some((key_before, stamp_before)) = before {
                if entry_order(key_before, stamp_before, key, stamp) != Ordering::Less {
                    return Err(NodeError::Order { slot });
                }
                if key.get(..skip) != key_before.get(..skip) {
                    return Err(NodeError::Head { slot });
                }
            }
            if key.len() < skip || slot_head(&self.slots()[slot]) != head_of(key, skip) {
                return Err(NodeError::Head { slot });
            }
            if !self.covers(key, stamp) {
                return Err(NodeError::AboveHighKey { slot });
            }
            before = Some((key, stamp));
        }
        Ok(())
    }
}
