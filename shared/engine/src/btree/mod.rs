//! B-link trees (Lehman and Yao): one per relation file, root at block 2 for ever.
//!
//! Rules, cited in the code by their numbers:
//! - **T1** A descent holds one latch at a time, shared on inner pages. What it was told by a page
//!   may be outdated when it gets to the next: if the key is not below that page's high key, it
//!   goes to the right sibling.
//! - **T2** Latches are taken in this order: leaves left to right, then parents (upward, on each
//!   level left to right), bitmap pages last (upward in the file). A page that was just allocated
//!   is nobody else's and may be latched at any time.
//! - **T3** A split is one record: the right page whole, the left one cut (whole too where a leaf is
//!   cut between two versions of a key), the bit. It leaves the mark SPLIT_INCOMPLETE on the left
//!   page until the parent knows the right one ([`parent`]). A page that is split while it has the
//!   mark hands a mark on to its right half.
//! - **T4** The root never moves. When it is full, its content goes to two new pages and it becomes
//!   their parent, in one record.
//! - **T5** The newest version of a key lies on the leaf that covers (key, `Lsn::MAX`), where the
//!   next one will go. Older ones may lie on pages to the right of it.
//! - **T6** A leaf taken out of its tree has the mark GONE, and is not handed out before every
//!   descent begun earlier has ended. Whoever meets the mark begins anew at the root.
//! - **T7** Nothing is read from disk under a latch, except by whoever finds that a page he had
//!   seen in memory was evicted in between.

pub(crate) mod ahead;
pub(crate) mod alloc;
pub(crate) mod backward;
pub(crate) mod course;
pub(crate) mod insert;
pub(crate) mod merge;
pub(crate) mod parent;
pub(crate) mod plan;
pub(crate) mod random;
pub(crate) mod room;
pub(crate) mod scan;
pub(crate) mod search;
pub(crate) mod sweep;

use crate::error::{EngineError, Result};
use rd_base::{BlockNo, FileNo, PageTag};
use rd_store::Store;
use rd_store::buffer::Pin;

/// A tree: its relation file, and the process that works on it.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'s> {
    pub(crate) store: &'s Store,
    pub(crate) file: FileNo,
}

impl<'s> Tree<'s> {
    /// The page at `block`.
    pub(crate) fn tag(&self, block: BlockNo) -> PageTag {
        PageTag::new(self.file, block)
    }

    /// Pins the page at `block`, reading it if it is not in memory.
    #[inline]
    pub(crate) fn fetch(&self, block: BlockNo) -> Result<Pin<'s>> {
        let pool = &self.store.shared.pool;
        Ok(pool.fetch(self.store, self.tag(block))?)
    }

    /// Pins a frame for the page at `block`, which is about to be made anew.
    pub(crate) fn fetch_new(&self, block: BlockNo) -> Pin<'s> {
        self.store
            .shared
            .pool
            .fetch_new(self.store, self.tag(block))
    }

    /// The error for pages that contradict each other.
    pub(crate) fn broken(&self, block: BlockNo, what: impl Into<String>) -> EngineError {
        EngineError::Tree {
            tag: self.tag(block),
            what: what.into(),
        }
    }
}
