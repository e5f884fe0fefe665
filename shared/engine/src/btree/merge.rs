//! Tidying up around a key: giving back the overflow pages of versions that nobody can ask for, and
//! leaves on which nothing is left.
//!
//! # Taking out a leaf
//!
//! Two neighbours under one parent, of which one is empty, become one: the left one takes the
//! content, high key and right link of the right one, the parent loses the right one's entry, and
//! the right one gets the mark GONE. One record says all of it.
//!
//! 1. The pair is found in the parent, without holding it.
//! 2. Left, right and parent are latched in this order (T2) and looked at again: the parent must
//!    know both, side by side, and no split may be unfinished.
//! 3. The right one's block is put to rest: free in the bitmap by the record, but not handed out
//!    before every descent begun earlier has ended (T6).
//!
//! Inner pages stay: a tree that has shrunk keeps one leaf for each of them.

use super::Tree;
use super::alloc::Blocks;
use super::insert::prune;
use crate::change::{CriticalChange, credit_of};
use crate::error::Result;
use crate::overflow;
use crate::work::{Obstacles, Work};
use rd_base::counters::Counter;
use rd_base::{BlockNo, Lsn};
use rd_format::page::{self, PageBytes, PageKind, flags};
use rd_format::wal_record::{PageOp, RecordKind};
use rd_format::{Bound, NodeMut, NodeRef, OverflowStub, OwnedBound, Payload};
use rd_store::Points;
use rd_store::buffer::PinnedWrite;

/// A version to be dropped by a record.
struct Needless {
    key: Vec<u8>,
    stamp: Lsn,
    stub: Option<OverflowStub>,
}

/// Drops what nobody can ask for around `key`, and takes its leaf out if nothing is left on it.
/// Returns what is in the way of the rest; it is to be called again when that is gone.
///
/// # Errors
/// When a page cannot be read, or there is no credit; what was done until then stands.
pub(crate) fn tidy(tree: Tree<'_>, work: &mut Work, key: &[u8]) -> Result<Obstacles> {
    work.collect_points(tree.store);
    let mut found = Found::default();
    let mut beyond = Vec::new();
    let mut leaf = prune_leaf(tree, work, key, Lsn::MAX)?;
    while let Some(next) = look(&NodeRef::new(&leaf), &work.points, key, &mut found) {
        drop(leaf);
        beyond.push(next);
        leaf = prune_leaf(tree, work, key, next)?;
    }
    drop(leaf);
    for version in &found.needless {
        free_version(tree, work, version)?;
    }
    // From the right, so that a leaf that takes over another one's place is looked at again.
    for stamp in beyond.iter().rev() {
        take_out(tree, work, key, *stamp)?;
    }
    // What was freed may have been all that a tombstone hides.
    if !beyond.is_empty() {
        drop_lone_tombstone(tree, work, key)?;
    }
    let leaf = prune_leaf(tree, work, key, Lsn::MAX)?;
    let node = NodeRef::new(&leaf);
    note_obstacles(&node, &work.points, &mut found.later);
    let empty = node.count() == 0;
    drop(leaf);
    if empty {
        take_out(tree, work, key, Lsn::MAX)?;
    }
    Ok(found.later)
}

/// Latches the leaf of (key, stamp), and drops what can go without a record.
fn prune_leaf<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    key: &[u8],
    stamp: Lsn,
) -> Result<PinnedWrite<'s>> {
    let mut leaf = tree.page_for_write(key, stamp, 0, &mut work.marks)?;
    let dropped = prune(&mut leaf, &work.points);
    tree.store.add(Counter::VersionsPruned, dropped as u64);
    Ok(leaf)
}

/// For what stands on a pruned leaf only because somebody may still ask for it: notes why.
fn note_obstacles(node: &NodeRef<'_>, points: &Points, later: &mut Obstacles) {
    let mut before: Option<(&[u8], Lsn)> = None;
    for slot in 0..node.count() {
        let entry = node.leaf_entry(slot);
        let newer = before.replace((entry.key, entry.stamp));
        let obstacle = match newer.filter(|(key, _)| *key == entry.key) {
            Some((_, newer)) => points.obstacle(entry.stamp, newer),
            // A tombstone goes when nobody can ask for what was before it.
            None if entry.is_tombstone() => points.obstacle(Lsn::ZERO, entry.stamp),
            None => None,
        };
        obstacle
            .into_iter()
            .for_each(|obstacle| later.add(obstacle));
    }
}

/// What was found on the leaves of a key's versions.
#[derive(Default)]
struct Found {
    /// To be dropped by records.
    needless: Vec<Needless>,
    /// What others wait for.
    later: Obstacles,
    /// The stamp of the version of the key that was seen last.
    newer: Option<Lsn>,
}

/// Lists what is to be dropped from a leaf, which was pruned, by a record. Returns the stamp from
/// which on the versions of `key` go on to the right.
fn look(node: &NodeRef<'_>, points: &Points, key: &[u8], found: &mut Found) -> Option<Lsn> {
    let mut before: Option<(&[u8], Lsn)> = None;
    for slot in 0..node.count() {
        let entry = node.leaf_entry(slot);
        let on_page = before
            .filter(|(key, _)| *key == entry.key)
            .map(|(_, stamp)| stamp);
        let newer_stamp = if entry.key == key {
            // Since the page before was looked at, the two may have been joined, and newer versions have
            // come: then this one is not what follows the one seen last.
            on_page.or(found.newer.filter(|newer| *newer > entry.stamp))
        } else {
            on_page
        };
        // Pruning has dropped the others; but not the first on its page, whose newer one it cannot
        // see.
        let logged = entry.owns_overflow() || (on_page.is_none() && newer_stamp.is_some());
        if let Some(newer) = newer_stamp.filter(|_| logged) {
            match points.obstacle(entry.stamp, newer) {
                Some(obstacle) => found.later.add(obstacle),
                None => found.needless.push(Needless {
                    key: entry.key.to_vec(),
                    stamp: entry.stamp,
                    stub: match entry.payload {
                        Payload::Overflow(stub) => Some(stub),
                        _ => None,
                    },
                }),
            }
        }
        if entry.key == key {
            found.newer = Some(entry.stamp);
        }
        before = Some((entry.key, entry.stamp));
    }
    goes_on_from(node, key)
}

/// Drops the tombstone that is all there is of `key`, by a record, where pruning cannot tell: its
/// leaf ends where older versions were cut off.
fn drop_lone_tombstone(tree: Tree<'_>, work: &mut Work, key: &[u8]) -> Result<()> {
    let leaf = tree.leaf_for_read(key, Lsn::MAX)?;
    let node = NodeRef::new(&leaf);
    let (versions, mut beyond) = (node.versions_of(key), goes_on_from(&node, key));
    if versions.len() != 1 || beyond.is_none() {
        return Ok(());
    }
    let entry = node.leaf_entry(versions.start);
    if !entry.is_tombstone() || entry.stamp > work.points.horizon() {
        return Ok(());
    }
    let stamp = entry.stamp;
    drop(leaf);
    // Nothing older than it comes into being any more, wherever it and its like are moved meanwhile.
    while let Some(from) = beyond {
        let leaf = tree.leaf_for_read(key, from)?;
        let node = NodeRef::new(&leaf);
        if node
            .versions_of(key)
            .any(|slot| node.key_and_stamp(slot).1 < stamp)
        {
            return Ok(());
        }
        beyond = goes_on_from(&node, key);
    }
    let version = Needless {
        key: key.to_vec(),
        stamp,
        stub: None,
    };
    free_version(tree, work, &version)
}

/// The stamp from which on versions of `key` may go on to the right of a leaf.
fn goes_on_from(node: &NodeRef<'_>, key: &[u8]) -> Option<Lsn> {
    let between = |high: &Bound<'_>| high.key == key && high.stamp != Lsn::MAX;
    node.high_key().filter(between).map(|high| high.stamp)
}

/// Drops one version and gives its blocks back, if it is still there.
fn free_version(tree: Tree<'_>, work: &mut Work, version: &Needless) -> Result<()> {
    let blocks = match &version.stub {
        None => Vec::new(),
        Some(stub) => match overflow::blocks_of(tree, stub)? {
            Some(blocks) => blocks,
            None => return Ok(()),
        },
    };
    let (key, stamp) = (&version.key[..], version.stamp);
    let mut leaf = tree.page_for_write(key, stamp, 0, &mut work.marks)?;
    let node = NodeRef::new(&leaf);
    let slot = node.lower_bound(key, stamp);
    if slot == node.count() || node.key_and_stamp(slot) != (key, stamp) {
        return Ok(());
    }
    let blocks = Blocks::to_free(tree, blocks)?;
    if !blocks.all_in_use() {
        return Err(tree.broken(leaf.tag().block, "a version owns a block that is free"));
    }
    let record = &mut work.record;
    record.start(RecordKind::FreeVersions, work.now_us);
    record.block(leaf.tag());
    record.op(&PageOp::RemoveVersion { key, stamp });
    blocks.log(record);
    let credit = credit_of(tree.store, record)?;
    let mut change = CriticalChange::begin(tree.store);
    change.mark(&leaf);
    blocks.mark(&change);
    change.insert(record, credit, |_| {});
    NodeMut::new(&mut leaf).remove(slot);
    change.stamp(&mut leaf);
    blocks.apply(&change);
    change.finish();
    tree.store.count(Counter::VersionsPruned);
    Ok(())
}

/// Two leaves side by side, as their parent names them.
struct Pair {
    left: BlockNo,
    right: BlockNo,
    /// The right one's lower bound.
    bound: OwnedBound,
}

/// Joins the leaf of (key, stamp) with its neighbours, as long as one of a pair is empty.
fn take_out(tree: Tree<'_>, work: &mut Work, key: &[u8], stamp: Lsn) -> Result<()> {
    loop {
        let mut joined = false;
        for side in [Side::Left, Side::Right] {
            if let Some(pair) = find_pair(tree, key, stamp, side)? {
                joined |= join_pair(tree, work, &pair)?;
            }
        }
        if !joined {
            return Ok(());
        }
    }
}

/// Makes one leaf of two, if one of them is empty; true if so.
fn join_pair(tree: Tree<'_>, work: &mut Work, pair: &Pair) -> Result<bool> {
    let mut left = tree.fetch(pair.left)?.into_write();
    if !is_plain_leaf(&left) || page::right_link(&left) != Some(pair.right) {
        return Ok(false);
    }
    let mut right = tree.fetch(pair.right)?.into_write();
    if !is_plain_leaf(&right) {
        return Ok(false);
    }
    prune(&mut left, &work.points);
    prune(&mut right, &work.points);
    let Some(image) = joined(work, &left, &right) else {
        return Ok(false);
    };
    let bound = pair.bound.as_bound();
    let mut parent = tree.page_for_write(bound.key, bound.stamp, 1, &mut work.marks)?;
    let node = NodeRef::new(&parent);
    let (slot, child) = node.child_for(bound.key, bound.stamp);
    let side_by_side = slot > 0
        && child == pair.right
        && node.inner_entry(slot).0 == bound
        && node.inner_entry(slot - 1).1 == pair.left;
    let shared = &tree.store.shared;
    if !side_by_side || !shared.namespaces.put_to_rest(&shared.procs, right.tag()) {
        return Ok(false);
    }
    let done = log_join(
        tree,
        work,
        &image,
        [&mut left, &mut right, &mut parent],
        pair,
        slot,
    );
    match done {
        Ok(()) => {
            shared.namespaces.count_down(&shared.procs, right.tag());
            tree.store.count(Counter::LeavesRemoved);
        }
        Err(_) => shared.namespaces.wake_up(right.tag()),
    }
    done.map(|()| true)
}

/// Which neighbour.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// The pair that the leaf of (key, stamp) makes with a neighbour under the same parent.
fn find_pair(tree: Tree<'_>, key: &[u8], stamp: Lsn, side: Side) -> Result<Option<Pair>> {
    let Some(parent) = tree.inner_for_read(key, stamp, 1)? else {
        return Ok(None);
    };
    let node = NodeRef::new(&parent);
    let (slot, _) = node.child_for(key, stamp);
    let right = match side {
        Side::Left => slot,
        Side::Right => slot + 1,
    };
    if right == 0 || right >= node.count() {
        return Ok(None);
    }
    let (bound, right_block) = node.inner_entry(right);
    let left = node.inner_entry(right - 1).1;
    Ok(Some(Pair {
        left,
        right: right_block,
        bound: bound.to_owned(),
    }))
}

/// Whether a page is a leaf, in its tree, and known to its parent with its right sibling.
fn is_plain_leaf(page: &PageBytes) -> bool {
    let marks = flags::GONE | flags::SPLIT_INCOMPLETE | flags::ROOT;
    page::kind(page) == Some(PageKind::Leaf) && page::page_flags(page) & marks == 0
}

/// What the left page will be: the content of whichever is not empty, up to the right one's end.
fn joined(work: &mut Work, left: &PageBytes, right: &PageBytes) -> Option<Box<PageBytes>> {
    let content = match (NodeRef::new(left).count(), NodeRef::new(right).count()) {
        (0, _) => right,
        (_, 0) => left,
        _ => return None,
    };
    let image = &mut work.left_image;
    image.copy_from_slice(content);
    let end = NodeRef::new(right).high_key();
    let mut node = NodeMut::new(image);
    node.set_high_key(end).ok()?;
    node.set_right_link(NodeRef::new(right).right_link());
    Some(image.clone())
}

/// The record and the change of taking out the right page.
fn log_join(
    tree: Tree<'_>,
    work: &mut Work,
    image: &PageBytes,
    [left, right, parent]: [&mut PinnedWrite<'_>; 3],
    pair: &Pair,
    slot: usize,
) -> Result<()> {
    let blocks = Blocks::to_free(tree, vec![pair.right])?;
    if !blocks.all_in_use() {
        return Err(tree.broken(pair.right, "a leaf in its tree lies in a free block"));
    }
    let record = &mut work.record;
    record.start(RecordKind::LeafGone, work.now_us);
    record.block(left.tag());
    record.image(image);
    record.block(right.tag());
    record.op(&PageOp::ChangeFlags {
        set: flags::GONE,
        clear: 0,
    });
    record.block(parent.tag());
    record.op(&PageOp::RemoveChild {
        bound: pair.bound.as_bound(),
    });
    blocks.log(record);
    let credit = credit_of(tree.store, record)?;
    let mut change = CriticalChange::begin(tree.store);
    change.mark(left);
    change.mark(right);
    change.mark(parent);
    blocks.mark(&change);
    change.insert(record, credit, |_| {});
    left.copy_from_slice(image);
    NodeMut::new(right).change_flags(flags::GONE, 0);
    NodeMut::new(parent).remove(slot);
    change.stamp(left);
    change.stamp(right);
    change.stamp(parent);
    blocks.apply(&change);
    change.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::limits::PAGE_BYTES;
    use rd_format::LeafEntry;

    const KEY: &[u8] = b"key";

    /// The stamps of what is to be dropped from a leaf with these versions of the key, when the one with
    /// `seen` was seen last.
    fn needless(stamps: &[u64], seen: Option<u64>) -> Vec<u64> {
        let mut page = [0; PAGE_BYTES];
        let mut node = NodeMut::init_leaf(&mut page);
        for stamp in stamps {
            let entry = LeafEntry {
                key: KEY,
                stamp: Lsn::new(*stamp),
                expiry_ms: None,
                payload: Payload::Inline(b"value"),
            };
            node.insert_leaf(&entry).expect("there is room");
        }
        let mut found = Found {
            newer: seen.map(Lsn::new),
            ..Found::default()
        };
        look(&NodeRef::new(&page), &Points::default(), KEY, &mut found);
        let dropped = found.needless.iter().map(|version| version.stamp.get());
        dropped.collect()
    }

    #[test]
    fn the_first_version_of_a_leaf_is_needless_if_a_newer_one_was_seen_before_it() {
        assert_eq!(needless(&[40], Some(50)), [40]);
        assert!(needless(&[40], None).is_empty(), "it is the newest");
        // The leaf that was seen before has been joined with this one, and newer versions have come.
        assert!(needless(&[70, 60, 50], Some(50)).is_empty());
        assert!(needless(&[50, 40], Some(50)).is_empty());
    }
}
