//! Checking a whole relation file: every page, every link, every bit.
//!
//! What is checked:
//! - each page by itself, and that its stamps are not above its page LSN;
//! - each level: pages follow each other by right links, entries ascend across pages, each page
//!   holds only what lies between its left neighbour's high key and its own;
//! - between levels: the parent names exactly the pages of the level below, with their bounds, but
//!   for those that a split has made and not told it yet (its left neighbour has the mark);
//! - large values: every chain is whole, and no page is in two;
//! - free space: a block is in use exactly if its bit says so.
//!
//! Nobody may write meanwhile. The pages come from where [`Pages`] says: shared buffers, in a test
//! or a standalone server; or the files themselves, in a tool.

use crate::overflow as values;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::bitmap::{self, BITMAP_BITS, FIRST_BITMAP_BLOCK, META_BLOCK, ROOT_BLOCK};
use rd_format::node::entry_order;
use rd_format::page::{self, PageBytes, PageKind, flags};
use rd_format::{NodeRef, OverflowStub, OwnedBound, Payload, overflow};
use rd_store::Store;
use rd_store::relation::RelationFiles;
use std::cmp::Ordering;

/// Problems that are listed; more are counted.
const PROBLEMS_MAX: usize = 100;

/// Where the pages of a relation file come from.
pub trait Pages {
    /// Copies the page at `block`.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    fn page(&self, block: BlockNo) -> Result<Box<PageBytes>, String>;

    /// Blocks of the file.
    fn blocks(&self) -> u32;
}

/// The pages of a file as a running server has them.
pub struct LivePages<'a> {
    /// The server.
    pub store: &'a Store,
    /// The file.
    pub file: FileNo,
}

impl Pages for LivePages<'_> {
    fn page(&self, block: BlockNo) -> Result<Box<PageBytes>, String> {
        let tag = PageTag::new(self.file, block);
        let pin = self
            .store
            .shared
            .pool
            .fetch(self.store, tag)
            .map_err(|e| e.to_string())?;
        let page = pin.read();
        Ok(Box::new(*page))
    }

    fn blocks(&self) -> u32 {
        self.store.shared.files.blocks(self.file)
    }
}

/// The pages of a file as they lie on disk.
pub struct FilePages<'a> {
    /// The files.
    pub relations: &'a RelationFiles,
    /// The file.
    pub file: FileNo,
    /// How many blocks it has.
    pub blocks: u32,
}

impl Pages for FilePages<'_> {
    fn page(&self, block: BlockNo) -> Result<Box<PageBytes>, String> {
        let mut page = Box::new([0; PAGE_BYTES]);
        let tag = PageTag::new(self.file, block);
        self.relations
            .read_page(tag, &mut page)
            .map_err(|error| error.to_string())?;
        Ok(page)
    }

    fn blocks(&self) -> u32 {
        self.blocks
    }
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys whose newest version is a value.
    pub keys: u64,
    /// Versions, tombstones included.
    pub versions: u64,
    /// Levels of the tree, leaves included.
    pub levels: u32,
    /// Leaves.
    pub leaves: u64,
    /// Bytes of all leaves that entries could still take.
    pub leaf_bytes_free: u64,
    /// Leaves without an entry.
    pub empty_leaves: u64,
    /// Inner pages.
    pub inner_pages: u64,
    /// Overflow pages.
    pub overflow_pages: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Splits that the parent does not know yet: no problem.
    pub unfinished_splits: u64,
    /// What is wrong; at most a hundred.
    pub problems: Vec<String>,
    /// Problems beyond those.
    pub problems_more: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// How full the leaves are, in percent.
    pub fn leaf_fill_percent(&self) -> f64 {
        let bytes = self.leaves * PAGE_BYTES as u64;
        100.0 * (bytes - self.leaf_bytes_free) as f64 / bytes.max(1) as f64
    }

    /// Versions, tombstones included, by key that has a value.
    pub fn versions_per_key(&self) -> f64 {
        self.versions as f64 / self.keys.max(1) as f64
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        } else {
            self.problems_more += 1;
        }
    }
}

struct Check<'a> {
    pages: &'a dyn Pages,
    report: Report,
    /// By block: whether something was found there.
    found: Vec<bool>,
    /// The entry before the one under the hand, on the leaf level.
    last: Option<(Vec<u8>, Lsn)>,
}

/// A child as its parent names it.
struct Child {
    bound: Option<OwnedBound>,
    block: BlockNo,
}

/// Checks the relation file whose pages `pages` gives.
pub fn verify(pages: &dyn Pages) -> Report {
    let blocks = pages.blocks() as usize;
    let mut check = Check {
        pages,
        report: Report::default(),
        found: vec![false; blocks],
        last: None,
    };
    check.take(META_BLOCK, "the meta page");
    if let Some(page) = check.get(META_BLOCK)
        && page::kind(&page) != Some(PageKind::Meta)
    {
        check.report.problem("block 0 is no meta page".into());
    }
    check.tree();
    check.bitmaps();
    check.report
}

impl Check<'_> {
    fn get(&mut self, block: BlockNo) -> Option<Box<PageBytes>> {
        match self.pages.page(block) {
            Ok(page) => Some(page),
            Err(error) => {
                self.report.problem(error);
                None
            }
        }
    }

    /// Notes that `block` is used; false if it cannot be.
    fn take(&mut self, block: BlockNo, what: &str) -> bool {
        match self.found.get_mut(block.get() as usize) {
            None => {
                self.report.problem(format!(
                    "{what} lies at block {block}, behind the file's end"
                ));
                false
            }
            Some(found) if *found => {
                self.report
                    .problem(format!("block {block} is used twice, here as {what}"));
                false
            }
            Some(found) => {
                *found = true;
                true
            }
        }
    }

    fn tree(&mut self) {
        let Some(root) = self.get(ROOT_BLOCK) else {
            return;
        };
        let mut level = NodeRef::new(&root).level();
        self.report.levels = u32::from(level) + 1;
        if page::page_flags(&root) & flags::ROOT == 0 {
            self.report
                .problem("the root has no mark that it is".into());
        }
        let mut children = vec![Child {
            bound: None,
            block: ROOT_BLOCK,
        }];
        loop {
            let Some(below) = self.level(level, children) else {
                return;
            };
            if level == 0 {
                return;
            }
            children = below;
            level -= 1;
        }
    }

    /// Walks a level, of which the parents know `known`; gives the children of its pages.
    fn level(&mut self, level: u8, known: Vec<Child>) -> Option<Vec<Child>> {
        let mut below = Vec::new();
        let mut known = known.into_iter();
        let mut block = known.next()?.block;
        let mut low: Option<OwnedBound> = None;
        loop {
            if !self.take(block, "a page of the tree") {
                return None;
            }
            let page = self.get(block)?;
            if !self.node(block, &page, level, low.as_ref(), &mut below) {
                return None;
            }
            let node = NodeRef::new(&page);
            let (high, right) = (
                node.high_key().map(|high| high.to_owned()),
                node.right_link(),
            );
            let (Some(high), Some(right)) = (high, right) else {
                if node.high_key().is_some() || node.right_link().is_some() {
                    let what = "has a high key without a right link, or the other way round";
                    self.report.problem(format!("block {block} {what}"));
                }
                for child in known {
                    let what = "is named by its parent, and not on its level";
                    self.report.problem(format!("block {} {what}", child.block));
                }
                return Some(below);
            };
            if node.flags() & flags::SPLIT_INCOMPLETE != 0 {
                self.report.unfinished_splits += 1;
            } else {
                let next = known.next();
                let named = next.is_some_and(|child| {
                    child.block == right && child.bound.as_ref() == Some(&high)
                });
                if !named {
                    let what = format!("level {level}: block {right} follows block {block}");
                    self.report
                        .problem(format!("{what}, and the parent says otherwise"));
                    return None;
                }
            }
            low = Some(high);
            block = right;
        }
    }

    /// Checks one page of the tree; false if it is of no use.
    fn node(
        &mut self,
        block: BlockNo,
        page: &PageBytes,
        level: u8,
        low: Option<&OwnedBound>,
        below: &mut Vec<Child>,
    ) -> bool {
        let node = NodeRef::new(page);
        let kind = if level == 0 {
            PageKind::Leaf
        } else {
            PageKind::Inner
        };
        if page::kind(page) != Some(kind) || node.level() != level {
            self.report
                .problem(format!("block {block} is no page of level {level}"));
            return false;
        }
        if let Err(error) = node.verify() {
            self.report.problem(format!("block {block}: {error}"));
            return false;
        }
        let marks = node.flags();
        if marks & flags::GONE != 0 || (marks & flags::ROOT != 0) != (block == ROOT_BLOCK) {
            self.report
                .problem(format!("block {block} has marks {marks:04X}"));
        }
        if level == 0 {
            self.leaf(block, page, low);
            return true;
        }
        self.report.inner_pages += 1;
        for slot in 0..node.count() {
            let (bound, child) = node.inner_entry(slot);
            let bound = if slot == 0 {
                low.cloned()
            } else {
                Some(bound.to_owned())
            };
            let above_low = |bound: &OwnedBound| {
                low.is_none_or(|low| !low.as_bound().is_above(&bound.key, bound.stamp))
            };
            if !bound.as_ref().is_none_or(above_low) {
                self.report
                    .problem(format!("block {block} slot {slot} lies below the page"));
            }
            below.push(Child {
                bound,
                block: child,
            });
        }
        true
    }

    fn leaf(&mut self, block: BlockNo, page: &PageBytes, low: Option<&OwnedBound>) {
        let node = NodeRef::new(page);
        self.report.leaves += 1;
        self.report.leaf_bytes_free += node.free_bytes_after_compact() as u64;
        self.report.empty_leaves += u64::from(node.count() == 0);
        for slot in 0..node.count() {
            let entry = node.leaf_entry(slot);
            self.report.versions += 1;
            if low.is_some_and(|low| low.as_bound().is_above(entry.key, entry.stamp)) {
                self.report
                    .problem(format!("block {block} slot {slot} lies below the page"));
            }
            if entry.stamp == Lsn::ZERO || entry.stamp > page::page_lsn(page) {
                let what = format!("is stamped {}, above its page's LSN", entry.stamp);
                self.report
                    .problem(format!("block {block} slot {slot} {what}"));
            }
            let newest = self.last.as_ref().is_none_or(|(key, _)| key != entry.key);
            self.report.keys += u64::from(newest && !entry.is_tombstone());
            if let Some((key, stamp)) = &self.last
                && entry_order(key, *stamp, entry.key, entry.stamp) != Ordering::Less
            {
                self.report
                    .problem(format!("block {block} slot {slot} is out of order"));
            }
            self.last = Some((entry.key.to_vec(), entry.stamp));
            if let Payload::Overflow(stub) = entry.payload {
                self.chain(block, slot, &stub);
            }
        }
    }

    /// Checks the pages of a large value.
    fn chain(&mut self, leaf: BlockNo, slot: usize, stub: &OverflowStub) {
        // No room for what is only announced: the pieces are counted as they come.
        let mut value = Vec::new();
        let mut next = Some(stub.first);
        for sequence in 0..stub.pages {
            let Some(block) = next else {
                break;
            };
            if !self.take(block, "a piece of a value") {
                return;
            }
            let Some(page) = self.get(block) else {
                return;
            };
            let right_kind = page::kind(&page) == Some(PageKind::Overflow);
            if !right_kind || overflow::sequence(&page) != sequence {
                let what = format!("is not piece {sequence} of the value");
                self.report
                    .problem(format!("block {block} {what} in block {leaf} slot {slot}"));
                return;
            }
            self.report.overflow_pages += 1;
            value.extend_from_slice(overflow::data(&page));
            next = overflow::next(&page);
        }
        if next.is_some() || !values::is_whole(stub, &value) {
            let what = "is not what was written";
            self.report
                .problem(format!("the value in block {leaf} slot {slot} {what}"));
        }
    }

    /// Holds the bits against what was found.
    fn bitmaps(&mut self) {
        let mut at = Some(FIRST_BITMAP_BLOCK);
        let mut bitmaps = Vec::new();
        while let Some(block) = at {
            if !self.take(block, "a bitmap page") {
                return;
            }
            let Some(page) = self.get(block) else {
                return;
            };
            if page::kind(&page) != Some(PageKind::Bitmap) || !bitmap::is_bitmap_block(block) {
                self.report
                    .problem(format!("block {block} is no bitmap page"));
                return;
            }
            at = page::right_link(&page);
            bitmaps.push((block, page));
        }
        for (block, page) in &bitmaps {
            for bit in 0..BITMAP_BITS {
                let Some(speaks_of) = bitmap::block_of(*block, bit) else {
                    break;
                };
                let found = self.found.get(speaks_of.get() as usize).copied();
                if found.is_none() && !bitmap::is_any_set_from(page, bit) {
                    break;
                }
                match (found, bitmap::is_set(page, bit)) {
                    (Some(true), true) | (None, false) => {}
                    (Some(false), false) => self.report.free_blocks += 1,
                    (Some(true), false) => {
                        self.report
                            .problem(format!("block {speaks_of} is used, and said to be free"));
                    }
                    (Some(false), true) => {
                        self.report
                            .problem(format!("block {speaks_of} is lost: nothing uses it"));
                    }
                    (None, true) => {
                        let what = "is said to be used, behind the file's end";
                        self.report.problem(format!("block {speaks_of} {what}"));
                    }
                }
            }
        }
        let covered = bitmaps.len() * BITMAP_BITS as usize;
        let beyond = self
            .found
            .iter()
            .skip(covered)
            .filter(|found| **found)
            .count();
        if beyond > 0 {
            self.report
                .problem(format!("{beyond} blocks are used that no bitmap speaks of"));
        }
    }
}
