//! Looking ahead: the leaves of keys that commands still to come will ask for are found together,
//! and what a search on them touches is brought into the processor's caches.
//!
//! A leaf that was not touched for a while lies in no cache, and a search of it goes from one miss
//! to the next: page table, descriptor, latch, header, slots, cell. For one key they cannot
//! overlap, since each tells where the next is; for sixteen keys all of one kind can (group
//! prefetching: Chen, Ailamaki, Gibbons and Mowry, 2004).
//!
//! What is remembered of a key is the leaf it was on. A later search begins there instead of at
//! the root: as in any descent the key has moved to the right since, if at all (T1), and a leaf
//! taken out says so (T6).
//!
//! Invariant: a leaf is remembered no longer than the epoch lasts in which it was found, so its
//! block cannot have been handed out again.

use super::Tree;
use rd_base::{BlockNo, FileNo, Lsn};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::page::{self, PageKind, flags};
use rd_format::{NodeRef, PageBytes};
use rd_sys::prefetch::prefetch_byte;
use std::cell::Cell;
use std::ops::Range;

/// How many keys are looked up ahead at most.
pub(crate) const KEYS_AHEAD_MAX: usize = 16;
/// Longer keys are not remembered.
const KEY_BYTES_AHEAD_MAX: usize = 256;
/// What of a leaf is fetched before it is searched: its header and about as many slots as a leaf
/// of hundred-byte values has.
const LEAF_BYTES_AHEAD: usize = 512;
/// A tree is not higher; whoever follows more links than this meets splits all the time.
const STEPS_MAX: usize = 16;

/// A key and the leaf on which it was seen.
struct Hint {
    key: Range<usize>,
    block: BlockNo,
}

/// The leaves of the keys that will be asked for next.
pub(crate) struct Ahead {
    file: FileNo,
    /// The keys, one after the other.
    keys: Vec<u8>,
    hints: Vec<Hint>,
    /// The hint to be asked for next, probably. Beyond the last: none is left.
    next: Cell<usize>,
}

impl Ahead {
    pub(crate) fn new() -> Ahead {
        Ahead {
            file: FileNo::new(0),
            keys: Vec::new(),
            hints: Vec::new(),
            next: Cell::new(0),
        }
    }

    /// Forgets everything: an epoch has ended, or nothing of it will be asked for.
    #[inline]
    pub(crate) fn forget(&self) {
        self.next.set(usize::MAX);
    }

    /// The leaf of `file` on which `key` was seen in this epoch. Keys are to be asked for in the
    /// order in which they were looked up; those that are passed over are forgotten.
    #[inline]
    pub(crate) fn leaf_of(&self, file: FileNo, key: &[u8]) -> Option<BlockNo> {
        let left = self.hints.get(self.next.get()..)?;
        if file != self.file {
            return None;
        }
        let at = left
            .iter()
            .position(|hint| self.keys.get(hint.key.clone()) == Some(key))?;
        self.next.set(self.next.get() + at + 1);
        Some(left[at].block)
    }

    /// Looks up `keys`, of which the first few count.
    pub(crate) fn look<'k>(&mut self, tree: Tree<'_>, keys: impl Iterator<Item = &'k [u8]>) {
        self.file = tree.file;
        self.keys.clear();
        self.hints.clear();
        self.next.set(0);
        let pool = &tree.store.shared.pool;
        for key in keys.take(KEYS_AHEAD_MAX) {
            if key.len() > KEY_BYTES_AHEAD_MAX {
                continue;
            }
            let Some(block) = leaf_above(tree, key) else {
                continue;
            };
            pool.prefetch_place(tree.tag(block));
            let from = self.keys.len();
            self.keys.extend_from_slice(key);
            self.hints.push(Hint {
                key: from..self.keys.len(),
                block,
            });
        }
        for hint in &self.hints {
            pool.prefetch_page(tree.tag(hint.block), LEAF_BYTES_AHEAD);
        }
        for hint in &self.hints {
            let key = &self.keys[hint.key.clone()];
            pool.glance(tree.tag(hint.block), |page| {
                for place in NodeRef::new(page).places_ahead(key) {
                    prefetch_byte(page, place);
                }
            });
        }
    }
}

/// The leaf to which the inner pages lead, as far as they are in memory and nobody is changing
/// them: a look ahead waits for nothing. `None` as well if there are no inner pages.
fn leaf_above(tree: Tree<'_>, key: &[u8]) -> Option<BlockNo> {
    let pool = &tree.store.shared.pool;
    let mut block = ROOT_BLOCK;
    for _ in 0..STEPS_MAX {
        let (next, is_leaf) = pool.glance(tree.tag(block), |page| below(page, key))??;
        if is_leaf {
            return Some(next);
        }
        block = next;
    }
    None
}

/// Where an inner page leads to, and whether that is a leaf.
fn below(page: &PageBytes, key: &[u8]) -> Option<(BlockNo, bool)> {
    let header = page::header(page);
    if header.kind != PageKind::Inner as u8 || header.flags.get() & flags::GONE != 0 {
        return None;
    }
    let node = NodeRef::new(page);
    if !node.covers(key, Lsn::MAX) {
        return Some((node.right_link()?, false));
    }
    let (_, child) = node.child_for(key, Lsn::MAX);
    Some((child, header.level == 1))
}
