//! Making room on leaves for a commit: dropping versions that nobody can ask for, and splitting.
//!
//! All of it happens under the exclusive latches of the commit's leaves, before its own record. A
//! split is a record of its own and stands whether or not the commit goes on.

use super::alloc::Blocks;
use super::plan::{self, Arrival};
use super::room::Waiter;
use super::search::MarksMet;
use super::{Tree, parent};
use crate::change::{CriticalChange, credit_of, pass};
use crate::error::Result;
use crate::work::Work;
use rd_base::counters::Counter;
use rd_base::{Lsn, PageTag};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::node::{SplitPlan, split};
use rd_format::page::PageBytes;
use rd_format::wal_record::{PageOp, RecordBuilder, RecordKind};
use rd_format::{NodeMut, NodeRef};
use rd_store::Points;
use rd_store::buffer::{PageWrite, PinnedWrite};
use rd_sys::fault::Fault;

/// What [`Tree::make_room`] did to a leaf that had too little.
pub(crate) enum Room<'s> {
    /// Everything fits now.
    Enough,
    /// The leaf was cut; this is the new right part.
    Split(PinnedWrite<'s>),
    /// The leaf was the root, which has two children now.
    RootSplit(PinnedWrite<'s>, PinnedWrite<'s>),
}

/// Drops from a leaf what nobody can ask for; see `NodeMut::prune_slots` for what cannot be told by
/// one page. Returns how many versions went.
///
/// A tombstone with nothing newer means the same as no entry, to everybody who reads at or after
/// its stamp, as long as no older version is left that it hides.
pub(crate) fn prune(page: &mut PageWrite<'_>, points: &Points) -> usize {
    // The horizon is asked for once, not once per tombstone.
    let horizon = points.horizon();
    NodeMut::new(page.unlogged()).prune(|newer, entry, oldest_left| match newer {
        Some(newer) => !points.needs(entry.stamp, newer),
        None => entry.is_tombstone() && oldest_left && entry.stamp <= horizon,
    })
}

impl<'s> Tree<'s> {
    /// Makes room on `leaf` for `arrivals`, which ascend and belong there: prunes, and if that is
    /// not enough cuts the leaf once, after which the caller is to look again.
    ///
    /// # Errors
    /// When there is no credit or no free block, or `waiter`, the commit, should wait for room
    /// ([`super::room`]); what was done until then stands.
    pub(crate) fn make_room<'a>(
        &self,
        work: &mut Work,
        leaf: &mut PinnedWrite<'s>,
        arrivals: impl Iterator<Item = Arrival<'a>> + Clone,
        waiter: Waiter,
    ) -> Result<Room<'s>> {
        let needed = plan::bytes_of(arrivals.clone());
        work.collect_points(self.store);
        let dropped = prune(leaf, &work.points);
        self.store.add(Counter::VersionsPruned, dropped as u64);
        work.note_needless_overflow(self.file, leaf);
        if NodeRef::new(leaf).free_bytes_after_compact() >= needed {
            return Ok(Room::Enough);
        }
        let node = NodeRef::new(leaf);
        let Work {
            room_waits, points, ..
        } = work;
        if let Some(park) = room_waits.park(self.store, waiter, &node, needed, points) {
            return Err(park);
        }
        let plan = plan::plan(&node, arrivals);
        let block = leaf.tag().block;
        let plan = plan.ok_or_else(|| self.broken(block, "a full leaf has no place to be cut"))?;
        self.store.count(Counter::LeafSplits);
        if plan.separator.as_bound().stamp != Lsn::MAX {
            // The versions on the right will be out of sight for who prunes where the newest is.
            work.note_chore(self.file, plan.separator.as_bound().key, Lsn::ZERO);
        }
        if block == ROOT_BLOCK {
            let (left, right) = parent::split_root(*self, work, leaf, &plan)?;
            return Ok(Room::RootSplit(left, right));
        }
        Ok(Room::Split(self.split_page(work, leaf, &plan)?))
    }

    /// Cuts `left`, a leaf or inner page but not the root, as planned. Returns the new right page.
    /// The parent is told later: the page is noted in `work`.
    ///
    /// # Errors
    /// When there is no credit or no free block; nothing has happened then.
    pub(crate) fn split_page(
        &self,
        work: &mut Work,
        left: &mut PinnedWrite<'s>,
        plan: &SplitPlan,
    ) -> Result<PinnedWrite<'s>> {
        let blocks = Blocks::find(*self, work, 1)?;
        let right_block = blocks.blocks()[0];
        // Built aside: the pages change only when nothing can fail any more.
        work.left_image.copy_from_slice(&left[..]);
        split(
            &mut work.left_image,
            &mut work.right_image,
            plan,
            right_block,
        );

        let record = &mut work.record;
        record.start(RecordKind::Split, work.now_us);
        log_halves(
            record,
            plan,
            (left.tag(), &work.left_image),
            (self.tag(right_block), &work.right_image),
        );
        blocks.log(record);
        let credit = credit_of(self.store, record)?;
        let mut right = self.fetch_new(right_block).into_write();

        let mut change = CriticalChange::begin(self.store);
        change.mark(left);
        change.mark(&right);
        blocks.mark(&change);
        change.insert(record, credit, |_| {});
        left.copy_from_slice(&work.left_image[..]);
        right.copy_from_slice(&work.right_image[..]);
        change.stamp(left);
        change.stamp(&mut right);
        blocks.apply(&change);
        change.finish();
        pass(Fault::SplitLogged);
        work.marks.met(left.tag().block);
        Ok(right)
    }
}

/// Adds both halves of a page that is cut as planned to `record`: the right one whole, of the left
/// one what to drop. That one is whole too where a leaf is cut between two versions of a key: redo's
/// page may lack the newer ones, which would hide those on the right (`apply`, A3).
fn log_halves(
    record: &mut RecordBuilder,
    plan: &SplitPlan,
    (left_tag, left): (PageTag, &PageBytes),
    (right_tag, right): (PageTag, &PageBytes),
) {
    let bound = plan.separator.as_bound();
    let parts_versions = NodeRef::new(left).is_leaf() && bound.stamp != Lsn::MAX;
    record.block(left_tag);
    if parts_versions {
        record.image(left);
    } else {
        record.op(&PageOp::SplitLeft {
            bound,
            right: right_tag.block,
        });
    }
    record.block(right_tag);
    record.image(right);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::redo_block;
    use rd_base::limits::PAGE_BYTES;
    use rd_base::{BlockNo, FileNo, StartCount};
    use rd_format::Payload;
    use rd_format::node::{Bound, LeafEntry};
    use rd_format::wal_record::RecordView;

    /// "k" was put and deleted twice, and snapshots keep all of it.
    fn running_page() -> PageBytes {
        let mut page = [0; PAGE_BYTES];
        let mut node = NodeMut::init_leaf(&mut page);
        let value = Payload::Inline(b"value");
        for (key, stamp, payload) in [
            (&b"j"[..], 15, value),
            (b"k", 60, Payload::Tombstone),
            (b"k", 50, value),
            (b"k", 40, Payload::Tombstone),
            (b"k", 30, value),
            (b"l", 7, value),
        ] {
            let entry = LeafEntry {
                key,
                stamp: Lsn::new(stamp),
                expiry_ms: None,
                payload,
            };
            node.insert_leaf(&entry).expect("there is room");
        }
        page
    }

    #[test]
    fn what_redo_has_dropped_still_hides_what_a_cut_puts_on_the_right() {
        let [left_tag, right_tag] =
            [5, 6].map(|block| PageTag::new(FileNo::new(2), BlockNo::new(block)));
        for (first_right, key, stamp) in [
            (1, &b"k"[..], Lsn::MAX),
            (2, b"k", Lsn::new(50)),
            (3, b"k", Lsn::new(40)),
            (4, b"k", Lsn::new(30)),
            (5, b"l", Lsn::MAX),
        ] {
            let separator = Bound { key, stamp }.to_owned();
            let plan = SplitPlan {
                first_right,
                separator,
            };
            let (mut left, mut right) = (running_page(), [0; PAGE_BYTES]);
            split(&mut left, &mut right, &plan, right_tag.block);
            let mut record = RecordBuilder::new();
            record.start(RecordKind::Split, 0);
            log_halves(&mut record, &plan, (left_tag, &left), (right_tag, &right));
            record.seal();
            let bytes = record.finish(Lsn::new(1 << 20), StartCount::new(1));
            let record = RecordView::parse(bytes).expect("sealed");

            let mut redone = [running_page(), [0; PAGE_BYTES]];
            NodeMut::new(&mut redone[0]).redo_make_room();
            for (page, block) in redone.iter_mut().zip(record.blocks()) {
                let block = block.expect("whole");
                redo_block(page, &block, record.end_lsn()).expect("they go together");
            }
            let newest = redone.iter().find_map(|page| {
                let node = NodeRef::new(page);
                let slot = node.versions_of(b"k").next()?;
                Some(node.leaf_entry(slot).stamp)
            });
            assert!(
                newest.is_none_or(|newest| newest == Lsn::new(60)),
                "cut before slot {first_right}: {newest:?} is seen"
            );
        }
    }
}
