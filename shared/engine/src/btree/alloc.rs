//! Free blocks: found in the bitmap pages, taken and given back by the record that uses them.
//!
//! Invariants:
//! - A block is taken under its bitmap page's exclusive latch, which is held until the record that
//!   sets its bit is inserted; so bits and records have one order.
//! - Bitmap pages are latched after everything else, and upward in the file (T2).
//! - Only blocks that the file really has, synced, are handed out: running out of disk is found
//!   here, before anything has happened.
//! - The bitmap page of a further region is made by a record of its own, which links it to the one
//!   before; the link says that it is there.

use super::Tree;
use crate::change::{CriticalChange, credit_of};
use crate::error::{EngineError, ParkReason, Result};
use crate::work::Work;
use rd_base::counters::Counter;
use rd_base::{BlockNo, Lsn};
use rd_format::bitmap::{self, BITMAP_BITS};
use rd_format::page;
use rd_format::wal_record::{PageOp, RecordBuilder, RecordKind};
use rd_store::buffer::PinnedWrite;
use rd_store::files::Growth;

/// Blocks that are about to change hands, with their bitmap pages, latched.
pub(crate) struct Blocks<'s> {
    tree: Tree<'s>,
    /// Upward in the file, each with the range of `blocks` that it speaks of.
    bitmaps: Vec<(PinnedWrite<'s>, std::ops::Range<usize>)>,
    blocks: Vec<BlockNo>,
    /// The hint that the search for them began with.
    hint: u32,
    /// A free block before the last of them that rests: the next search is to look at it again.
    passed: Option<BlockNo>,
    /// Whether they are being taken or given back.
    taken: bool,
}

impl<'s> Blocks<'s> {
    /// None.
    pub(crate) fn none(tree: Tree<'s>) -> Self {
        Blocks {
            tree,
            bitmaps: Vec::new(),
            blocks: Vec::new(),
            hint: 0,
            passed: None,
            taken: true,
        }
    }

    /// Finds `count` free blocks, to be taken.
    ///
    /// # Errors
    /// When the file has not so many: it was asked to grow, and nothing is held.
    pub(crate) fn find(tree: Tree<'s>, work: &mut Work, count: usize) -> Result<Blocks<'s>> {
        let hint = tree.store.shared.files.hint(tree.file);
        let mut from = hint;
        loop {
            match Self::find_from(tree, count, from)? {
                Found::All(found) => return Ok(Blocks { hint, ..found }),
                Found::NoBitmap(last) => new_region(tree, last, &mut work.record)?,
                Found::TooFew if from > 0 => from = 0,
                Found::TooFew => return Err(grow(tree, work, count)),
            }
        }
    }

    fn find_from(tree: Tree<'s>, count: usize, from: u32) -> Result<Found<'s>> {
        let end = tree.store.shared.files.blocks(tree.file);
        let mut found = Self::none(tree);
        found.blocks.reserve(count);
        let (mut at, mut bit) = bitmap::covering(BlockNo::new(from));
        loop {
            let page = tree.fetch(at)?.into_write();
            let region_start = at.get() / BITMAP_BITS * BITMAP_BITS;
            let bits_end = end.saturating_sub(region_start).min(BITMAP_BITS);
            let first = found.blocks.len();
            while found.blocks.len() < count
                && let Some(free) = bitmap::find_clear(&page, bit, bits_end)
            {
                bit = free + 1;
                let block = BlockNo::new(region_start + free);
                if tree.rests(block) {
                    found.passed.get_or_insert(block);
                } else {
                    found.blocks.push(block);
                }
            }
            let next = page::right_link(&page);
            if found.blocks.len() > first {
                found.bitmaps.push((page, first..found.blocks.len()));
            }
            if found.blocks.len() == count {
                return Ok(Found::All(found));
            }
            match next {
                // Bitmap pages are latched upward; one behind could be held already.
                Some(next) if next != behind(at) => {
                    let what = format!(
                        "its right link leads to block {next}, not to {}",
                        behind(at)
                    );
                    return Err(tree.broken(at, what));
                }
                Some(next) => (at, bit) = (next, 0),
                // One block behind the bitmap page must be there to be worth it.
                None if end > region_start + BITMAP_BITS + 1 => return Ok(Found::NoBitmap(at)),
                None => return Ok(Found::TooFew),
            }
        }
    }

    /// Latches the bitmap pages of `blocks`, which are to be given back.
    ///
    /// # Errors
    /// When a bitmap page cannot be read.
    pub(crate) fn to_free(tree: Tree<'s>, mut blocks: Vec<BlockNo>) -> Result<Blocks<'s>> {
        blocks.sort_unstable();
        let mut freed = Self::none(tree);
        freed.taken = false;
        let mut start = 0;
        while start < blocks.len() {
            let (at, _) = bitmap::covering(blocks[start]);
            let same = blocks[start..]
                .iter()
                .take_while(|block| bitmap::covering(**block).0 == at);
            let end = start + same.count();
            freed
                .bitmaps
                .push((tree.fetch(at)?.into_write(), start..end));
            start = end;
        }
        freed.blocks = blocks;
        Ok(freed)
    }

    /// The blocks.
    pub(crate) fn blocks(&self) -> &[BlockNo] {
        &self.blocks
    }

    /// How many bitmap pages speak of them.
    pub(crate) fn bitmap_pages(&self) -> usize {
        self.bitmaps.len()
    }

    /// Whether every block to be given back is in use.
    pub(crate) fn all_in_use(&self) -> bool {
        self.bitmaps.iter().all(|(page, range)| {
            let bits = self.blocks[range.clone()]
                .iter()
                .map(|block| bitmap::covering(*block).1);
            bits.into_iter().all(|bit| bitmap::is_set(page, bit))
        })
    }

    /// Adds the bitmap pages to `record`.
    pub(crate) fn log(&self, record: &mut RecordBuilder) {
        for (page, range) in &self.bitmaps {
            record.block(page.tag());
            for block in &self.blocks[range.clone()] {
                let (_, bit) = bitmap::covering(*block);
                record.op(&if self.taken {
                    PageOp::SetBit(bit)
                } else {
                    PageOp::ClearBit(bit)
                });
            }
        }
    }

    /// Marks the bitmap pages as about to change.
    pub(crate) fn mark(&self, change: &CriticalChange<'_>) {
        for (page, _) in &self.bitmaps {
            change.mark(page);
        }
    }

    /// Changes the bits and lets go, once the record is inserted.
    pub(crate) fn apply(self, change: &CriticalChange<'_>) {
        let Blocks {
            tree,
            mut bitmaps,
            blocks,
            hint,
            passed,
            taken,
        } = self;
        for (page, range) in &mut bitmaps {
            for block in &blocks[range.clone()] {
                let (_, bit) = bitmap::covering(*block);
                let changed = if taken {
                    bitmap::set(page, bit)
                } else {
                    bitmap::clear(page, bit)
                };
                assert!(
                    changed,
                    "block {block} of file {} changes hands once",
                    tree.file
                );
            }
            change.stamp(page);
        }
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return;
        };
        // Others may take and free blocks of further regions under other latches.
        let files = &tree.store.shared.files;
        if taken {
            let next = passed.map_or(hint_behind(*last), BlockNo::get);
            files.raise_hint(tree.file, hint, next);
            drop(bitmaps);
            tree.store.add(Counter::PagesAllocated, blocks.len() as u64);
            tree.store.note_block_used(tree.file, last.get());
        } else {
            files.lower_hint(tree.file, first.get());
            tree.store.add(Counter::PagesFreed, blocks.len() as u64);
        }
    }
}

/// Where to look next once `last` is taken. It stays in the region of `last`, as the next one may
/// have no bitmap page yet; the search goes on from one to the other.
fn hint_behind(last: BlockNo) -> u32 {
    match last.get() + 1 {
        behind if behind % BITMAP_BITS == 0 => last.get(),
        behind => behind,
    }
}

/// The bitmap page of the region behind that of the bitmap page `at`.
fn behind(at: BlockNo) -> BlockNo {
    bitmap::bitmap_of_region(at.get() / BITMAP_BITS + 1)
}

enum Found<'s> {
    All(Blocks<'s>),
    /// The file goes on behind the region of this bitmap page, which is the last.
    NoBitmap(BlockNo),
    TooFew,
}

/// Makes the bitmap page of the region behind that of `last`, unless somebody was faster.
fn new_region(tree: Tree<'_>, last: BlockNo, record: &mut RecordBuilder) -> Result<()> {
    let mut last_page = tree.fetch(last)?.into_write();
    if page::right_link(&last_page).is_some() {
        return Ok(());
    }
    let block = behind(last);
    let mut image = [0; rd_base::limits::PAGE_BYTES];
    bitmap::init(&mut image, block);
    let link = PageOp::SetRightLink { right: Some(block) };
    record.start(RecordKind::NewBitmap, tree.store.clock.wall_us());
    record.block(tree.tag(block));
    record.image(&image);
    record.block(tree.tag(last));
    record.op(&link);
    let credit = credit_of(tree.store, record)?;
    let mut page = tree.fetch_new(block).into_write();
    let mut change = CriticalChange::begin(tree.store);
    change.mark(&page);
    change.mark(&last_page);
    change.insert(record, credit, |_: Lsn| {});
    **page = image;
    page::header_mut(&mut last_page).right_link.set(block.get());
    change.stamp(&mut page);
    change.stamp(&mut last_page);
    change.finish();
    Ok(())
}

impl Tree<'_> {
    fn rests(&self, block: BlockNo) -> bool {
        let shared = &self.store.shared;
        shared.namespaces.rests(&shared.procs, self.tag(block))
    }
}

/// Asks for `count` more blocks; what the caller is to return. If they were asked for before and
/// the file could not grow, that is the answer, once; the next one asks again.
fn grow(tree: Tree<'_>, work: &mut Work, count: usize) -> EngineError {
    let files = &tree.store.shared.files;
    let park = EngineError::Park(ParkReason::FileGrowth(tree.file));
    if let Some(ticket) = work.take_growth(tree.file) {
        match files.growth(&ticket) {
            Growth::Failed(error) => return error.into(),
            Growth::Pending => {
                work.keep_growth(tree.file, ticket);
                return park;
            }
            Growth::Ready => {}
        }
    }
    let wanted = files.blocks(tree.file).saturating_add(count as u32 + 1);
    let ticket = tree.store.request_growth(tree.file, wanted);
    work.keep_growth(tree.file, ticket);
    park
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_never_points_at_a_region_without_bitmap() {
        for (last, hint) in [
            (5, 6),
            (BITMAP_BITS - 2, BITMAP_BITS - 1),
            (BITMAP_BITS - 1, BITMAP_BITS - 1),
            (BITMAP_BITS + 1, BITMAP_BITS + 2),
            (2 * BITMAP_BITS - 1, 2 * BITMAP_BITS - 1),
        ] {
            assert_eq!(hint_behind(BlockNo::new(last)), hint);
        }
    }
}
