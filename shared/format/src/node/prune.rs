//! Dropping versions that nobody can ask for any more. Which those are is the caller's to say.

use super::{LeafEntry, NodeMut};
use rd_base::Lsn;
use std::ops::Range;

impl NodeMut<'_> {
    /// Drops the versions that `droppable` names, on the whole leaf. Returns how many went.
    ///
    /// See [`NodeMut::prune_slots`].
    pub fn prune(&mut self, droppable: impl FnMut(Option<Lsn>, &LeafEntry, bool) -> bool) -> usize {
        let all = 0..self.as_ref().count();
        self.prune_slots(all, droppable)
    }

    /// Drops those versions in `slots` of a leaf that `droppable` names. Returns how many went.
    ///
    /// `droppable` is told the stamp of the next newer version of the same key *on this page* (the
    /// newest on a page may have newer ones on the left sibling: that is not known here, and `None`
    /// is then the careful answer), the version, and whether it is its key's oldest one left (which
    /// it is not if the high key has the same key: older ones may be on the right sibling). It is
    /// asked from right to left, so what it dropped before does not count as left. Versions that
    /// own overflow pages are never dropped, and it is not asked about them: they leave by a logged
    /// action that frees their blocks.
    pub fn prune_slots(
        &mut self,
        slots: Range<usize>,
        mut droppable: impl FnMut(Option<Lsn>, &LeafEntry, bool) -> bool,
    ) -> usize {
        debug_assert!(self.as_ref().is_leaf());
        let mut dropped = 0;
        for slot in slots.rev() {
            let node = self.as_ref();
            let entry = node.leaf_entry(slot);
            if entry.owns_overflow() {
                continue;
            }
            let newer = match slot.checked_sub(1).map(|slot| node.key_and_stamp(slot)) {
                Some((key, stamp)) if key == entry.key => Some(stamp),
                _ => None,
            };
            let older_key = if slot + 1 < node.count() {
                Some(node.key_and_stamp(slot + 1).0)
            } else {
                node.high_key().map(|bound| bound.key)
            };
            let oldest_left = older_key != Some(entry.key);
            if droppable(newer, &entry, oldest_left) {
                self.remove(slot);
                dropped += 1;
            }
        }
        dropped
    }

    /// What redo drops when a page has no room: superseded versions, and tombstones that are their
    /// key's oldest version left. Nobody holds a snapshot during redo. Returns how many went.
    pub fn redo_make_room(&mut self) -> usize {
        self.prune(|newer, entry, oldest_left| {
            newer.is_some() || (entry.is_tombstone() && oldest_left)
        })
    }
}
