//! Walking a tree's leaves in key order, at a snapshot, a chunk at a time.
//!
//! A walk holds one leaf at a time. Between chunks it holds nothing but its snapshot and its place:
//! a key and a stamp, at or behind which the next entry lies. So it does not matter what becomes of
//! the page it was on.

use super::Tree;
use crate::error::Result;
use crate::overflow;
use crate::txn::visible::{Meta, Seen, seen};
use rd_base::{BlockNo, Lsn};
use rd_format::page::PageBytes;
use rd_format::{Bound, NodeRef, OverflowStub};
use rd_store::buffer::PinnedRead;
use rd_sys::prefetch::{LINE_BYTES, prefetch_byte};

/// Where a walk is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The next entry is at or behind (key, stamp).
    pub(crate) key: Vec<u8>,
    pub(crate) stamp: Lsn,
    /// It ends before this key; `None` at the last.
    pub(crate) end: Option<Vec<u8>>,
    /// Nothing is left.
    pub(crate) done: bool,
}

/// Leaves looked at in a chunk, at most: where many keys are deleted, or newer than the snapshot,
/// there is little to show, and the process has others to serve.
pub(crate) const LEAVES_PER_CHUNK_MAX: u32 = 32;

/// Cells that are fetched into the caches before they are looked at, and lines of each.
const CELLS_AHEAD: usize = 6;
const LINES_AHEAD: usize = 3;

/// How much of a walk to do at once. It may be less: a chunk also ends after a number of leaves,
/// whatever they have shown.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// At most so many entries.
    pub entries: u64,
    /// No further entry once so many bytes of keys and values were visited.
    pub bytes: usize,
}

/// What a walk shows of each entry, and to whom.
pub(crate) enum Visit<'v> {
    /// Key and value.
    Values(&'v mut dyn FnMut(&[u8], &[u8])),
    /// The key, and what is known of its value; large ones are not read.
    Keys(&'v mut dyn FnMut(&[u8], &Meta)),
}

/// At what a walk looks.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) lsn: Lsn,
    pub(crate) now_ms: u64,
}

/// What a chunk has shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walked {
    pub(crate) entries: u64,
    pub(crate) bytes: usize,
    /// The greatest stamp among the versions that were shown, or that hide a key.
    pub(crate) told: Lsn,
}

/// Why a page was left.
enum Left {
    /// Its end was reached; the walk goes on at this block. The place has the key of the end; this
    /// is its stamp.
    ToRight(BlockNo, Lsn),
    /// A large value comes next.
    AtLarge(OverflowStub),
    /// The chunk is full, or nothing is left.
    Stopped,
}

/// Visits the next entries. `place` moves on; on an error it stands before the entry that could not
/// be read.
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
    let mut large = Vec::new();
    let mut right: Option<(BlockNo, Lsn)> = None;
    let mut leaves = 0;
    while !place.done && !walked.fills(chunk) && leaves < LEAVES_PER_CHUNK_MAX {
        let leaf = match right.take() {
            Some((block, end)) => {
                let leaf = tree.fetch(block)?.into_read();
                let end = Bound {
                    key: &place.key,
                    stamp: end,
                };
                if !tree.goes_on_at(end, &leaf, block)? {
                    continue;
                }
                leaf
            }
            None => tree.leaf_for_read(&place.key, place.stamp)?,
        };
        leaves += 1;
        match walk_leaf(&leaf, place, at, chunk, &mut walked, visit) {
            Left::ToRight(block, end) => right = Some((block, end)),
            Left::Stopped => {}
            Left::AtLarge(stub) => {
                drop(leaf);
                large.clear();
                overflow::read(tree, &stub, &mut large)?;
                if let Visit::Values(visit) = visit {
                    visit(&place.key, &large);
                }
                walked.add(&place.key, large.len());
                place.stamp = Lsn::ZERO;
            }
        }
    }
    Ok(walked)
}

impl Walked {
    pub(crate) fn add(&mut self, key: &[u8], value_bytes: usize) {
        self.entries += 1;
        self.bytes += key.len() + value_bytes;
    }

    pub(crate) fn fills(&self, chunk: Chunk) -> bool {
        self.entries >= chunk.entries || self.bytes >= chunk.bytes
    }
}

fn walk_leaf(
    leaf: &PinnedRead<'_>,
    place: &mut Place,
    at: At,
    chunk: Chunk,
    walked: &mut Walked,
    visit: &mut Visit<'_>,
) -> Left {
    let node = NodeRef::new(leaf);
    // The key that was shown, or found deleted, last: its older versions are passed by.
    let mut decided: Option<&[u8]> = None;
    let mut slot = node.lower_bound(&place.key, place.stamp);
    (slot..slot + CELLS_AHEAD).for_each(|slot| prefetch_cell(leaf, &node, slot));
    while slot < node.count() {
        prefetch_cell(leaf, &node, slot + CELLS_AHEAD);
        let entry = node.leaf_entry(slot);
        slot += 1;
        if decided == Some(entry.key) {
            continue;
        }
        if place.end.as_ref().is_some_and(|end| entry.key >= &end[..]) {
            place.done = true;
            return Left::Stopped;
        }
        if entry.stamp > at.lsn {
            continue;
        }
        if walked.fills(chunk) {
            place.move_to(entry.key, Lsn::MAX);
            return Left::Stopped;
        }
        walked.told = walked.told.max(entry.stamp);
        match (seen(&entry, || at.now_ms), &mut *visit) {
            (Seen::Inline(value, _), Visit::Values(visit)) => {
                visit(entry.key, value);
                walked.add(entry.key, value.len());
            }
            (Seen::Large(stub, _), Visit::Values(_)) => {
                place.move_to(entry.key, entry.stamp);
                return Left::AtLarge(stub);
            }
            (Seen::Inline(_, meta) | Seen::Large(_, meta), Visit::Keys(visit)) => {
                visit(entry.key, &meta);
                walked.add(entry.key, 0);
            }
            (Seen::Deleted(_) | Seen::Nothing | Seen::Beyond, _) => {}
        }
        decided = Some(entry.key);
    }
    let (Some(high), Some(block)) = (node.high_key(), node.right_link()) else {
        place.done = true;
        return Left::Stopped;
    };
    match decided {
        Some(key) if key == high.key => place.move_to(key, Lsn::ZERO),
        // The place may be behind the high key already, if its key was decided on a page before.
        _ if high.is_above(&place.key, place.stamp) => place.move_to(high.key, high.stamp),
        _ => {}
    }
    Left::ToRight(block, high.stamp)
}

/// Cells lie on a page as they came, not in the order of their keys.
#[inline]
fn prefetch_cell(leaf: &PageBytes, node: &NodeRef<'_>, slot: usize) {
    let begin = node.offset(slot);
    for line in 0..LINES_AHEAD {
        prefetch_byte(leaf, begin + line * LINE_BYTES);
    }
}

impl Place {
    fn move_to(&mut self, key: &[u8], stamp: Lsn) {
        if self.key != key {
            self.key.clear();
            self.key.extend_from_slice(key);
        }
        self.stamp = stamp;
    }
}
