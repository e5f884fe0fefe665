//! Walking a tree's leaves from the greatest key down, at a snapshot, a chunk at a time.
//!
//! Leaves know their right siblings only, so each leaf is found by a descent of its own: to the one
//! on which lies what comes just before the place ([`Tree::leaf_before`]), which also tells where
//! that leaf begins, and so where the next place is. As with [`super::scan`] nothing is held between
//! chunks but the snapshot and the place.
//!
//! The versions of a key may lie on several leaves, the newest leftmost. The walk comes to the
//! rightmost of these first, and decides on the key there:
//! - If a version is visible there, it is the one, unless it is the first on its leaf and the key's
//!   versions may begin further left: then the key is read by itself.
//! - If none is, those to the left are newer still, and the key is not there.

use super::Tree;
use super::scan::{At, Chunk, LEAVES_PER_CHUNK_MAX, Visit, Walked};
use super::search::slots_before;
use crate::error::Result;
use crate::overflow;
use crate::txn::visible::{Seen, seen, visible};
use rd_base::Lsn;
use rd_format::node::LeafEntry;
use rd_format::{NodeRef, OverflowStub, OwnedBound};

/// Where a walk is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What is left is before this; `None`: everything is.
    pub(crate) before: Option<OwnedBound>,
    /// No key below this one is visited.
    pub(crate) start: Vec<u8>,
    /// Nothing is left.
    pub(crate) done: bool,
}

impl Place {
    /// The beginning of a walk from before `end` (`None`: from the last key) down to `start`.
    pub(crate) fn new(start: &[u8], end: Option<&[u8]>) -> Place {
        Place {
            before: end.map(|key| OwnedBound {
                key: key.to_vec(),
                stamp: Lsn::MAX,
            }),
            start: start.to_vec(),
            done: end.is_some_and(|end| end <= start),
        }
    }

    /// What is left is before the versions of `key` that are not newer than `stamp`: `Lsn::MAX` for
    /// before all of them, zero for behind all of them.
    fn move_to(&mut self, key: &[u8], stamp: Lsn) {
        let before = self.before.get_or_insert_with(|| OwnedBound {
            key: Vec::new(),
            stamp,
        });
        before.key.clear();
        before.key.extend_from_slice(key);
        before.stamp = stamp;
    }

    /// The key at which it stands.
    fn key(&self) -> &[u8] {
        self.before.as_ref().map_or(&[], |before| &before.key)
    }

    /// The key at which it stands was shown.
    fn pass_key(&mut self) {
        if let Some(before) = &mut self.before {
            before.stamp = Lsn::MAX;
        }
    }
}

/// Why a page was left.
enum Left {
    /// Nothing of it is left: the walk goes on before the page.
    AtLow,
    /// The large value of the key at which the place stands comes next.
    AtLarge(OverflowStub),
    /// The key at which the place stands is to be read by itself.
    AtSpread,
    /// The chunk is full, or nothing is left.
    Stopped,
}

/// Visits the next entries, in descending order. `place` moves on; on an error it stands before the
/// entry that could not be read.
///
/// # Errors
/// When a page cannot be read.
pub(crate) fn walk(
    tree: Tree<'_>,
    place: &mut Place,
    at: At,
    chunk: Chunk,
    visit: &mut Visit<'_>,
) -> Result<Walked> {
    let mut walked = Walked::default();
    let mut low = None;
    let mut leaves = 0;
    while !place.done && !walked.fills(chunk) && leaves < LEAVES_PER_CHUNK_MAX {
        let before = place.before.as_ref().map(OwnedBound::as_bound);
        let leaf = tree.leaf_before(before, &mut low)?;
        leaves += 1;
        let left = walk_leaf(
            &NodeRef::new(&leaf),
            low.as_ref(),
            place,
            at,
            chunk,
            &mut walked,
            visit,
        );
        drop(leaf);
        match left {
            Left::Stopped => {}
            Left::AtLow => match low.take() {
                Some(low) if low.as_bound().is_above(&place.start, Lsn::MAX) => {
                    place.before = Some(low);
                }
                _ => place.done = true,
            },
            Left::AtLarge(stub) => {
                show_large(tree, place.key(), &stub, &mut walked, visit)?;
                place.pass_key();
            }
            Left::AtSpread => {
                show_spread(tree, place.key(), at, &mut walked, visit)?;
                place.pass_key();
            }
        }
    }
    Ok(walked)
}

fn walk_leaf(
    node: &NodeRef<'_>,
    low: Option<&OwnedBound>,
    place: &mut Place,
    at: At,
    chunk: Chunk,
    walked: &mut Walked,
    visit: &mut Visit<'_>,
) -> Left {
    let mut slot = slots_before(node, place.before.as_ref().map(OwnedBound::as_bound));
    let mut decided: Option<&[u8]> = None;
    let left = loop {
        if slot == 0 {
            // Of the key that the page begins with there may be more to the left, all of it newer.
            let is_decided = decided.is_some() && decided == low.map(|low| &low.key[..]);
            break if is_decided {
                Left::Stopped
            } else {
                Left::AtLow
            };
        }
        let key = node.key_and_stamp(slot - 1).0;
        if key < &place.start[..] {
            place.done = true;
            break Left::Stopped;
        }
        if walked.fills(chunk) {
            break Left::Stopped;
        }
        let newest = newest_visible(node, &mut slot, key, at.lsn);
        decided = Some(key);
        let Some((entry, index)) = newest else {
            continue;
        };
        let goes_on_left = low.is_some_and(|low| low.key == key && low.stamp < at.lsn);
        if index == 0 && goes_on_left {
            break Left::AtSpread;
        }
        walked.told = walked.told.max(entry.stamp);
        match (seen(&entry, || at.now_ms), &mut *visit) {
            (Seen::Large(stub, _), Visit::Values(_)) => break Left::AtLarge(stub),
            (Seen::Inline(value, _), Visit::Values(visit)) => {
                visit(key, value);
                walked.add(key, value.len());
            }
            (Seen::Inline(_, meta) | Seen::Large(_, meta), Visit::Keys(visit)) => {
                visit(key, &meta);
                walked.add(key, 0);
            }
            (Seen::Deleted(_) | Seen::Nothing | Seen::Beyond, _) => {}
        }
    };
    match (decided, &left) {
        (Some(key), Left::Stopped) => place.move_to(key, Lsn::MAX),
        (Some(key), Left::AtLarge(_) | Left::AtSpread) => place.move_to(key, Lsn::ZERO),
        _ => {}
    }
    left
}

/// The newest version of `key` on the page that a snapshot at `at` sees, and its slot. The versions
/// of the key end before `slot`, which becomes their first.
fn newest_visible<'n>(
    node: &NodeRef<'n>,
    slot: &mut usize,
    key: &[u8],
    at: Lsn,
) -> Option<(LeafEntry<'n>, usize)> {
    let mut newest = None;
    while let Some(index) = slot.checked_sub(1) {
        let (here, stamp) = node.key_and_stamp(index);
        if here != key {
            break;
        }
        if stamp <= at {
            newest = Some(index);
        }
        *slot = index;
    }
    newest.map(|index| (node.leaf_entry(index), index))
}

/// Shows the large value of `key`.
fn show_large(
    tree: Tree<'_>,
    key: &[u8],
    stub: &OverflowStub,
    walked: &mut Walked,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut value = Vec::new();
    overflow::read(tree, stub, &mut value)?;
    if let Visit::Values(visit) = visit {
        visit(key, &value);
    }
    walked.add(key, value.len());
    Ok(())
}

/// Shows what the snapshot sees of `key`, whose versions may lie on several leaves.
fn show_spread(
    tree: Tree<'_>,
    key: &[u8],
    at: At,
    walked: &mut Walked,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut stamp = at.lsn;
    loop {
        let leaf = tree.leaf_for_read(key, stamp)?;
        let node = NodeRef::new(&leaf);
        match (visible(&node, key, stamp, || at.now_ms), &mut *visit) {
            (Seen::Beyond, _) => {
                stamp = node.high_key().map_or(Lsn::ZERO, |high| high.stamp);
                continue;
            }
            (Seen::Inline(value, meta), Visit::Values(visit)) => {
                walked.told = walked.told.max(meta.stamp);
                visit(key, value);
                walked.add(key, value.len());
            }
            (Seen::Large(stub, meta), Visit::Values(_)) => {
                walked.told = walked.told.max(meta.stamp);
                drop(leaf);
                return show_large(tree, key, &stub, walked, visit);
            }
            (Seen::Inline(_, meta) | Seen::Large(_, meta), Visit::Keys(visit)) => {
                walked.told = walked.told.max(meta.stamp);
                visit(key, &meta);
                walked.add(key, 0);
            }
            (Seen::Deleted(stamp), _) => walked.told = walked.told.max(stamp),
            (Seen::Nothing, _) => {}
        }
        return Ok(());
    }
}
