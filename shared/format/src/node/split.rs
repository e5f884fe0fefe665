//! Where a full page is cut in two, and the cut.
//!
//! Between different keys the separator is the shortest prefix of the right key that is above the
//! left one, before all its versions; so a newer version of either key goes to the page where its
//! older ones are. Between versions of one key the separator names the first version on the
//! right, exactly.

use super::write::common_prefix;
use super::{Bound, InnerCell, NODE_BYTES, NodeMut, NodeRef, OwnedBound, Slot};
use crate::page::{self, PageBytes, PageKind};
use rd_base::{BlockNo, Lsn};

/// The entry for which the page is too small.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its stamp; `Lsn::MAX` for a version that will be its key's newest.
    pub stamp: Lsn,
    /// Bytes of its cell.
    pub cell_bytes: usize,
}

/// Where a page will be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPlan {
    /// The first slot that goes to the right page; may be the slot count, or 0 on a leaf, when
    /// the incoming entry will have a page for itself.
    pub first_right: usize,
    /// The left page's new high key, and the right page's bound in the parent.
    pub separator: OwnedBound,
}

/// A page is left this full, in percent, when keys arrive in ascending order; the
/// room is for later versions and late-comers.
const ASCENDING_FILL_PERCENT: usize = 90;

/// The entries of a page with the incoming one among them.
struct Entries<'a> {
    node: NodeRef<'a>,
    incoming: Option<(usize, Incoming<'a>)>,
}

impl<'a> Entries<'a> {
    fn count(&self) -> usize {
        self.node.count() + usize::from(self.incoming.is_some())
    }

    /// The page's slot behind entry `index`, or `Err` with the incoming entry.
    fn slot(&self, index: usize) -> Result<usize, Incoming<'a>> {
        match self.incoming {
            Some((at, incoming)) if at == index => Err(incoming),
            Some((at, _)) if at < index => Ok(index - 1),
            _ => Ok(index),
        }
    }

    fn key_and_stamp(&self, index: usize) -> (&'a [u8], Lsn) {
        match self.slot(index) {
            Ok(slot) => self.node.key_and_stamp(slot),
            Err(incoming) => (incoming.key, incoming.stamp),
        }
    }

    /// Bytes of cell and slot.
    fn bytes(&self, index: usize) -> usize {
        let cell = match self.slot(index) {
            Ok(slot) => self.node.cell_bytes(slot),
            Err(incoming) => incoming.cell_bytes,
        };
        cell + Slot::BYTES
    }

    /// The bound between entry `cut - 1` and entry `cut`.
    fn separator(&self, cut: usize) -> Bound<'a> {
        let (left, _) = self.key_and_stamp(cut - 1);
        let (right, stamp) = self.key_and_stamp(cut);
        if !self.node.is_leaf() || left == right {
            return Bound { key: right, stamp };
        }
        let length = common_prefix(left, right) + 1;
        Bound::before_key(right.get(..length).unwrap_or(right))
    }

    /// Whether the page may be cut before entry `cut`, by kind: an inner page's right part begins
    /// with a child that is there already.
    fn may_cut(&self, cut: usize) -> bool {
        self.node.is_leaf() || self.slot(cut).is_ok()
    }
}

/// Where to cut `node`, so that `incoming` (if any) fits the part where it belongs.
///
/// The parts are of equal bytes, except that a page at the right end of its level, to which keys
/// come in ascending order, keeps most of them. A cut between two versions of one key is avoided
/// where another is near. `None` if there are fewer than two entries to part.
pub fn split_point(node: &NodeRef<'_>, incoming: Option<Incoming<'_>>) -> Option<SplitPlan> {
    let placed =
        incoming.map(|incoming| (node.lower_bound(incoming.key, incoming.stamp), incoming));
    let ascending = placed.is_some_and(|(slot, _)| slot == node.count());
    let ascending = ascending && node.right_link().is_none();
    let entries = Entries {
        node: *node,
        incoming: placed,
    };
    let count = entries.count();
    let total: usize = (0..count).map(|index| entries.bytes(index)).sum();
    let target = if ascending {
        NODE_BYTES * ASCENDING_FILL_PERCENT / 100
    } else {
        total.div_ceil(2)
    };
    let old_high_key = node.high_key_bytes();

    let mut best: Option<(usize, usize)> = None;
    let mut left = 0;
    for cut in 1..count {
        left += entries.bytes(cut - 1);
        if !entries.may_cut(cut) {
            continue;
        }
        let separator = entries.separator(cut);
        // The right part of an inner page drops its first key.
        let dropped = if node.is_leaf() {
            0
        } else {
            (entries.bytes(cut) - Slot::BYTES).saturating_sub(InnerCell::BYTES)
        };
        let right = total - left - dropped + old_high_key;
        if left + separator.cell_bytes() > NODE_BYTES || right > NODE_BYTES {
            continue;
        }
        let parts_versions =
            node.is_leaf() && entries.key_and_stamp(cut - 1).0 == entries.key_and_stamp(cut).0;
        let cost = left.abs_diff(target) + if parts_versions { NODE_BYTES / 4 } else { 0 };
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, cut));
        }
    }
    let (_, cut) = best?;
    let first_right = (0..cut)
        .filter(|index| entries.slot(*index).is_ok())
        .count();
    Some(SplitPlan {
        first_right,
        separator: entries.separator(cut).to_owned(),
    })
}

/// Cuts `left` as planned: fills `right`, which will lie at `right_block`, and shortens `left`,
/// which then carries the mark that its parent does not know the right page yet.
///
/// If `left` had that mark already, for the page that is now right of `right`, then `right` gets
/// it too. The page LSN of `right` is zero until the record is known.
pub fn split(left: &mut PageBytes, right: &mut PageBytes, plan: &SplitPlan, right_block: BlockNo) {
    fill_right(NodeRef::new(left), right, plan.first_right);
    let mut left = NodeMut::new(left);
    left.truncate(plan.first_right);
    left.finish_left(plan.separator.as_bound(), right_block)
        .expect("planned to fit");
    left.compact();
}

fn fill_right(left: NodeRef<'_>, right: &mut PageBytes, first_right: usize) {
    let kind = if left.is_leaf() {
        PageKind::Leaf
    } else {
        PageKind::Inner
    };
    let mut right = NodeMut::init(right, kind, left.level());
    let mut slot = first_right;
    if !left.is_leaf() {
        right.append_first_child(left.inner_entry(slot).1);
        slot += 1;
    }
    for slot in slot..left.count() {
        right.append_from(left, slot);
    }
    right.rebuild_heads();
    right.set_high_key(left.high_key()).expect("planned to fit");
    right.set_right_link(left.right_link());
    right.change_flags(left.flags() & page::flags::SPLIT_INCOMPLETE, 0);
}

impl NodeMut<'_> {
    /// Makes this page the left half of a split at `bound`: drops what is not below, sets high
    /// key and right link, and the mark. This is what redo of a split does to the left page; on
    /// `NoRoom` make room and call again.
    pub fn split_left(&mut self, bound: Bound<'_>, right: BlockNo) -> Result<(), super::NoRoom> {
        let slot = self.as_ref().lower_bound(bound.key, bound.stamp);
        self.truncate(slot);
        self.finish_left(bound, right)
    }

    fn finish_left(&mut self, bound: Bound<'_>, right: BlockNo) -> Result<(), super::NoRoom> {
        self.set_high_key(Some(bound))?;
        self.set_right_link(Some(right));
        self.change_flags(page::flags::SPLIT_INCOMPLETE, 0);
        Ok(())
    }
}
